import gc
import threading
import weakref

import numpy as np
import pytest
from tomograms import DEADLINE, GatedVolume, spread

from cryomamba_core.errors import InputError, TruncatedFile
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_gui.volumes import blocks, plane_reader
from cryomamba_gui.volumes.coarse import CoarseVolume
from cryomamba_gui.volumes.planes import PlaneStore

SHAPE = (40, 48, 64)


@pytest.fixture
def volume():
    return GatedVolume(spread(SHAPE))


@pytest.fixture
def store(volume):
    store = PlaneStore(volume, fill=7.4)
    yield store
    volume.gate.set()
    store.close()


class Heard:
    """What a signal said; `wait` for the next."""

    def __init__(self, signal):
        self.said = []
        self._news = threading.Semaphore(0)
        signal.connect(self._hear)

    def _hear(self, *arguments):
        self.said.append(arguments)
        self._news.release()

    def wait(self):
        assert self._news.acquire(timeout=DEADLINE)
        return self.said[-1]


def coarse_of(volume):
    array = volume.read(volume.grid.whole)
    means = array.reshape(20, 2, 24, 2, 32, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    return CoarseVolume(fine=volume.grid, factor=2, voxels=means)


def sections_read(volume):
    return [region.start[0] for region in volume.reads if region.shape == (1, *SHAPE[1:])]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_that_is_late_is_coarse_first_and_announced_when_it_is_there(store, volume, axis):
    coarse, arrived = coarse_of(volume), Heard(store.arrived)
    store.use(coarse)
    volume.gate.clear()
    key = tuple(21 if other == axis else slice(None) for other in range(3))
    expected = coarse.voxels.repeat(2, 0).repeat(2, 1).repeat(2, 2)[key]
    np.testing.assert_array_equal(store[key], expected)
    assert store.pending
    volume.gate.set()
    assert arrived.wait() == (axis, 21)
    assert not store.pending
    np.testing.assert_array_equal(store[key], volume.read(volume.grid.whole)[key])
    assert arrived.said == [(axis, 21)]


def test_where_nothing_is_known_a_late_plane_is_grey(volume):
    whole = PlaneStore(ArrayVolume(np.zeros(SHAPE, np.int16)), fill=7.4)
    whole.close()
    np.testing.assert_array_equal(whole[3], np.full(SHAPE[1:], 7, np.int16))
    assert not whole.pending


def test_planes_that_were_passed_by_are_not_read(store, volume):
    arrived = Heard(store.arrived)
    volume.gate.clear()
    for section in (3, 13, 23, 33):
        store[section]
    volume.gate.set()
    assert arrived.wait() == (0, 33)
    store.close()
    assert sections_read(volume) == [3, 33]


def test_reading_is_given_up_between_pieces_when_something_else_is_wanted(store, volume, monkeypatch):
    monkeypatch.setattr(blocks, "PIECE_BYTES", 1)  # a section of a plane across columns, a row of one across sections
    arrived = Heard(store.arrived)
    volume.gate.clear()
    store[:, :, 5]
    assert volume.at_gate.acquire(timeout=DEADLINE)
    store[11]
    volume.gate.set()
    assert arrived.wait() == (0, 11)
    store.close()
    assert [region.shape for region in volume.reads].count((1, SHAPE[1], 32)) == 1


def test_the_next_plane_in_the_direction_of_movement_is_read_ahead(store, volume, patient):
    for section in (20, 21, 22):
        np.testing.assert_array_equal(store[section], spread(SHAPE)[section])
    while 23 not in sections_read(volume):
        assert volume.behind_gate.acquire(timeout=DEADLINE)
    for section in (22, 21):
        store[section]
    while 20 not in sections_read(volume):
        assert volume.behind_gate.acquire(timeout=DEADLINE)
    store.close()
    assert set(sections_read(volume)) <= {19, 20, 21, 22, 23}


def test_a_plane_is_read_once_however_often_it_is_asked_for(store, volume, patient):
    for _ in range(4):
        store[9]
        store[:, 9]
        store[:, :, 9]
    store.close()
    assert sections_read(volume) == [9]
    assert store.bytes_read == sum(region.size for region in volume.reads) * 4


def test_neighbouring_planes_across_columns_are_read_together(store, volume, patient):
    for column in range(16, 32):
        np.testing.assert_array_equal(store[:, :, column], spread(SHAPE)[:, :, column])
    first = [region for region in volume.reads if region.start[2] == 0]
    assert {(region.start[2], region.stop[2]) for region in first} == {(0, 32)}
    assert sum(region.size for region in first) == SHAPE[0] * SHAPE[1] * 32


def test_no_more_planes_are_kept_than_fit(store, volume, patient, monkeypatch):
    monkeypatch.setattr(plane_reader, "KEPT_BYTES", 3 * SHAPE[1] * SHAPE[2] * 4)
    for section in (0, 10, 20, 30, 0):
        store[section]
    store.close()
    assert sections_read(volume) == [0, 10, 20, 30, 0]


def test_what_cannot_be_read_is_coarse_and_said_once(store, volume, patient):
    failed, arrived = Heard(store.failed), Heard(store.arrived)
    volume.error = TruncatedFile("the file ends 10 bytes early")
    for section in (3, 13, 3):
        np.testing.assert_array_equal(store[section], np.full(SHAPE[1:], np.float32(7.4)))
        assert not store.pending
    np.testing.assert_array_equal(store[1, 2, 3], np.float32(7.4))
    (info,) = failed.wait()
    assert info.code == "input/truncated-file"
    assert store.error == info
    volume.error = None
    np.testing.assert_array_equal(store[3], spread(SHAPE)[3])
    assert store.error is None
    assert len(failed.said) == 1
    assert arrived.said == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("a reader's defect"), MemoryError()])
def test_the_thread_outlives_whatever_a_reader_raises(store, volume, patient, error):
    failed = Heard(store.failed)
    volume.error = error
    store[3]
    (info,) = failed.wait()
    assert info.hint
    volume.error = None
    np.testing.assert_array_equal(store[3], spread(SHAPE)[3])


def test_the_thread_outlives_a_listener_that_fails(store, volume, caplog):
    def fail():
        raise RuntimeError("a listener's defect")

    store.arrived.connect(fail)
    volume.gate.clear()
    store[3]
    volume.gate.set()
    store.close()
    np.testing.assert_array_equal(store[4], np.full(SHAPE[1:], np.float32(7.4)))


def test_closing_waits_for_the_thread_and_leaves_coarse_planes(store, volume):
    coarse = coarse_of(volume)
    store.use(coarse)
    volume.gate.clear()
    store[3]
    closing = threading.Thread(target=store.close)
    closing.start()
    volume.gate.set()
    closing.join(DEADLINE)
    assert not [thread for thread in threading.enumerate() if thread.name == "cryomamba-planes"]
    np.testing.assert_array_equal(store[2], coarse.voxels[1].repeat(2, 0).repeat(2, 1))
    assert not store.pending
    store.close()


def test_a_store_that_is_forgotten_keeps_no_process_alive(monkeypatch, patient):
    monkeypatch.setattr(plane_reader, "IDLE", 0.01)
    store = PlaneStore(ArrayVolume(spread(SHAPE)))
    for section in (3, 30):  # a thread that has ended is followed by another
        np.testing.assert_array_equal(store[section], spread(SHAPE)[section])
        thread = store._reader._thread
        assert not thread.daemon
        thread.join(DEADLINE)
        assert not thread.is_alive()
    forgotten = weakref.ref(store)
    del store, thread
    gc.collect()
    assert forgotten() is None


def test_a_store_is_never_taken_for_a_sequence(store, volume):
    assert np.asarray(store).shape == ()
    with pytest.raises(TypeError):
        list(store)
    with pytest.raises(TypeError):
        len(store)
    assert not hasattr(store, "__array__")
    assert volume.reads == []
    assert (store.shape, store.ndim, store.size, store.dtype) == (SHAPE, 3, np.prod(SHAPE), np.float32)


def test_more_than_fits_in_memory_is_refused(store, volume, monkeypatch):
    monkeypatch.setattr("cryomamba_gui.volumes.planes.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="not read at once") as caught:
        store[...]
    assert caught.value.hint
    assert volume.reads == []


def test_a_thread_whose_wish_is_outdated_does_not_go_on_waiting(store, volume, patient):
    store.read_now(0, 3)
    assert volume.at_gate.acquire(timeout=DEADLINE)
    volume.gate.clear()
    waiting = threading.Thread(target=lambda: store[13])
    waiting.start()
    assert volume.at_gate.acquire(timeout=DEADLINE)
    np.testing.assert_array_equal(store[3], spread(SHAPE)[3])
    waiting.join(DEADLINE / 2)
    assert not waiting.is_alive()


def test_planes_are_given_to_several_threads(patient):
    array = spread((64, 32, 32))
    store = PlaneStore(ArrayVolume(array))
    wrong = []

    def step(axis):
        for index in range(32):
            key = tuple(index if other == axis else slice(None) for other in range(3))
            plane = store[key]
            if plane.any() and not np.array_equal(plane, array[key]):  # another thread's wish may have come first
                wrong.append(key)

    threads = [threading.Thread(target=step, args=(axis,)) for axis in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    store.close()
    assert wrong == []

"""A mask on disk: taken up whole or not at all, edited in place, saved, reverted, and there after a kill."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import drawn_labels
import numpy as np
import psutil
import pytest
from drawn_labels import NAMES, ArrayVolume, some_labels

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import InputError, MissingFile, OutputExists, StorageDamaged, StorageFull, UnsupportedFile
from cryomamba_gui.masks import converting, folder_lock
from cryomamba_gui.masks import mask as mask_module
from cryomamba_gui.masks.mask import EditedMask


@pytest.fixture(params=[1, 10**9], ids=["a section a slab", "one slab"])
def slabs(request, monkeypatch):
    monkeypatch.setattr(converting, "SLAB_VOXELS", request.param)
    monkeypatch.setattr(mask_module, "SLAB_VOXELS", request.param)


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize(
    ("stored", "kept"),
    [("i1", "uint8"), ("u1", "uint8"), ("i2", "uint16"), ("u2", "uint16"), ("i4", "uint16"), ("f4", "uint16")],
)
def test_whole_numbers_of_any_type_are_taken_as_labels(tmp_path, stored, kept):
    labels = some_labels(values=100, dtype=stored)
    volume = ArrayVolume(labels)
    with EditedMask.create(tmp_path / "job", volume, NAMES) as mask:
        assert mask.array.dtype == kept
        assert type(mask.array) is np.ndarray
        assert mask.array.flags.writeable
        for taken in (mask.array, mask.original[:], mask.current[:]):
            np.testing.assert_array_equal(taken, labels)
        assert (mask.grid, mask.labels, mask.edited, mask.unsaved) == (volume.grid, NAMES, False, False)


def test_a_model_with_more_than_255_labels_has_room_for_all_of_them(tmp_path):
    from cryomamba_core.labels import name_labels

    with EditedMask.create(tmp_path, ArrayVolume(some_labels()), name_labels({300: "x"})) as mask:
        assert mask.array.dtype == np.uint16


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize(
    ("value", "dtype"), [(-1, "i1"), (-3, "i2"), (70_000, "i4"), (0.5, "f4"), (np.nan, "f4"), (1e30, "f4")]
)
def test_what_is_no_label_is_refused_and_nothing_is_left(tmp_path, value, dtype):
    labels = some_labels(dtype=dtype)
    labels[7, 3, 2] = value
    with pytest.raises(UnsupportedFile, match=r"the mask holds \S+ between sections .*, which is no label"):
        EditedMask.create(tmp_path, ArrayVolume(labels), NAMES)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingFile):
        EditedMask.reopen(tmp_path)


@pytest.mark.usefixtures("slabs")
def test_how_far_it_is_is_told_to_the_end(tmp_path):
    told = []
    EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES, lambda *at: told.append(at)).close()
    assert told == sorted(told)
    assert told[-1] == (12, 12)


def test_a_mask_that_is_there_is_not_taken_up_again(mask):
    with pytest.raises(OutputExists):
        EditedMask.create(mask.folder, ArrayVolume(some_labels()), NAMES)


def test_a_mask_of_another_shape_than_the_tomogram_is_refused(tmp_path):
    grid = ArrayVolume(some_labels((3, 4, 5))).grid
    with pytest.raises(InputError, match="the tomogram"):
        EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES, grid=grid)


def test_it_is_reopened_as_it_was_left(mask):
    mask.array[2:5] = 2
    mask.touched()
    expected = mask.array.copy()
    mask.close()
    with EditedMask.reopen(mask.folder) as again:
        np.testing.assert_array_equal(again.array, expected)
        np.testing.assert_array_equal(again.original[:], some_labels())
        assert again.record == mask.record
        assert again.edited


def test_it_keeps_what_it_was_made_from(tmp_path):
    artifact = Artifact(name="mask.mrc", media_type="application/x-mrc", size=9, sha256="ab" * 32)
    EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES, artifact=artifact).close()
    with EditedMask.reopen(tmp_path) as mask:
        assert mask.record.artifact == artifact


def test_background_of_the_original_takes_no_space_and_the_working_copy_has_all_of_its_own(tmp_path):
    labels = np.zeros((4, 512, 1024), np.uint8)
    labels[1, 100, 7] = 2
    with EditedMask.create(tmp_path, ArrayVolume(labels), NAMES) as mask:
        np.testing.assert_array_equal(mask.original[:], labels)
        assert (tmp_path / "original.raw").stat().st_blocks * 512 <= 4 * converting.BLOCK
        assert (tmp_path / "mask.raw").stat().st_blocks * 512 >= labels.nbytes


@pytest.mark.usefixtures("slabs")
def test_reverting_brings_back_what_the_job_made_in_the_array_that_is_shown(mask):
    shown = mask.array
    shown[3, 4:9] = 1
    mask.touched()
    edits, told = mask.edits, []
    mask.revert(lambda *at: told.append(at))
    np.testing.assert_array_equal(shown, some_labels())
    assert (mask.edited, mask.unsaved) == (False, False)
    assert mask.edits > edits
    assert told[-1] == (12, 12)
    mask.close()
    with EditedMask.reopen(mask.folder) as again:
        assert not again.edited


def test_a_revert_that_is_stopped_leaves_a_mask_that_is_edited(mask, monkeypatch):
    monkeypatch.setattr(mask_module, "SLAB_VOXELS", 1)
    mask.array[...] = 1
    mask.touched()

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mask.revert(stop)
    np.testing.assert_array_equal(mask.array[:4], some_labels()[:4])
    assert (mask.array[4:] == 1).all()
    assert mask.edited


def test_an_edit_is_unsaved_until_it_is_saved(mask):
    heard = []
    mask.changed.connect(lambda: heard.append(mask.edits))
    mask.array[0, 0, 0] = 2
    mask.touched()
    assert mask.unsaved
    assert heard == [1]
    mask.save()
    assert not mask.unsaved


def test_an_edit_that_is_made_while_saving_stays_unsaved(mask, monkeypatch):
    mask.touched()
    sync = os.fdatasync

    def edit_then_sync(descriptor):
        mask.touched()
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", edit_then_sync)
    mask.save()
    assert mask.unsaved


def test_saving_syncs_the_voxels(mask, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fdatasync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
    )
    mask.touched()
    mask.save()
    assert synced == [mask.folder / "mask.raw"]


def test_saving_gives_back_the_memory_of_what_was_looked_at(tmp_path):
    with EditedMask.create(tmp_path, ArrayVolume(np.ones((64, 512, 512), np.uint8)), NAMES) as mask:
        mask.array[...] = 2
        mask.touched()
        assert resident(mask) >= 64 << 18
        mask.save()
        assert resident(mask) == 0
        assert (mask.array[::7] == 2).all()


def resident(mask):
    maps = psutil.Process().memory_maps()
    return sum(each.rss for each in maps if each.path == str(mask.folder / "mask.raw"))


def test_a_pass_over_all_voxels_sees_what_was_just_painted(mask):
    mask.array[5, 6, 7] = 200
    assert mask.current[5:6][0, 6, 7] == 200
    assert mask.current[:, 6:7, 7:8][5, 0, 0] == 200


def test_a_full_disk_is_told_with_a_hint_and_nothing_is_left(tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(StorageFull, match="cannot be kept in") as refused:
        EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES)
    assert refused.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["shorter", "gone", "record", "layout"])
def test_a_damaged_mask_is_refused_with_what_to_do(mask, harm):
    mask.close()
    record = mask.folder / "mask.json"
    if harm == "shorter":
        os.truncate(mask.folder / "mask.raw", 100)
    elif harm == "gone":
        (mask.folder / "original.raw").unlink()
    elif harm == "record":
        record.write_text(record.read_text()[:-20])
    else:
        record.write_text(record.read_text().replace('"layout": 1', '"layout": 99'))
    with pytest.raises(StorageDamaged) as refused:
        EditedMask.reopen(mask.folder)
    assert "fetch the job's mask again" in refused.value.hint


def test_closing_twice_is_fine_and_the_array_stays_valid(mask):
    mask.close()
    mask.close()
    np.testing.assert_array_equal(mask.array, some_labels())


def test_the_interpreter_is_not_held_while_a_mask_is_saved(mask, monkeypatch):
    """A mapping's own flush holds it for as long as the disk takes, and the window with it."""
    turned, inside = threading.Event(), threading.Event()

    def slow(descriptor):
        inside.set()
        assert turned.wait(60)

    monkeypatch.setattr(os, "fdatasync", slow)
    mask.touched()
    saver = threading.Thread(target=mask.save)
    saver.start()
    assert inside.wait(60)
    mask.touched()
    turned.set()
    saver.join()
    assert mask.unsaved


CREATE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from drawn_labels import NAMES, ArrayVolume, some_labels
from cryomamba_gui.masks import converting, mask, record
folder, place = Path(sys.argv[1]), sys.argv[3]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
converting.SLAB_VOXELS = 1
if place == "record":
    mask.write_record = die
on_progress = lambda done, total: die() if place == str(done) else None
mask.EditedMask.create(folder, ArrayVolume(some_labels()), NAMES, on_progress)
"""

EDIT = """
import os, signal, sys
from pathlib import Path
from cryomamba_gui.masks.mask import EditedMask
mask = EditedMask.reopen(Path(sys.argv[1]))
mask.array[4, 5:9, 6] = 77
mask.touched()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("place", ["1", "12", "record"])
def test_a_killed_creation_leaves_no_mask_and_the_next_one_works_and_clears_up(tmp_path, place):
    killed(CREATE, tmp_path, Path(drawn_labels.__file__).parent, place)
    assert list(tmp_path.iterdir())
    assert not EditedMask.is_in(tmp_path)
    with pytest.raises(MissingFile):
        EditedMask.reopen(tmp_path)
    with EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES) as mask:
        np.testing.assert_array_equal(mask.array, some_labels())
        assert {path.name for path in tmp_path.iterdir()} == {"mask.raw", "original.raw", "mask.json"}


def test_a_killed_process_loses_no_edit_and_none_is_forgotten(mask):
    mask.close()
    killed(EDIT, mask.folder)
    expected = some_labels()
    expected[4, 5:9, 6] = 77
    with EditedMask.reopen(mask.folder) as again:
        np.testing.assert_array_equal(again.array, expected)
        assert again.edited


def test_the_files_of_a_creation_that_another_process_is_at_are_left_alone(tmp_path):
    other = tmp_path / f".mask.raw.{os.getppid()}.partial"
    other.touch()
    EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES).close()
    assert other.exists()


def test_what_an_earlier_process_of_this_number_left_is_cleared_up(tmp_path):
    left = tmp_path / f".mask.raw.{os.getpid()}.partial"
    left.touch()
    EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES).close()
    assert not left.exists()


class GatedVolume(ArrayVolume):
    """Is read when it is allowed; says when somebody wants to."""

    def __init__(self, array):
        super().__init__(array)
        self.wanted, self.allowed = threading.Event(), threading.Event()

    def read(self, region):
        self.wanted.set()
        assert self.allowed.wait(60)
        return super().read(region)


def test_of_two_windows_that_take_up_a_mask_one_makes_it_and_both_edit_the_same_file(tmp_path):
    slow, waited, masks = GatedVolume(some_labels()), threading.Event(), {}

    def take_up(name, volume, on_progress=None):
        masks[name] = EditedMask.create(tmp_path, volume, NAMES, on_progress)

    first = threading.Thread(target=take_up, args=("first", slow))
    first.start()
    assert slow.wanted.wait(60)
    unread = GatedVolume(some_labels())
    second = threading.Thread(target=take_up, args=("second", unread, lambda *_: waited.set()))
    second.start()
    assert waited.wait(60)
    slow.allowed.set()
    first.join()
    second.join()
    assert not unread.wanted.is_set()
    with masks["first"] as one, masks["second"] as other:
        one.array[4, 5, 6] = 77
        assert other.array[4, 5, 6] == 77
        assert EditedMask.reopen(tmp_path).array[4, 5, 6] == 77
    assert {path.name for path in tmp_path.iterdir()} == {"mask.raw", "original.raw", "mask.json"}


def test_waiting_for_another_window_can_be_stopped(tmp_path):
    slow = GatedVolume(some_labels())
    first = threading.Thread(target=lambda: EditedMask.create(tmp_path, slow, NAMES).close())
    first.start()
    assert slow.wanted.wait(60)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES, stop)
    slow.allowed.set()
    first.join()
    assert EditedMask.is_in(tmp_path)


def test_the_next_window_makes_the_mask_if_the_first_one_fails(tmp_path):
    broken = GatedVolume(some_labels(dtype=np.int8) - 9)
    refused = []

    def fail():
        with pytest.raises(UnsupportedFile) as caught:
            EditedMask.create(tmp_path, broken, NAMES)
        refused.append(caught)

    first = threading.Thread(target=fail)
    first.start()
    assert broken.wanted.wait(60)
    with EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES, lambda *_: broken.allowed.set()) as mask:
        np.testing.assert_array_equal(mask.array, some_labels())
    first.join()
    assert refused


def test_without_locks_a_mask_that_was_made_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    slow, masks = GatedVolume(some_labels()), []
    late = threading.Thread(target=lambda: masks.append(EditedMask.create(tmp_path, slow, NAMES)))
    late.start()
    assert slow.wanted.wait(60)
    with EditedMask.create(tmp_path, ArrayVolume(some_labels()), NAMES) as mask:
        mask.array[4, 5, 6] = 77
        slow.allowed.set()
        late.join()
        with masks[0] as other:
            assert other.array[4, 5, 6] == 77


WAIT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from drawn_labels import NAMES, ArrayVolume, some_labels
from cryomamba_gui.masks.mask import EditedMask
mask = EditedMask.create(Path(sys.argv[1]), ArrayVolume(some_labels()), NAMES, lambda done, _: print(done, flush=True))
mask.array[1, 2, 3] = 99
mask.touched()
"""


def test_another_process_waits_too(tmp_path):
    slow, masks = GatedVolume(some_labels()), []
    first = threading.Thread(target=lambda: masks.append(EditedMask.create(tmp_path, slow, NAMES)))
    first.start()
    assert slow.wanted.wait(60)
    command = [sys.executable, "-c", WAIT, str(tmp_path), str(Path(drawn_labels.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "0\n", "it waits"
        slow.allowed.set()
        first.join()
        other.communicate()
    assert other.returncode == 0
    with masks[0] as mask:
        assert mask.array[1, 2, 3] == 99
        assert mask.edited

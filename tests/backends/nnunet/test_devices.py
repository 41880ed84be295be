"""Runs on a device that computes apart from the host: a GPU, or the CPU played as one, with the same threads.

What is read, computed and written goes through three threads then; labels, notes and progress are to be the same.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.forward import Forward
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.interfaces import JobCanceled
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

SIZE = (10.0, 10.0, 10.0)

#: Part of the voxels that may differ from stock nnU-Net on the CPU: half precision has 11 binary digits, and with the 8
#: of bfloat16 it is 2 to 4 voxels in 10,000.
DIFFERENT = {"cpu": 1e-4, "cuda": 2e-4}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """A device that computes apart."""
    if request.param == "cpu":
        monkeypatch.setattr(Course, "apart", True)
    elif not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    return request.param


class OwnContext(RecordingContext):
    """Belongs to the thread that made it."""

    def __init__(self, *args, **given):
        super().__init__(*args, **given)
        self._thread = threading.get_ident()

    def _own(self):
        assert threading.get_ident() == self._thread, "a job's context is called from the job's thread"

    def checkpoint(self):
        self._own()
        super().checkpoint()

    def report(self, *said):
        self._own()
        super().report(*said)

    def note(self, sentence):
        self._own()
        super().note(sentence)

    def keep(self, key, make):
        self._own()
        return super().keep(key, make)


def small_tiles(plans):
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]


@pytest.fixture
def model(runner, edited_model):
    return runner.install(edited_model(plans=small_tiles), name="small")


def run(runner, model, array, device, *, context=(), size=SIZE, **params):
    """All blocks, and the context."""
    volume = ArrayVolume(array, voxel_size=size)
    recorded = OwnContext(model, volume, device=device, **dict(context))
    chosen = NNUNetParams(**{"mirroring": False, "coarse": "off", **params})
    return list(runner.segment(volume, chosen, recorded)), recorded


def labels_of(blocks, shape):
    labels = np.full(shape, 255, np.uint8)
    for block in blocks:
        if not block.provisional:
            labels[block.region.slices] = block.labels
    return labels


@pytest.fixture
def no_thread_is_left():
    yield
    assert "ahead" not in {thread.name for thread in threading.enumerate()}


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("mirroring", [True, False], ids=["mirrored", "plain"])
def test_labels_are_those_of_stock(mirroring, device, runner, tiny_tomo_model, stock_labels, vesicles):
    array = vesicles((64, 100, 64))
    expected = stock_labels(tiny_tomo_model, array, mirroring=mirroring)
    model = runner.install(tiny_tomo_model, name="tiny")
    blocks, _ = run(runner, model, array, device, mirroring=mirroring, size=model.voxel_size or SIZE)
    found = labels_of(blocks, array.shape)
    assert np.mean(found != expected) <= DIFFERENT[device]


CASES = {
    "plain": {},
    "a coarse answer first": {"coarse": "on"},
    "beginning with a section across": {"coarse": "on", "coarse_first": "x=20"},
    "uncertainty": {"uncertainty": "margin"},
    "resampled": {"size": (14.0, 14.0, 14.0), "spacing": "tolerant"},
}


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
def test_what_a_run_gives_and_says_is_the_same_in_one_thread(given, runner, model, noise, monkeypatch):
    """Played on the CPU only: a GPU gives other last digits."""
    array = np.pad(noise((60, 40, 50)), ((3, 0), (0, 2), (0, 0)))
    whole, plainly = run(runner, model, array, "cpu", **given)
    monkeypatch.setattr(Course, "apart", True)
    blocks, recorded = run(runner, model, array, "cpu", **given)
    assert len(blocks) == len(whole)
    for block, expected in zip(blocks, whole, strict=True):
        assert (block.region, block.provisional) == (expected.region, expected.provisional)
        np.testing.assert_array_equal(block.labels, expected.labels)
        for name, values in expected.companions.items():
            np.testing.assert_array_equal(block.companions[name], values)
    assert recorded.reports == plainly.reports
    assert recorded.notes == plainly.notes


def test_a_cancelled_run_ends_with_the_batch_that_runs(device, runner, model, noise, monkeypatch):
    array = noise((96, 64, 64))
    context = OwnContext(model, ArrayVolume(array, voxel_size=SIZE), device=device)
    running, canceled, begun_after = threading.Semaphore(0), threading.Event(), []
    run_network, look = Forward._run, context.checkpoint

    def watched(its, network, tiles):
        if canceled.is_set():
            begun_after.append(tiles)
        running.release()
        return run_network(its, network, tiles)

    def cancel_while_one_runs():
        if running.acquire(blocking=False):
            context.cancel()
        try:
            look()
        except JobCanceled:
            canceled.set()
            raise

    monkeypatch.setattr(Forward, "_run", watched)
    monkeypatch.setattr(context, "checkpoint", cancel_while_one_runs)
    with pytest.raises(JobCanceled):
        list(runner.segment(context_volume(array), NNUNetParams(mirroring=False, coarse="off"), context))
    assert len(begun_after) <= 1, "one may begin while the order is passed on"


def context_volume(array):
    return ArrayVolume(array, voxel_size=SIZE)


def test_a_run_that_nobody_goes_on_with_ends(device, runner, model, noise):
    array = noise((96, 40, 40))
    context = OwnContext(model, ArrayVolume(array, voxel_size=SIZE), device=device)
    blocks = runner.segment(context_volume(array), NNUNetParams(mirroring=False, coarse="off"), context)
    assert not next(blocks).provisional
    blocks.close()


def test_what_cannot_be_read_ends_the_run_with_its_error(device, runner, model, noise):
    class Broken(ArrayVolume):
        reads = 0

        def read(self, region):
            Broken.reads += 1
            if Broken.reads > 6:
                raise OSError(5, "Input/output error")
            return super().read(region)

    array = noise((96, 40, 40))
    context = OwnContext(model, ArrayVolume(array, voxel_size=SIZE), device=device)
    with pytest.raises(OSError, match="Input/output error"):
        list(runner.segment(Broken(array, voxel_size=SIZE), NNUNetParams(mirroring=False, coarse="off"), context))


def test_a_run_that_runs_out_of_memory_goes_on_with_the_same_labels(
    device, runner, model, noise, monkeypatch, tmp_path
):
    array = noise((96, 40, 40))
    whole, _ = run(runner, model, array, device)
    images, run_network = [], Forward._run

    def run_out(its, network, tiles):
        images.append(len(tiles))
        if len(images) == 9:
            raise MemoryError
        return run_network(its, network, tiles)

    monkeypatch.setattr(Forward, "_run", run_out)
    if device == "cuda":
        monkeypatch.setattr("cryomamba_backends.nnunet.placing.is_of_device", lambda _: True)
    blocks, context = run(runner, model, array, device, context={"scratch": tmp_path})
    assert any("memory ran out before row" in note for note in context.notes)
    np.testing.assert_array_equal(labels_of(blocks, array.shape), labels_of(whole, array.shape))


@pytest.mark.gpu
def test_a_gpu_has_its_memory_back(runner, model, noise):
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    array = noise((96, 64, 64))
    run(runner, model, array, "cuda")  # loads what stays loaded
    before = torch.cuda.memory_allocated()
    context = OwnContext(model, ArrayVolume(array, voxel_size=SIZE), device="cuda", cancel_at=40)
    with pytest.raises(JobCanceled):
        list(runner.segment(context_volume(array), NNUNetParams(coarse="off"), context))
    assert torch.cuda.memory_allocated() <= before

"""Memory, resuming, cancelling and progress of a run."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cryomamba_backends.nnunet import sweep, window
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.shortage import memory_errors_named
from cryomamba_backends.nnunet.tiles import TileGrid, tile_weights
from cryomamba_core.errors import OutOfMemory, UnusableVolume
from cryomamba_core.interfaces import JobCanceled
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume


@pytest.fixture
def tiny(runner, edited_model):
    """A model with tiles of 32 voxels."""

    def small_tiles(plans):
        plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]

    return runner.install(edited_model("tiny", plans=small_tiles), name="tiny")


def test_a_resumed_run_gives_the_same_bytes_from_any_row(runner, tiny, answer_of, noise, monkeypatch):
    monkeypatch.setattr(sweep, "BLOCK_VOXELS", 9 * 32 * 36)
    array = np.pad(noise((70, 32, 32)), ((6, 8), (2, 2), (0, 0)))
    whole = answer_of(runner, tiny, array, mirroring=False)
    for row in (1, 6, 30, 45, 76, 80, 84):
        resumed = answer_of(runner, tiny, array, mirroring=False, final_rows=row)
        np.testing.assert_array_equal(resumed.labels[row:], whole.labels[row:])
        assert all(block.start[0] >= row for block in resumed.blocks)
        assert len(resumed.context.reports) <= len(whole.context.reports)
    assert len(resumed.context.reports) == 0


def test_blocks_are_whole_sections_in_ascending_order(runner, tiny, answer_of, noise):
    array = np.pad(noise((32, 30, 32)), ((3, 2), (1, 1), (4, 0)))
    blocks = answer_of(runner, tiny, array, mirroring=False).blocks
    assert [block.start for block in blocks] == [(z, 0, 0) for z in [0, *(block.stop[0] for block in blocks[:-1])]]
    assert all(block.stop[1:] == array.shape[1:] for block in blocks)
    assert blocks[-1].stop == array.shape


def test_rows_are_handed_over_before_the_last_tile(runner, tiny, noise):
    volume = ArrayVolume(noise((64, 32, 32)))
    context = RecordingContext(tiny, volume)
    blocks = runner.segment(volume, NNUNetParams(mirroring=False), context)
    next(blocks)
    assert context.reports == [(1, 3, "tiles")]
    blocks.close()


def test_progress_counts_every_tile_once(runner, tiny, answer_of, noise):
    answer = answer_of(runner, tiny, noise((50, 35, 32)), mirroring=False)
    assert answer.context.reports == [(done, 6, "tiles") for done in range(1, 7)]


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_cancelled_run_stops_at_the_next_checkpoint(at, runner, tiny, noise):
    threads = threading.active_count()
    volume = ArrayVolume(noise((32, 32, 32)))
    context = RecordingContext(tiny, volume, cancel_at=at)
    with pytest.raises(JobCanceled):
        list(runner.segment(volume, NNUNetParams(), context))
    assert context.checkpoints == at
    assert threading.active_count() == threads


def test_no_more_than_a_few_sections_are_read_at_once(runner, tiny, noise, monkeypatch):
    monkeypatch.setattr(window, "READ_VOXELS", 32 * 32 * 4)
    monkeypatch.setattr("cryomamba_backends.nnunet.statistics.SLAB_VOXELS", 32 * 32 * 4)
    volume = ArrayVolume(noise((48, 32, 32)))
    context = RecordingContext(tiny, volume)
    volume.reads.clear()
    list(runner.segment(volume, NNUNetParams(mirroring=False), context))
    assert max(region.size for region in volume.reads) == 32 * 32 * 4


@pytest.mark.parametrize(("mode", "extreme"), [("exact", 1e6), ("fast", np.inf), ("fast", np.nan)])
def test_extreme_voxels_that_overflow_the_network_are_refused(mode, extreme, runner, edited_model):
    def none(plans):
        plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["NoNormalization"]

    def explosive(content):
        content["network_weights"]["decoder.seg_layers.2.bias"] += extreme

    model = runner.install(edited_model(plans=none, checkpoint=explosive), name="explosive")
    volume = ArrayVolume(np.linspace(0, 1, 64**3, dtype=np.float32).reshape(64, 64, 64))
    with pytest.raises(UnusableVolume, match="not finite"):
        list(runner.segment(volume, NNUNetParams(mode=mode, mirroring=False), RecordingContext(model, volume)))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_memory_that_is_out_is_named(error):
    with pytest.raises(OutOfMemory) as caught, memory_errors_named():
        raise error
    assert caught.value.hint


def test_other_runtime_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="something else"), memory_errors_named():
        raise RuntimeError("something else")


@pytest.mark.parametrize("step", [0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [16, 17, 40, 128, 333])
def test_tiles_start_where_those_of_stock_do(size, step):
    stock = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    grid = TileGrid.over((size, size, size), (16, 12, 8), step)
    expected = stock.compute_steps_for_sliding_window((size, size, size), (16, 12, 8), step)
    assert [list(starts) for starts in grid.starts] == expected


@pytest.mark.parametrize("patch", [(64, 64, 64), (16, 40, 24), (7, 9, 11)])
def test_tiles_are_weighted_as_those_of_stock(patch):
    torch = pytest.importorskip("torch")
    stock = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    expected = stock.compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu"))
    assert torch.equal(tile_weights(patch), expected)

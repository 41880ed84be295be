"""Shards of a volume: whatever their number, the labels are those of one run over it, in exact mode those of stock."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

pytest.importorskip("torch")

#: Numbers of shards; the volumes of these tests have four rows of tiles or more.
COUNTS = (1, 2, 3)


@pytest.fixture
def in_shards():
    """Run every shard by itself, as its worker does, and put the labels together."""

    def run(runner, model, array, count, *, voxel_size=None, **params):
        volume = ArrayVolume(array, voxel_size=voxel_size or model.voxel_size or (1.0, 1.0, 1.0))
        chosen = NNUNetParams(**{"mode": "exact", "coarse": "off", **params})
        axis = runner.sweep_axis(model, volume.grid, chosen, "cpu")
        bounds = runner.shard_bounds(model, volume.grid, chosen, "cpu", count)
        assert len(bounds) == count + 1
        labels, times = np.full(array.shape, 255, np.uint8), np.zeros(array.shape, np.uint8)
        for first, stop in pairwise(bounds):
            context = RecordingContext(model, volume, shard=(first, stop))
            for block in runner.segment(volume, chosen, context):
                if not block.provisional:
                    assert first <= block.region.start[axis] < block.region.stop[axis] <= stop
                    labels[block.region.slices] = block.labels
                    times[block.region.slices] += 1
            done = [report[0] for report in context.reports]
            assert done == sorted(done)
            assert done[-1] == context.reports[-1][1]
        assert (times == 1).all()
        return labels

    return run


def tiles(patch=(32, 32, 32), *, axes=(0, 1, 2), spacing=None):
    def plans(content):
        content["configurations"]["3d_fullres"]["patch_size"] = [patch[axis] for axis in axes]
        content["transpose_forward"] = list(axes)
        content["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]
        if spacing:
            content["configurations"]["3d_fullres"]["spacing"] = list(spacing)

    return plans


def regions(dataset):
    dataset["labels"] = {"background": 0, "all": [1, 2, 3], "inner": [2, 3], "core": 3}
    dataset["regions_class_order"] = [1, 2, 3]


CASES = {
    "mirrored": {"border": ((3, 4), (0, 1), (1, 0)), "given": {"mirroring": True}},
    "two folds": {"model": {"folds": {"0": 0, "1": 7}}, "given": {"folds": (0, 1)}},
    "regions": {"model": {"dataset": regions}},
    "turned axes": {"model": {"plans": tiles((32, 16, 24), axes=(1, 0, 2))}, "shape": (30, 40, 40)},
    "resampled": {
        "model": {"plans": tiles((16, 32, 32), spacing=(8.0, 8.0, 8.0))},
        "size": (10.0, 10.0, 11.0),
        "shape": (40, 24, 22),
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_labels_of_any_number_of_shards_are_those_of_stock(case, in_shards, runner, edited_model, stock_labels, noise):
    folder = edited_model(**{"plans": tiles((16, 32, 32)), **case.get("model", {})})
    model = runner.install(folder, name="case", options={"spacing_unit": "angstrom-as-mm"})
    array = np.pad(noise(case.get("shape", (40, 31, 30))), case.get("border", 0))
    given = {"mirroring": False, **case.get("given", {})}
    expected = stock_labels(folder, array, spacing=case.get("size"), **given)
    assert len(np.unique(expected)) > 1
    for count in COUNTS:
        labels = in_shards(runner, model, array, count, voxel_size=case.get("size"), **given)
        np.testing.assert_array_equal(labels, expected)


def test_labels_in_fast_mode_do_not_depend_on_the_number_of_shards(in_shards, runner, edited_model, answer_of, noise):
    model = runner.install(edited_model(plans=tiles()), name="fast")
    array = np.pad(noise((30, 110, 34)), ((1, 0), (4, 2), (0, 3)))
    whole = answer_of(runner, model, array, mode="fast", mirroring=False).labels
    for count in (1, 2, 3, 5):
        labels = in_shards(runner, model, array, count, mode="fast", mirroring=False, coarse="on")
        np.testing.assert_array_equal(labels, whole)


def test_a_shard_that_goes_on_has_the_labels_of_the_whole(runner, edited_model, answer_of, noise):
    model = runner.install(edited_model(plans=tiles((16, 32, 32))), name="resumed")
    array = np.pad(noise((70, 20, 22)), ((3, 2), (0, 0), (0, 0)))
    volume = ArrayVolume(array, voxel_size=model.voxel_size or (1.0, 1.0, 1.0))
    params = NNUNetParams(mode="exact", coarse="off", mirroring=False)
    whole = answer_of(runner, model, array, mirroring=False).labels
    _, first, stop, _ = runner.shard_bounds(model, volume.grid, params, "cpu", 3)
    for row in (first + 1, first + 9, stop - 1):
        context = RecordingContext(model, volume, shard=(first, stop), final_rows=row)
        blocks = list(runner.segment(volume, params, context))
        assert (blocks[0].region.start[0], blocks[-1].region.stop[0]) == (row, stop)
        np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), whole[row:stop])
        assert context.reports[0][0] > 0  # what an earlier worker has done counts
        assert context.reports[-1][0] == context.reports[-1][1]


@pytest.mark.parametrize("count", [2, 4])
def test_shards_have_about_the_same_number_of_tiles_and_share_few(count, runner, edited_model):
    model = runner.install(edited_model(plans=tiles()), name="long")
    grid, params = VoxelGrid(shape=(656, 32, 32), voxel_size=(10.0, 10.0, 10.0)), NNUNetParams(spacing="voxels")
    [[stage]] = runner._chains(runner._find(model), grid, grid.shape, params, "cpu")
    bounds = runner.shard_bounds(model, grid, params, "cpu", count)
    steps = [len(stage.grid.steps(range(*rows))) for rows in pairwise(bounds)]
    assert max(steps) - min(steps) <= 1
    assert sum(steps) == len(stage.grid.starts[0]) + count - 1  # where two shards meet, one row of tiles is run by both


def test_there_are_no_more_shards_than_rows_of_tiles(runner, edited_model):
    model = runner.install(edited_model(plans=tiles()), name="short")
    grid, params = VoxelGrid(shape=(50, 40, 40), voxel_size=(10.0, 10.0, 10.0)), NNUNetParams(spacing="voxels")
    assert runner.shard_bounds(model, grid, params, "cpu", 64) == (0, 9, 18, 50)
    flat = VoxelGrid(shape=(20, 30, 30), voxel_size=(10.0, 10.0, 10.0))
    assert runner.shard_bounds(model, flat, params, "cpu", 3) == (0, 20)

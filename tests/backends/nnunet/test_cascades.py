"""Cascades: stock nnU-Net is the judge."""

from __future__ import annotations

import json
import shutil
from itertools import groupby, pairwise

import numpy as np
import pytest
from attrs import evolve
from cascade_plans import cascaded
from scipy.ndimage import binary_fill_holes

from cryomamba_backends.nnunet import open_zeros, whole_labels
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.runner import BUNDLED
from cryomamba_backends.nnunet.scores import StockScores
from cryomamba_core.errors import StorageError, UnusableModel
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

#: Files of the labels of a first stage.
LABELS, MARK = "first-stage-0.raw", "first-stage-0.json"


def regions(dataset):
    dataset["labels"] = {"background": 0, "all": [1, 2, 4], "inner": [2, 4], "core": 4}
    dataset["regions_class_order"] = [1, 2, 3]


def two_channels(dataset):
    dataset["channel_names"] = {"0": "raw", "1": "denoised"}


def cascaded_over_two(plans):
    cascaded(plans, axes=(1, 0, 2))
    plans["configurations"]["3d_fullres"].update(
        normalization_schemes=["ZScoreNormalization", "RescaleTo01Normalization"], use_mask_for_norm=[False, False]
    )
    known = plans["foreground_intensity_properties_per_channel"]
    known["1"] = known["0"]


CASCADES = {
    "finer": ((10.0, 10.0, 10.0), {}),
    "as it is": ((8.0, 8.0, 8.0), {}),
    "half": ((4.0, 4.0, 4.0), {}),
    "turned": ((10.0, 11.0, 9.0), {"plans": lambda plans: cascaded(plans, axes=(1, 0, 2))}),
    "long": ((27.0, 9.0, 8.0), {}),
    "regions": ((10.0, 10.0, 10.0), {"dataset": regions, "labels": 3}),
    "channels": ((10.0, 11.0, 9.0), {"dataset": two_channels, "plans": cascaded_over_two, "inputs": 2}),
}


@pytest.mark.parametrize(("size", "others"), CASCADES.values(), ids=CASCADES)
def test_a_cascade_is_that_of_stock(size, others, runner, cascade, answer_of, stock_labels, noise):
    first, second = cascade(**others)
    model = runner.install(second, name="cascade")
    assert model.details["configuration"] == "3d_cascade_fullres"
    array = noise({27.0: (7, 26, 22), 4.0: (36, 40, 34)}.get(size[0], (20, 30, 26)))
    array[:, 7:, 6:17] = 0
    array = np.pad(array, ((2, 1), (0, 3), (4, 0)))
    if others.get("inputs") == 2:
        array = np.stack([array, noise(array.shape, seed=5)])
    before = stock_labels(first, array, mirroring=False, spacing=size)
    expected = stock_labels(second, array, mirroring=False, spacing=size, previous=before)
    assert len(np.unique(before)) > 1
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)
    done = [report[0] for report in answer.context.reports]
    assert done == sorted(done)
    assert answer.context.reports[-1][0] == answer.context.reports[-1][1]


def test_a_cascade_is_resumed_with_the_same_bytes(runner, cascade, answer_of, noise):
    model = runner.install(cascade()[1], name="cascade")
    array, given = noise((40, 30, 26)), {"mirroring": False, "mode": "exact", "voxel_size": (10.0, 10.0, 10.0)}
    whole = answer_of(runner, model, array, **given)
    for row in (3, 29):
        resumed = answer_of(runner, model, array, final_rows=row, **given)
        np.testing.assert_array_equal(resumed.labels[row:], whole.labels[row:])


def test_a_cascade_that_runs_out_of_memory_has_the_same_bytes(runner, cascade, answer_of, noise, monkeypatch, tmp_path):
    model = runner.install(cascade()[1], name="cascade")
    array, given = noise((40, 30, 26)), {"mirroring": False, "mode": "exact", "voxel_size": (10.0, 10.0, 10.0)}
    whole = answer_of(runner, model, array, **given)
    asked = []

    def run_out(sums, *rows):
        asked.append(rows)
        if len(asked) == len(whole.blocks):
            raise MemoryError
        return mean(sums, *rows)

    mean = StockScores.mean
    monkeypatch.setattr(StockScores, "mean", run_out)
    short = answer_of(runner, model, array, scratch=tmp_path, **given)
    np.testing.assert_array_equal(short.labels, whole.labels)
    assert "memory ran out" in short.context.notes[-1]
    assert short.context.reports[-1][0] == short.context.reports[-1][1]


def test_a_cascade_has_the_same_bytes_in_shards(runner, cascade, answer_of, noise):
    model = runner.install(cascade()[1], name="cascade")
    array, size = np.pad(noise((40, 30, 26)), ((2, 3), (0, 0), (1, 0))), (10.0, 10.0, 10.0)
    whole = answer_of(runner, model, array, mirroring=False, mode="exact", voxel_size=size)
    volume, params = ArrayVolume(array, voxel_size=size), NNUNetParams(mirroring=False, mode="exact")
    bounds = runner.shard_bounds(model, volume.grid, params, "cpu", 3)
    for first, stop in pairwise(bounds):
        context = RecordingContext(model, volume, shard=(first, stop))
        blocks = list(runner.segment(volume, params, context))
        np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), whole.labels[first:stop])
        assert context.reports[-1][0] == context.reports[-1][1]


def test_a_cascade_in_fast_mode_is_much_like_that_of_exact_mode(runner, cascade, answer_of, noise):
    model = runner.install(cascade()[1], name="cascade")
    array, size = noise((26, 30, 40)), (10.0, 10.0, 10.0)
    given = {"mirroring": False, "voxel_size": size, "precision": "single"}
    exact, fast = (answer_of(runner, model, array, mode=mode, **given) for mode in ("exact", "fast"))
    # Random networks are full of near ties, and each of the first stage's that falls otherwise changes many voxels
    # of the second: 0.8 % differ. A guide that is turned, or shifted by a voxel, changes 16 %.
    assert (exact.labels != fast.labels).mean() < 0.02


def test_a_plan_counts_both_stages_of_a_cascade(runner, cascade):
    first, second = cascade()
    grid = VoxelGrid(shape=(60, 70, 80), voxel_size=(10.0, 10.0, 10.0))
    params = NNUNetParams(mirroring=False, mode="exact")
    plans = [runner.plan(runner.install(folder, name=folder.name), grid, params, "cpu") for folder in (first, second)]
    assert plans[1].tiles == plans[0].tiles + 6 * 5 * 12
    assert plans[1].ram_bytes > plans[0].ram_bytes
    for given, told in (({"coarse": "on"}, "coarse=on"), ({"coarse_first": "z=7"}, "coarse_first=z=7")):
        asked = evolve(params, **given)
        notes = [runner.plan(runner.model(folder.name), grid, asked, "cpu").notes for folder in (first, second)]
        assert [f"{told} was not heeded: a cascade" in "".join(said) for said in notes] == [False, True]
    ignored = evolve(params, coarse="off", coarse_first="z=7")
    assert (
        "coarse_first=z=7 was not heeded: coarse=off"
        in runner.plan(runner.model(first.name), grid, ignored, "cpu").notes
    )


def test_a_cascade_without_its_first_stage_is_refused(runner, cascade):
    first, second = cascade()
    shutil.rmtree(first)
    with pytest.raises(UnusableModel, match="3d_lowres") as caught:
        runner.install(second, name="cascade")
    assert "3d_lowres" in caught.value.hint


def masked(plans, *, schemes=("ZScoreNormalization",), flags=(True,), axes=(0, 1, 2)):
    cascaded(plans, axes=axes)
    own = {"normalization_schemes": list(schemes), "use_mask_for_norm": list(flags)}
    plans["configurations"]["3d_cascade_fullres"].update(own)
    plans["configurations"]["3d_lowres"].update(own)
    known = plans["foreground_intensity_properties_per_channel"]
    known["1"] = known["0"]


@pytest.fixture
def padded(noise, monkeypatch):
    """A round specimen in zeros, with a hole: what networks find in the zeros counts as shown."""
    monkeypatch.setattr(open_zeros, "SLAB_VOXELS", 5000)

    def make(shape=(24, 30, 26)):
        array = noise(shape)
        place = np.ogrid[tuple(slice(-1, 1, edge * 1j) for edge in shape)]
        array[sum(axis**2 for axis in place) > 1] = 0
        array[10:13, 14:17, 12:15] = 0
        return np.pad(array, ((2, 1), (0, 3), (4, 0)))

    return make


BOTH = {"schemes": ("RescaleTo01Normalization", "ZScoreNormalization"), "flags": (False, True), "axes": (2, 0, 1)}
MASKED = {
    "as it is": ((8.0, 8.0, 8.0), {"plans": masked}),
    "finer": ((10.0, 10.0, 10.0), {"plans": masked}),
    "turned": ((10.0, 11.0, 9.0), {"plans": lambda plans: masked(plans, axes=(1, 0, 2))}),
    "regions": ((8.0, 8.0, 8.0), {"plans": masked, "dataset": regions, "labels": 3}),
    "channels": ((8.0, 9.0, 8.0), {"plans": lambda plans: masked(plans, **BOTH), "dataset": two_channels, "inputs": 2}),
}


@pytest.mark.parametrize(("size", "others"), MASKED.values(), ids=MASKED)
def test_a_cascade_that_is_normalised_inside_a_mask_is_that_of_stock(
    size, others, runner, cascade, answer_of, stock_labels, padded, noise
):
    first, second = cascade(**others)
    array = padded()
    if others.get("inputs") == 2:
        array = np.stack([array, np.where(array == 0, 0, noise(array.shape, seed=5))])
    before = stock_labels(first, array, mirroring=False, spacing=size)
    shown = binary_fill_holes(array.reshape(-1, *before.shape)[0] != 0)
    assert (before[~shown] > 0).any()
    assert (before[~shown] == 0).any()
    expected = stock_labels(second, array, mirroring=False, spacing=size, previous=before)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, runner.install(second, name="x"), array, mirroring=False, voxel_size=size)
    np.testing.assert_array_equal(answer.labels, expected)
    done = [report[0] for report in answer.context.reports]
    assert done == sorted(done)
    assert answer.context.reports[-1][0] == answer.context.reports[-1][1]


@pytest.fixture
def masked_run(runner, cascade, padded):
    """Run a cascade that is normalised inside a mask, in any context, and put its final blocks together."""
    first, model = (runner.install(folder, name=folder.name) for folder in cascade(plans=masked))
    array, size = padded((72, 30, 26)), (10.0, 10.0, 10.0)
    volume = ArrayVolume(array, voxel_size=size)

    def run(*, mode="exact", stop_after=None, **given):
        params = NNUNetParams(mirroring=False, mode=mode)
        context = RecordingContext(model, volume, **given)
        blocks = []
        for block in runner.segment(volume, params, context):
            blocks.append(block)
            if len(blocks) == stop_after:
                break
        return blocks, context

    run.first, run.model, run.array, run.grid = first, model, array, volume.grid
    return run


def joined(blocks):
    return np.concatenate([block.labels for block in blocks if not block.provisional])


def test_the_labels_of_the_first_stage_are_a_provisional_answer(masked_run, runner, answer_of):
    blocks, context = masked_run()
    outside, *inside = [list(group) for _, group in groupby(blocks, key=lambda block: block.provisional)]
    provisional, final = inside
    assert not outside[0].labels.any()
    of_first = answer_of(runner, masked_run.first, masked_run.array, mirroring=False, voxel_size=(10.0,) * 3)
    for block in provisional:
        np.testing.assert_array_equal(block.labels, of_first.labels[block.region.slices])
    assert [block.region.stop[0] for block in provisional[:-1]] == [block.region.start[0] for block in provisional[1:]]
    assert provisional[0].region.start[0] == final[0].region.start[0]
    assert provisional[-1].region.stop[0] == final[-2].region.stop[0]
    unseen, _ = masked_run(previewed=False)
    assert not any(block.provisional for block in unseen)
    np.testing.assert_array_equal(joined(unseen), joined(blocks))
    assert context.reports[-1][0] == context.reports[-1][1]


def test_another_attempt_goes_on_from_the_first_stage(masked_run, runner, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_labels, "MARK_INTERVAL", 0.0)
    whole, undisturbed = masked_run()
    given = {"lasting": tmp_path, "source": "a" * 64}
    stopped, _ = masked_run(stop_after=4, **given)
    assert stopped[-1].provisional
    resumed, context = masked_run(**given)
    np.testing.assert_array_equal(joined(resumed), joined(whole))
    assert context.reports[0][0] > undisturbed.reports[0][0]
    again, context = masked_run(final_rows=20, **given)
    np.testing.assert_array_equal(joined(again)[-20:], joined(whole)[-20:])
    assert not any(block.provisional for block in again)
    of_first = runner.plan(masked_run.first, masked_run.grid, NNUNetParams(mirroring=False), "cpu").tiles
    assert context.reports[0][0] > of_first


@pytest.mark.parametrize("damage", ["another source", "a mark that is torn", "labels that are gone"])
def test_what_another_attempt_cannot_go_on_from_is_made_anew(damage, masked_run, tmp_path):
    whole, undisturbed = masked_run(lasting=tmp_path, source="a" * 64)
    if damage == "a mark that is torn":
        (tmp_path / MARK).write_bytes((tmp_path / MARK).read_bytes()[:-3])
    if damage == "labels that are gone":
        (tmp_path / LABELS).unlink()
    else:
        content = (tmp_path / LABELS).read_bytes()
        (tmp_path / LABELS).write_bytes(bytes(len(content)))
    source = ("b" if damage == "another source" else "a") * 64
    again, context = masked_run(lasting=tmp_path, source=source)
    np.testing.assert_array_equal(joined(again), joined(whole))
    assert context.reports == undisturbed.reports


def test_a_mark_that_cannot_be_read_does_not_begin_anew(masked_run, tmp_path):
    (tmp_path / MARK).mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        masked_run(lasting=tmp_path)


def test_a_plan_counts_the_labels_of_the_first_stage_on_the_disk(masked_run, runner, tmp_path):
    masked_run(lasting=tmp_path)
    plan = runner.plan(masked_run.model, masked_run.grid, NNUNetParams(mirroring=False, mode="exact"), "cpu")
    assert plan.disk_bytes == masked_run.array.size  # zeros around the specimen have no labels in the file
    assert 0 < (tmp_path / LABELS).stat().st_size < plan.disk_bytes


def test_a_masked_cascade_has_the_same_bytes_in_shards(masked_run, runner):
    whole = joined(masked_run()[0])
    params = NNUNetParams(mirroring=False, mode="exact")
    for first, stop in pairwise(runner.shard_bounds(masked_run.model, masked_run.grid, params, "cpu", 2)):
        blocks, context = masked_run(shard=(first, stop))
        np.testing.assert_array_equal(joined(blocks), whole[first:stop])
        assert context.reports[-1][0] == context.reports[-1][1]


def test_a_masked_cascade_that_runs_out_of_memory_has_the_same_bytes(masked_run, monkeypatch, tmp_path):
    whole = joined(masked_run()[0])
    mean, asked = StockScores.mean, []

    def run_out(sums, *rows):
        asked.append(rows)
        if len(asked) in (2, 9):
            raise MemoryError
        return mean(sums, *rows)

    monkeypatch.setattr(StockScores, "mean", run_out)
    blocks, context = masked_run(scratch=tmp_path)
    np.testing.assert_array_equal(joined(blocks), whole)
    assert sum("memory ran out" in note for note in context.notes) == 2
    assert context.reports[-1][0] == context.reports[-1][1]


def test_a_masked_cascade_in_fast_mode_is_much_like_that_of_exact_mode(masked_run):
    exact, fast = (masked_run(mode=mode)[0] for mode in ("exact", "fast"))
    labels = np.zeros(masked_run.grid.shape, np.uint8)
    for block in fast:
        if not block.provisional:
            labels[block.region.slices] = block.labels
    assert (joined(exact) != labels).mean() < 0.02  # as of the cascade without a mask


def test_a_first_stage_of_another_training_is_refused(runner, cascade):
    first, second = cascade()
    dataset = json.loads((first / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "others": 1, "names": 2}
    (first / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UnusableModel, match="3d_lowres"):
        runner.install(second, name="cascade")


def test_a_cascade_whose_first_stage_was_replaced_is_refused(runner, cascade, answer_of, noise):
    first, second = cascade()
    model = runner.install(second, name="cascade")
    low = runner.install(first, name="low")
    assert model.details["first stage"] == low.digest[:12]
    inside = runner._settings.models_dir / "cascade" / "previous"
    shutil.rmtree(inside)
    shutil.copytree(BUNDLED / "cryomamba-demo", inside)
    with pytest.raises(UnusableModel, match="another model"):
        answer_of(runner, model, noise((20, 20, 20)))

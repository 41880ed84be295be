"""Masks of models with the postprocessing that training found: stock nnU-Net's function is the judge."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_disks import small_disk_at

from cryomamba_backends.nnunet import whole_labels
from cryomamba_backends.nnunet.blocks import Blocks
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.whole_labels import WholeLabels
from cryomamba_core.errors import UnsupportedModel
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

#: Voxels of the models' own size.
SIZE = (1.0, 1.0, 1.0)

EACH = [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 1}, {"labels_or_regions": 2}]


@pytest.fixture
def stock_tidied():
    """Labels as stock nnU-Net's steps leave them."""
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    from nnunetv2.postprocessing.remove_connected_components import (
        remove_all_but_largest_component_from_segmentation as keep_largest,
    )

    def judge(labels, steps):
        for arguments in steps:
            labels = keep_largest(labels, **arguments)
        return labels

    return judge


@pytest.fixture
def described(tmp_path):
    """A ``postprocessing.json`` of given steps."""

    def write(steps):
        file = tmp_path / "postprocessing.json"
        names = ["remove_all_but_largest_component_from_segmentation"] * len(steps)
        file.write_text(json.dumps({"postprocessing_fns": names, "postprocessing_kwargs": steps}))
        return str(file)

    return write


def small_tiles(plans):
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 32, 32]


def regions(dataset):
    dataset["labels"] = {"background": 0, "all": [1, 2, 4], "inner": [2, 4], "core": 4}
    dataset["regions_class_order"] = [1, 2, 3]


@pytest.fixture
def specimen(noise):
    return np.pad(noise((40, 45, 33)), ((3, 4), (0, 2), (0, 2)))


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("steps", [EACH[:1], EACH[1:], EACH], ids=["together", "each", "both"])
def test_what_stays_is_what_stock_leaves(
    steps, mode, runner, edited_model, answer_of, stock_tidied, described, specimen
):
    folder = edited_model(plans=small_tiles)
    plain = runner.install(folder, name="plain")
    model = runner.install(folder, name="tidied", options={"postprocessing": described(steps)})
    assert model.digest != plain.digest
    assert "largest connected piece" in model.details["postprocessing"]
    given = {"mirroring": False, "mode": mode, "precision": "single"}
    before = answer_of(runner, plain, specimen, **given).labels
    expected = stock_tidied(before, steps)
    assert (before != expected).any()
    assert (expected > 0).any()
    answer = shown_and_final(runner, model, specimen, **given)[1]
    np.testing.assert_array_equal(answer, expected)
    left_alone = answer_of(runner, model, specimen, postprocessing=False, **given)
    np.testing.assert_array_equal(left_alone.labels, before)


def test_regions_are_tidied_as_by_stock(runner, fresh_model, answer_of, stock_tidied, described, specimen):
    # Stock names labels of the training data, 1, 2 and 4; in the mask, regions are 1, 2 and 3.
    steps = [{"labels_or_regions": [1, 2, 4]}, {"labels_or_regions": [[1, 2, 4], [2, 4]]}]
    folder = fresh_model("3d_fullres", plans=small_tiles, dataset=regions)
    plain = runner.install(folder, name="plain")
    model = runner.install(folder, name="tidied", options={"postprocessing": described(steps)})
    before = answer_of(runner, plain, specimen, mirroring=False).labels
    expected = stock_tidied(before, steps)
    assert (before != expected).any()
    np.testing.assert_array_equal(shown_and_final(runner, model, specimen, mirroring=False)[1], expected)


def run(runner, model, array, *, stop_after=None, context=(), **params):
    volume = ArrayVolume(array, voxel_size=SIZE)
    context = RecordingContext(model, volume, **dict(context))
    blocks = []
    for block in runner.segment(volume, NNUNetParams(**{"mode": "exact", "coarse": "off", **params}), context):
        blocks.append(block)
        if len(blocks) == stop_after:
            break
    return blocks, context


def shown_and_final(runner, model, array, **given):
    """The last provisional labels of each voxel, and the final ones, each voxel once."""
    blocks, _ = run(runner, model, array, **given)
    labels = [np.zeros(array.shape, np.uint8) for _ in range(2)]
    times = np.zeros(array.shape, np.uint8)
    for block in blocks:
        labels[not block.provisional][block.region.slices] = block.labels
        times[block.region.slices] += not block.provisional
    assert (times == 1).all()
    return labels


@pytest.fixture
def tidied(runner, edited_model, described):
    folder = edited_model(plans=small_tiles)
    return runner.install(folder, name="tidied", options={"postprocessing": described(EACH)})


def test_all_labels_are_shown_before_smaller_pieces_go(tidied, runner, answer_of, specimen):
    shown, _ = shown_and_final(runner, tidied, specimen, mirroring=False)
    plain = answer_of(runner, tidied, specimen, mirroring=False, postprocessing=False)
    np.testing.assert_array_equal(shown, plain.labels)
    unseen, _ = run(runner, tidied, specimen, mirroring=False, context={"previewed": False})
    assert not any(block.provisional for block in unseen)


def joined(blocks):
    return np.concatenate([block.labels for block in blocks if not block.provisional])


def test_another_attempt_goes_on_from_the_labels_that_are_there(tidied, runner, specimen, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_labels, "MARK_INTERVAL", 0.0)
    lasting = tmp_path / "lasting"
    lasting.mkdir()
    given = {"mirroring": False, "uncertainty": "margin"}
    whole, undisturbed = run(runner, tidied, specimen, **given)
    beside = np.concatenate([block.companions["uncertainty"] for block in whole if not block.provisional])
    context = {"lasting": lasting, "source": "a" * 64}
    stopped, _ = run(runner, tidied, specimen, stop_after=4, context=context, **given)
    assert stopped[-1].provisional
    (lasting / "mask-copy.raw").write_bytes(b"left by a crash")
    resumed, recorded = run(runner, tidied, specimen, context=context, **given)
    np.testing.assert_array_equal(joined(resumed), joined(whole))
    assert recorded.reports[0][0] > undisturbed.reports[0][0]
    assert not (lasting / "mask-copy.raw").exists()
    again, recorded = run(runner, tidied, specimen, context={**context, "final_rows": 20}, **given)
    np.testing.assert_array_equal(joined(again), joined(whole)[20:])
    assert not recorded.reports, "networks ran again"
    assert not any(block.provisional for block in again)
    again_beside = np.concatenate([block.companions["uncertainty"] for block in again])
    np.testing.assert_array_equal(again_beside, beside[20:])
    otherwise, recorded = run(runner, tidied, specimen, context=context, mirroring=False, uncertainty="entropy")
    np.testing.assert_array_equal(joined(otherwise), joined(whole))
    assert recorded.reports == undisturbed.reports, "the uncertainty that is there is of another rule"


@pytest.mark.parametrize("where", ["when rows are shown", "when they are marked"])
def test_a_shortage_after_rows_were_kept_changes_no_label(where, tidied, runner, specimen, tmp_path, monkeypatch):
    whole = joined(run(runner, tidied, specimen, mirroring=False)[0])
    (tmp_path / "lasting").mkdir()
    (tmp_path / "scratch").mkdir()
    changed = {"when rows are shown": (Blocks, "provisional"), "when they are marked": (WholeLabels, "_mark")}[where]
    usual, asked = getattr(*changed), []

    def run_out(*args):
        asked.append(args)
        if len(asked) == 3:
            raise MemoryError
        return usual(*args)

    monkeypatch.setattr(whole_labels, "MARK_INTERVAL", 0.0)
    monkeypatch.setattr(*changed, run_out)
    context = {"lasting": tmp_path / "lasting", "scratch": tmp_path / "scratch"}
    blocks, recorded = run(runner, tidied, specimen, mirroring=False, context=context)
    assert len(asked) > 3
    assert any("memory ran out" in note for note in recorded.notes)
    np.testing.assert_array_equal(joined(blocks), whole)


def test_that_a_disk_has_no_room_for_the_copy_shows_at_once(tidied, runner, noise, tmp_path):
    array = noise((60, 110, 110))  # a mask of 0.7 MB
    with small_disk_at(tmp_path / "disk", 1) as folder:
        context = RecordingContext(tidied, ArrayVolume(array, voxel_size=SIZE), lasting=folder)
        with pytest.raises(OSError, match="No space left"):
            list(runner.segment(ArrayVolume(array, voxel_size=SIZE), NNUNetParams(mirroring=False), context))
        assert not context.reports, "networks ran"


def test_a_plan_says_what_is_done_and_counts_it(tidied, runner):
    grid, params = VoxelGrid(shape=(60, 70, 80), voxel_size=SIZE), NNUNetParams(mirroring=False)
    plan = runner.plan(tidied, grid, params, "cpu")
    assert sum("when the mask is whole, of label" in note for note in plan.notes) == 3
    assert sum("not cut into shards" in note for note in plan.notes) == 1
    assert runner.shard_bounds(tidied, grid, params, "cpu", 3) == (0, 70 if plan.notes[0].endswith("Y") else 60)
    without = NNUNetParams(mirroring=False, postprocessing=False)
    assert not any("whole" in note for note in runner.plan(tidied, grid, without, "cpu").notes)
    assert len(runner.shard_bounds(tidied, grid, without, "cpu", 3)) == 4


@pytest.mark.parametrize("beside", [{}, {"uncertainty": "margin", "probabilities": ("all",)}], ids=["labels", "beside"])
def test_a_plan_counts_the_files_that_lie_on_the_disk(beside, tidied, runner, noise, tmp_path):
    volume, params = ArrayVolume(noise((40, 45, 33)), voxel_size=SIZE), NNUNetParams(mirroring=False, **beside)
    most = 0
    for _ in runner.segment(volume, params, RecordingContext(tidied, volume, lasting=tmp_path)):
        most = max(most, sum(file.stat().st_size for file in tmp_path.glob("*.raw")))
    assert runner.plan(tidied, volume.grid, params, "cpu").disk_bytes == most
    without = NNUNetParams(mirroring=False, postprocessing=False)
    assert runner.plan(tidied, volume.grid, without, "cpu").disk_bytes == 0


def test_a_shard_that_is_asked_for_all_the_same_has_the_same_bytes(tidied, runner, specimen):
    whole = joined(run(runner, tidied, specimen, mirroring=False)[0])
    part, _ = run(runner, tidied, specimen, mirroring=False, context={"shard": (9, 30)})
    np.testing.assert_array_equal(joined(part), whole[9:30])
    assert all(block.region.start[0] >= 9 and block.region.stop[0] <= 30 for block in part)


def test_a_model_is_not_installed_with_a_pickle(runner, edited_model, tmp_path):
    (tmp_path / "postprocessing.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsupportedModel, match="pickle"):
        runner.install(edited_model(), options={"postprocessing": str(tmp_path / "postprocessing.pkl")})
    assert [model.name for model in runner.models()] == ["cryomamba-demo"]

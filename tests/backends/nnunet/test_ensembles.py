"""Ensembles of models: stock nnU-Net's predictions, averaged by its own ``nnUNetv2_ensemble``, are the judge."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from cascade_plans import cascaded

from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.scores import StockScores
from cryomamba_core.errors import InvalidParameter, UnusableModel
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

SIZE = (10.0, 11.0, 9.0)


def several(plans, *, axes=(0, 1, 2), masked=False):
    """Plans of a fine model, a coarse one, a cascade of both, and one of sections, in place."""
    cascaded(plans, axes=axes)
    plans["configurations"]["3d_cascade_fullres"]["use_mask_for_norm"] = [masked]
    plans["configurations"]["3d_cascade_fullres"]["normalization_schemes"] = ["ZScoreNormalization"]
    flat = plans["configurations"]["2d"]
    flat.update(patch_size=[32, 24], spacing=[10.0, 10.0])
    arguments = flat["architecture"]["arch_kwargs"]
    arguments.update(n_stages=3, features_per_stage=[8, 16, 32], n_conv_per_stage=[1, 1, 1])
    arguments.update(kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 2]], n_conv_per_stage_decoder=[1, 1])
    plans["original_median_spacing_after_transp"] = [15.0, 10.0, 10.0]


def regions(dataset):
    dataset["labels"] = {"background": 0, "all": [1, 2], "inner": 2}
    dataset["regions_class_order"] = [1, 2]


@pytest.fixture
def trained(fresh_model):
    """Folders of models that were trained beside each other, by configuration."""

    def make(*names, plans=several, dataset=None, heads=3):
        folders = {}
        for name in names:
            second = name == "3d_cascade_fullres"
            folders[name] = fresh_model(
                name,
                plans=plans,
                folder=f"Trainer__Plans__{name}",
                mirroring=(0, 1) if name == "2d" else (0, 1, 2),
                channels=3 if second else 1,
                heads=heads,
                background=0.0 if dataset else 0.7,
                dataset=dataset,
            )
        return folders

    return make


@pytest.fixture
def stock_ensemble(stock_labels, tmp_path):
    """Labels of several models as stock nnU-Net averages them: the files of probabilities of each, and its command."""
    from nnunetv2.ensembling.ensemble import average_probabilities
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    def judge(folders, array, *, previous=None, **given):
        files = []
        for number, folder in enumerate(folders):
            before = previous if folder.name.endswith("3d_cascade_fullres") else None
            made = stock_labels(folder, array, previous=before, probabilities="stock", **given)
            files.append(str(tmp_path / f"{number}.npz"))
            np.savez_compressed(files[-1], probabilities=made)
        plans, dataset = (json.loads((folders[0] / name).read_text()) for name in ("plans.json", "dataset.json"))
        manager = PlansManager(plans).get_label_manager(dataset)
        return np.asarray(manager.convert_probabilities_to_segmentation(average_probabilities(files)))

    return judge


CASES = {
    "both dimensions": (("3d_fullres", "2d"), {}),
    "sections first": (("2d", "3d_fullres"), {}),
    "two sizes": (("3d_fullres", "3d_lowres"), {}),
    "turned": (("3d_lowres", "3d_fullres"), {"plans": lambda plans: several(plans, axes=(1, 0, 2))}),
    "three": (("3d_lowres", "3d_fullres", "2d"), {}),
    "regions": (("3d_fullres", "3d_lowres"), {"dataset": regions, "heads": 2}),
}


@pytest.mark.parametrize(("names", "others"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("mirroring", [False, True])
def test_an_ensemble_is_that_of_stock(
    names, others, mirroring, runner, trained, answer_of, stock_ensemble, stock_labels, noise
):
    first, *further = folders = list(trained(*names, **others).values())
    model = runner.install(first, name="several", options={"ensemble": ",".join(names[1:])})
    assert len(model.details["ensemble"].split(", ")) == len(further)
    array = np.pad(noise((15, 38, 34)), ((2, 1), (0, 3), (4, 0)))
    expected = stock_ensemble(folders, array, mirroring=mirroring, spacing=SIZE)
    answer = answer_of(runner, model, array, mirroring=mirroring, voxel_size=SIZE, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)
    each = [stock_labels(folder, array, mirroring=mirroring, spacing=SIZE) for folder in folders]
    assert all((labels != expected).mean() > 0.01 for labels in each)
    done = [report[0] for report in answer.context.reports]
    assert done == sorted(done)
    assert answer.context.reports[-1][0] == answer.context.reports[-1][1]
    fast = answer_of(runner, model, array, mirroring=mirroring, voxel_size=SIZE, mode="fast", precision="single")
    # Random networks are full of near ties: fast mode of one such network differs as much.
    assert (fast.labels != expected).mean() < 0.002


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [False, True], ids=["after another", "first"])
def test_a_cascade_may_be_one_of_them(first, masked, runner, trained, answer_of, stock_ensemble, stock_labels, noise):
    names = ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    folders = trained(*names, plans=lambda plans: several(plans, masked=masked))
    chosen = names[:0:-1] if first else names[1:]
    model = runner.install(folders[chosen[0]], name="both", options={"ensemble": chosen[1]})
    array = noise((24, 30, 26))
    array[:, 7:, 6:17] = 0
    previous = stock_labels(folders["3d_lowres"], array, mirroring=False, spacing=SIZE)
    both = [folders[name] for name in chosen]
    expected = stock_ensemble(both, array, mirroring=False, spacing=SIZE, previous=previous)
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE)
    np.testing.assert_array_equal(answer.labels, expected)
    done = [report[0] for report in answer.context.reports]
    assert done == sorted(done)
    assert answer.context.reports[-1][0] == answer.context.reports[-1][1]


def spaced_by(length):
    """Plans of a fine model whose voxels are so long, and of a coarse one in the ratio that follows."""

    def change(plans):
        several(plans)
        plans["configurations"]["3d_fullres"]["spacing"] = [length] * 3
        plans["configurations"]["3d_lowres"]["spacing"] = [1.9 * length] * 3

    return change


#: Spacing of the fine model, its unit, and the rule of a run that does not look at the tomogram's voxel size.
LENGTHLESS = pytest.mark.parametrize(
    ("length", "unit", "rule"),
    [(1.0, "voxels", "tolerant"), (1.0, "voxels", "voxels"), (8.0, "angstrom-as-mm", "voxels")],
    ids=["trained without", "trained without, and not asked for", "not asked for"],
)


@LENGTHLESS
def test_models_whose_voxels_have_no_length_keep_their_ratio(
    length, unit, rule, runner, trained, answer_of, stock_ensemble, noise
):
    folders = list(trained("3d_fullres", "3d_lowres", plans=spaced_by(length)).values())
    model = runner.install(folders[0], name="both", options={"ensemble": "3d_lowres"})
    assert model.details["spacing unit"] == unit
    array = noise((38, 40, 34))
    expected = stock_ensemble(folders, array, mirroring=False, spacing=(length,) * 3)
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=(7.0,) * 3, spacing=rule)
    np.testing.assert_array_equal(answer.labels, expected)
    told = [note for note in answer.context.notes if "is resampled" in note]
    assert [note.partition(":")[0] for note in told] == ["3d_lowres takes voxels of 1.9 times the size"]


@LENGTHLESS
def test_a_cascade_whose_voxels_have_no_length_keeps_its_ratio(
    length, unit, rule, runner, cascade, answer_of, stock_labels, noise
):
    first, second = cascade(plans=spaced_by(length))
    array = noise((38, 40, 34))
    before = stock_labels(first, array, mirroring=False, spacing=(length,) * 3)
    expected = stock_labels(second, array, mirroring=False, spacing=(length,) * 3, previous=before)
    model = runner.install(second, name="cascade")
    assert model.details["spacing unit"] == unit
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=(7.0,) * 3, spacing=rule)
    np.testing.assert_array_equal(answer.labels, expected)


def test_what_was_chosen_for_a_member_is_told(runner, trained):
    folders = trained("3d_fullres", "3d_lowres")
    weights = folders["3d_lowres"] / "fold_0" / "checkpoint_final.pth"
    weights.rename(weights.with_name("checkpoint_best.pth"))
    model = runner.install(folders["3d_fullres"], name="both", options={"ensemble": "3d_lowres"})
    assert "3d_lowres: no fold has a checkpoint_final.pth" in model.details["notes"]


@pytest.mark.parametrize("named", ["3d_fullres", "3d_lowres,3d_lowres"])
def test_a_model_is_averaged_once(named, runner, trained):
    folders = trained("3d_fullres", "3d_lowres")
    with pytest.raises(InvalidParameter, match="twice"):
        runner.install(folders["3d_fullres"], options={"ensemble": named})


@pytest.fixture
def both(runner, trained, noise):
    """An ensemble of sections and volumes, and a volume for it."""
    folders = trained("3d_fullres", "2d")
    model = runner.install(folders["3d_fullres"], name="both", options={"ensemble": "2d"})
    return model, np.pad(noise((40, 30, 26)), ((2, 3), (0, 0), (1, 0)))


def test_an_ensemble_is_resumed_and_cut_with_the_same_bytes(both, runner, answer_of):
    model, array = both
    whole = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE)
    for row in (3, 29):
        resumed = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE, final_rows=row)
        np.testing.assert_array_equal(resumed.labels[row:], whole.labels[row:])
        assert resumed.context.reports[0][0] > 1
    volume, params = ArrayVolume(array, voxel_size=SIZE), NNUNetParams(mirroring=False, mode="exact")
    bounds = runner.shard_bounds(model, volume.grid, params, "cpu", 3)
    assert len(bounds) == 4
    for first, stop in pairwise(bounds):
        context = RecordingContext(model, volume, shard=(first, stop))
        blocks = [block for block in runner.segment(volume, params, context) if not block.provisional]
        np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), whole.labels[first:stop])
        assert context.reports[-1][0] == context.reports[-1][1]


def test_an_ensemble_that_runs_out_of_memory_has_the_same_bytes(both, runner, answer_of, monkeypatch, tmp_path):
    model, array = both
    whole = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE)
    mean, asked = StockScores.mean, []

    def run_out(sums, *rows):
        asked.append(rows)
        if len(asked) == 5:
            raise MemoryError
        return mean(sums, *rows)

    monkeypatch.setattr(StockScores, "mean", run_out)
    short = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE, scratch=tmp_path)
    np.testing.assert_array_equal(short.labels, whole.labels)
    assert "memory ran out" in short.context.notes[-1]
    assert short.context.reports[-1][0] == short.context.reports[-1][1]


@pytest.mark.parametrize(("dataset", "heads"), [(None, 3), (regions, 2)], ids=["labels", "regions"])
@pytest.mark.parametrize("rule", ["margin", "entropy"])
def test_the_uncertainty_of_an_ensemble_is_that_of_its_mean(
    rule, dataset, heads, runner, trained, answer_of, stock_labels, noise
):
    folders = list(trained("3d_fullres", "3d_lowres", dataset=dataset, heads=heads).values())
    model = runner.install(folders[0], name="both", options={"ensemble": "3d_lowres"})
    array = noise((20, 30, 26))
    each = [stock_labels(folder, array, mirroring=False, spacing=SIZE, probabilities="stock") for folder in folders]
    mean = np.mean(each, 0, dtype=np.float64)
    if dataset is None:
        second, first = np.sort(mean, 0)[-2:]
        expected = {
            "margin": 1 - first + second,
            "entropy": -(mean * np.log(mean)).sum(0) / np.log(heads),
        }[rule]
    else:
        per_region = {
            "margin": 1 - np.abs(2 * mean - 1),
            "entropy": -(mean * np.log2(mean) + (1 - mean) * np.log2(1 - mean)),
        }[rule]
        expected = per_region.max(0)
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE, uncertainty=rule)
    # Half a step by rounding, and what single precision adds to it.
    assert np.abs(answer.companions["uncertainty"] - 255 * expected).max() <= 0.51


@pytest.mark.parametrize(("dataset", "heads"), [(None, 3), (regions, 2)], ids=["labels", "regions"])
def test_the_probabilities_of_an_ensemble_are_the_mean_of_what_stock_saves(
    dataset, heads, runner, trained, answer_of, stock_labels, noise
):
    folders = list(trained("3d_fullres", "3d_lowres", dataset=dataset, heads=heads).values())
    model = runner.install(folders[0], name="both", options={"ensemble": "3d_lowres"})
    array = noise((20, 30, 26))
    each = [stock_labels(folder, array, mirroring=False, spacing=SIZE, probabilities="stock") for folder in folders]
    mean = np.mean(each, 0, dtype=np.float64)[1 if dataset is None else 0 :]
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=SIZE, probabilities=("all",))
    assert len(answer.companions) == len(mean)
    for found, probability in zip(answer.companions.values(), mean, strict=True):
        # Half a step by rounding, and what single precision adds to it.
        assert np.abs(found - 255 * probability).max() <= 0.51


def test_a_plan_counts_every_model(runner, trained):
    folders = trained("3d_fullres", "2d")
    grid, params = VoxelGrid(shape=(60, 70, 80), voxel_size=SIZE), NNUNetParams(mirroring=False)
    alone = [runner.plan(runner.install(folder, name=name), grid, params, "cpu") for name, folder in folders.items()]
    model = runner.install(folders["3d_fullres"], name="both", options={"ensemble": "2d"})
    plan = runner.plan(model, grid, params, "cpu")
    assert plan.tiles == sum(each.tiles for each in alone)
    assert plan.ram_bytes > max(each.ram_bytes for each in alone)
    assert "probabilities are averaged over 2 models: 3d_fullres, 2d" in plan.notes
    assert runner.sweep_axis(model, grid, params, "cpu") == 0, "sections are taken one by one"


def test_a_coarse_answer_is_the_first_ones(runner, trained, noise):
    folders = trained("3d_fullres", "2d")
    volume = ArrayVolume(noise((40, 30, 26)), voxel_size=SIZE)

    def coarse(name, options):
        model = runner.install(folders["3d_fullres"], name=name, options=options)
        params = NNUNetParams(mirroring=False, coarse="on", mode="exact")
        blocks = list(runner.segment(volume, params, RecordingContext(model, volume)))
        return [block for block in blocks if block.provisional], [block for block in blocks if not block.provisional]

    (of_both, both), (of_first, first) = coarse("both", {"ensemble": "2d"}), coarse("first", {})
    assert [block.region for block in of_both] == [block.region for block in of_first] != []
    for ours, its in zip(of_both, of_first, strict=True):
        np.testing.assert_array_equal(ours.labels, its.labels)
    assert any((ours.labels != its.labels).any() for ours, its in zip(both, first, strict=True))


def test_models_of_another_folder_are_named_by_it(runner, trained, tmp_path):
    folders = trained("3d_fullres", "3d_lowres")
    elsewhere = tmp_path / "elsewhere" / "coarse"
    shutil.copytree(folders["3d_lowres"], elsewhere)
    made = [
        runner.install(folders["3d_fullres"], name=name, options={"ensemble": named})
        for name, named in (("a", "3d_lowres"), ("b", str(elsewhere)))
    ]
    alone = runner.install(folders["3d_fullres"], name="c")
    assert made[0].digest == made[1].digest != alone.digest


@pytest.mark.parametrize("named", ["", "2d,", ",".join(["2d"] * 16)])
def test_text_that_names_no_models_is_refused(named, runner, trained):
    with pytest.raises(InvalidParameter, match="names no models") as caught:
        runner.install(trained("3d_fullres")["3d_fullres"], options={"ensemble": named})
    assert "ensemble=2d" in caught.value.hint


def other_labels(folder):
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "others": 1, "names": 2}
    (folder / "dataset.json").write_text(json.dumps(dataset))


def other_axes(folder):
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    plans = json.loads((folder / "plans.json").read_text())
    for each in (plans, content["init_args"]["plans"]):
        each["transpose_forward"], each["transpose_backward"] = [1, 0, 2], [1, 0, 2]
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))


@pytest.mark.parametrize(
    ("change", "named", "told"),
    [
        (other_labels, "3d_lowres", "labels"),
        (other_axes, "3d_lowres", "transpose"),
        (shutil.rmtree, "3d_lowres", "no folder Trainer__Plans__3d_lowres beside"),
        (shutil.rmtree, "some/where", "no such folder"),
    ],
)
def test_models_that_do_not_fit_are_refused(change, named, told, runner, trained):
    folders = trained("3d_fullres", "3d_lowres")
    change(folders["3d_lowres"])
    with pytest.raises(UnusableModel, match=told) as caught:
        runner.install(folders["3d_fullres"], name="both", options={"ensemble": named})
    assert caught.value.hint
    assert "both" not in [model.name for model in runner.models()]


def test_a_model_that_looks_at_other_channels_is_refused(runner, trained, fresh_model):
    folder = trained("3d_fullres")["3d_fullres"]

    def two(dataset):
        dataset["channel_names"] = {"0": "raw", "1": "denoised"}

    def for_two(plans):
        several(plans)
        fine = plans["configurations"]["3d_fullres"]
        fine.update(normalization_schemes=["ZScoreNormalization"] * 2, use_mask_for_norm=[False] * 2)

    other = fresh_model("3d_fullres", folder="two", plans=for_two, dataset=two, channels=2)
    with pytest.raises(UnusableModel, match="takes 2 channels"):
        runner.install(folder, options={"ensemble": str(other)})


def test_a_model_of_an_ensemble_that_was_replaced_is_refused(runner, both, answer_of, tmp_path):
    model, array = both
    installed = tmp_path / "data" / "models" / "both"
    shutil.rmtree(installed / "member-1")
    shutil.copytree(installed, tmp_path / "copy")
    shutil.move(tmp_path / "copy", installed / "member-1")
    with pytest.raises(UnusableModel, match="member-1 holds another model"):
        answer_of(runner, model, array)

"""How uncertain each label is: judged by the scores of stock nnU-Net, of which NumPy makes probabilities in float64."""

from __future__ import annotations

import numpy as np
import pytest

from cryomamba_backends.nnunet import piecewise, uncertainty
from cryomamba_backends.nnunet.label_scheme import LabelScheme
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.geometry import VoxelGrid

torch = pytest.importorskip("torch")

#: Levels of 0 to 255 by which ours may differ from the judge's, in float64: only where what single precision is off,
#: about 1e-7 or 3e-5 of a level, makes the nearest whole number the next one.
LEVELS = 1

#: The share of voxels where it does: 1e-5 of random scores, and these volumes are small.
ROUNDED_OTHERWISE = 1e-4


def small_tiles(plans):
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]


def regions(dataset):
    dataset["labels"] = {"background": 0, "all": [1, 2, 3], "inner": [2, 3], "core": 3}
    dataset["regions_class_order"] = [1, 2, 3]


def softmax(scores):
    shares = np.exp(scores.astype(np.float64) - scores.max(0))
    return shares / shares.sum(0)


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def entropy(probabilities, base):
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.nan_to_num(probabilities * np.log(probabilities)).sum(0) / np.log(base)


def of_labels(probabilities, rule):
    if rule == "entropy":
        return 255 * entropy(probabilities, len(probabilities))
    second, first = np.sort(probabilities, axis=0)[-2:]
    return 255 * (1 - (first - second))


def of_regions(probabilities, rule):
    if rule == "entropy":
        return 255 * np.max([entropy(np.stack([p, 1 - p]), 2) for p in probabilities], axis=0)
    return 255 * (1 - np.abs(2 * probabilities - 1)).max(0)


def assert_levels(found, expected):
    off = np.abs(found - np.rint(expected))
    assert off.max() <= LEVELS
    assert np.mean(off > 0) <= ROUNDED_OTHERWISE
    assert expected.max() > 200, "nothing is uncertain"
    assert expected.min() < 20, "nothing is certain"


@pytest.mark.parametrize(("mirroring", "rule"), [(False, "margin"), (True, "entropy")], ids=["plain", "mirrored"])
def test_it_is_that_of_the_scores_of_stock(mirroring, rule, runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles)
    model = runner.install(folder, name="small")
    array = np.pad(noise((27, 37, 31)), ((3, 4), (2, 1), (5, 2)))
    scored = stock_labels(folder, array, mirroring=mirroring, probabilities=softmax)
    answer = answer_of(runner, model, array, mirroring=mirroring, uncertainty=rule)
    assert_levels(answer.companions["uncertainty"], of_labels(scored, rule))
    np.testing.assert_array_equal(answer.labels, scored.argmax(0))
    assert not answer.companions["uncertainty"][:3].any(), "what was cut off is background for certain"


def test_of_two_folds_it_is_that_of_their_mean(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles, folds={"0": 0, "1": 7})
    model = runner.install(folder, name="two-folds")
    array = noise((40, 36, 30))
    scored = stock_labels(folder, array, folds=(0, 1), mirroring=False, probabilities=softmax)
    answer = answer_of(runner, model, array, mirroring=False, uncertainty="margin")
    assert_levels(answer.companions["uncertainty"], of_labels(scored, "margin"))


def test_of_regions_the_least_certain_one_counts(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles, dataset=regions)
    model = runner.install(folder, name="regions")
    array = np.pad(noise((30, 36, 33)), 1)
    scored = stock_labels(folder, array, mirroring=False, probabilities=sigmoid)
    for rule in ("margin", "entropy"):
        answer = answer_of(runner, model, array, mirroring=False, uncertainty=rule)
        assert_levels(answer.companions["uncertainty"], of_regions(scored, rule))


def test_resampled_scores_are_measured_on_the_voxels_of_the_volume(
    runner, edited_model, answer_of, stock_labels, noise
):
    def spaced(plans):
        small_tiles(plans)
        plans["configurations"]["3d_fullres"]["spacing"] = [8.0, 8.0, 8.0]

    folder = edited_model(plans=spaced)
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    array, size = np.pad(noise((27, 30, 24)), 1), (10.0, 11.0, 12.0)
    scored = stock_labels(folder, array, mirroring=False, spacing=size, probabilities=softmax)
    given = {"mirroring": False, "voxel_size": size}
    answer = answer_of(runner, model, array, uncertainty="margin", **given)
    assert_levels(answer.companions["uncertainty"], of_labels(scored, "margin"))
    resumed = answer_of(runner, model, array, uncertainty="margin", final_rows=17, **given)
    np.testing.assert_array_equal(
        resumed.companions["uncertainty"][17:], answer.companions["uncertainty"][17:], strict=True
    )


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_labels_are_the_same_and_a_resumed_run_gives_the_same_bytes(
    mode, runner, edited_model, answer_of, noise, monkeypatch
):
    model = runner.install(edited_model(plans=small_tiles), name="small")
    array = np.pad(noise((40, 30, 33)), ((3, 4), (0, 0), (0, 2)))
    given = {"mirroring": False, "mode": mode, "precision": "single"}
    without = answer_of(runner, model, array, **given)
    assert without.companions == {}
    whole = answer_of(runner, model, array, uncertainty="entropy", **given)
    np.testing.assert_array_equal(whole.labels, without.labels)
    monkeypatch.setattr(piecewise, "PIECE_VOXELS", 97)
    for row in (2, 25, 43):
        resumed = answer_of(runner, model, array, uncertainty="entropy", final_rows=row, **given)
        np.testing.assert_array_equal(resumed.companions["uncertainty"][row:], whole.companions["uncertainty"][row:])


@pytest.mark.parametrize("rule", ["margin", "entropy"])
@pytest.mark.parametrize("kind", [torch.half, torch.float32, torch.float64])
@pytest.mark.parametrize("heads", [2, 5])
def test_any_scores_have_a_value(heads, kind, rule):
    random = np.random.default_rng(heads)
    scores = torch.from_numpy(random.normal(0, 8, (heads, 3, 4, 500))).to(kind)
    scores[0, 0] = 6e4  # as high as half precision goes
    scores[:, 1, 0] = -3
    for regions, nonlinearity, judge in ((None, softmax, of_labels), (tuple(range(1, 1 + heads)), sigmoid, of_regions)):
        scheme = LabelScheme(names={1: "a"}, regions=regions, heads=heads, foreground=(1,))
        before = scores.clone()
        found = uncertainty.measure_uncertainty(scores, scheme, rule)
        with np.errstate(over="ignore"):
            expected = judge(nonlinearity(scores.numpy()), rule)
        assert np.abs(found - np.rint(expected)).max() <= LEVELS
        assert torch.equal(scores, before)
        if regions is None:
            assert (found[1, 0] == 255).all(), "all labels are equally probable"
            assert not found[0].any(), "one label is certain"


def test_a_plan_knows_its_memory(runner, edited_model):
    model = runner.install(edited_model(plans=small_tiles), name="small")
    plans = [
        runner.plan(model, VoxelGrid(shape=shape, voxel_size=(10, 10, 10)), NNUNetParams(uncertainty=rule), "cpu")
        for shape in ((64, 300, 300), (640, 300, 300))
        for rule in ("none", "margin")
    ]
    more = [plans[1].ram_bytes - plans[0].ram_bytes, plans[3].ram_bytes - plans[2].ram_bytes]
    assert 0 < more[0] == more[1] < 16 << 20


@pytest.mark.parametrize(
    "params", [{"uncertainty": "variance"}, {"uncertainty_binning": 0}, {"uncertainty_binning": 65}]
)
def test_what_cannot_be_asked_is_refused(params):
    with pytest.raises(InvalidParameter) as caught:
        NNUNetParams(**params)
    assert caught.value.hint

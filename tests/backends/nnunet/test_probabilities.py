"""How probable each label is: judged by the class probabilities that stock nnU-Net saves."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from cryomamba_backends.nnunet import piecewise
from cryomamba_backends.nnunet.beside import beside_bytes, companions_asked, companions_of
from cryomamba_backends.nnunet.label_scheme import parse_label_scheme
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.geometry import VoxelGrid

torch = pytest.importorskip("torch")

#: Rounding is half a level of 0 to 255. Exact mode has the scores of stock, and both make probabilities of them in
#: single precision, which is good to about 1e-6, or 3e-4 of a level.
EXACT_LEVELS = 0.5 + 1e-3

#: In fast mode the nearest whole number may be the next one: stock adds up in half precision, and a score of 8 that is
#: off by 0.004 moves a probability by up to 0.001, or a quarter of a level.
FAST_LEVELS = 1

#: Except that near the faces of what is not zero stock's weights and sums have so few digits that its scores are
#: multiples of up to 0.5. So many voxels from there none is seen, and of the whole small volume 2 in 1,000 voxels.
EDGE = 4
AT_EDGES = 3e-3


def small_tiles(plans):
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]


def spaced(plans):
    small_tiles(plans)
    plans["configurations"]["3d_fullres"]["spacing"] = [8.0, 8.0, 8.0]


def regions(dataset):
    dataset["labels"] = {"background": 0, "all": [1, 2, 3], "inner": [2, 3], "core": 3}
    dataset["regions_class_order"] = [1, 2, 3]


def scheme_of(*names):
    """Labels that compete, with values from 1 on."""
    return parse_label_scheme({"labels": {"background": 0, **{name: value for value, name in enumerate(names, 1)}}})


def scheme_of_regions(order, *names):
    labels = {"background": 0, **{name: [value, 90] for value, name in enumerate(names, 1)}}
    return parse_label_scheme({"labels": labels, "regions_class_order": order})


def names_of(scheme, *asked):
    return [companion.name for companion in companions_asked(scheme, NNUNetParams(probabilities=asked or ("all",)))]


def random_scores(heads, shape=(3, 4, 500), seed=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 4, (heads, *shape)).astype(np.float32))


def assert_exact(companions, expected):
    """Of each companion, in order, and of probabilities (labels, z, y, x)."""
    assert len(companions) == len(expected)
    for found, probability in zip(companions.values(), expected, strict=True):
        assert np.abs(found - 255.0 * probability).max() <= EXACT_LEVELS
        assert found.min() < 20, "nothing is improbable"
    assert max(found.max() for found in companions.values()) > 200, "nothing is probable"


@pytest.mark.parametrize("mirroring", [False, True], ids=["plain", "mirrored"])
def test_those_of_labels_are_what_stock_saves(mirroring, runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles)
    model = runner.install(folder, name="small")
    array = np.pad(noise((27, 37, 31)), ((3, 4), (2, 1), (5, 2)))
    saved = stock_labels(folder, array, mirroring=mirroring, probabilities="stock")
    answer = answer_of(runner, model, array, mirroring=mirroring, probabilities=("all",))
    assert_exact(answer.companions, saved[1:])
    np.testing.assert_array_equal(answer.labels, saved.argmax(0))
    for values in answer.companions.values():
        assert not values[:3].any(), "what was cut off is background for certain"
        assert not values[:, :, -2:].any()


def test_those_of_regions_are_what_stock_saves(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles, dataset=regions)
    model = runner.install(folder, name="regions")
    array = np.pad(noise((30, 36, 33)), ((2, 1), (0, 3), (1, 1)))
    saved = stock_labels(folder, array, mirroring=False, probabilities="stock")
    answer = answer_of(runner, model, array, mirroring=False, probabilities=("all",))
    assert list(answer.companions) == ["probability-all", "probability-inner", "probability-core"]
    assert_exact(answer.companions, saved)
    one = answer_of(runner, model, array, mirroring=False, probabilities=("core",))
    assert list(one.companions) == ["probability-core"]
    np.testing.assert_array_equal(one.companions["probability-core"], answer.companions["probability-core"])


def test_of_two_folds_they_are_those_of_their_mean(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles, folds={"0": 0, "1": 7})
    model = runner.install(folder, name="two-folds")
    array = noise((40, 36, 30))
    saved = stock_labels(folder, array, folds=(0, 1), mirroring=False, probabilities="stock")
    answer = answer_of(runner, model, array, mirroring=False, probabilities=("all",))
    assert_exact(answer.companions, saved[1:])


def test_of_a_resampled_volume_they_are_those_of_its_own_voxels(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=spaced)
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    array, size = np.pad(noise((27, 30, 24)), 1), (10.0, 11.0, 12.0)
    saved = stock_labels(folder, array, mirroring=False, spacing=size, probabilities="stock")
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=size, probabilities=("all",))
    assert_exact(answer.companions, saved[1:])


def test_in_fast_mode_they_are_at_most_a_level_from_what_stock_saves_but_at_edges(
    runner, edited_model, answer_of, stock_labels, noise
):
    folder = edited_model(plans=small_tiles)
    model = runner.install(folder, name="small")
    array = np.pad(noise((40, 30, 33)), ((3, 4), (0, 0), (0, 2)))
    saved = stock_labels(folder, array, probabilities="stock")
    given = {"mode": "fast", "precision": "single"}
    answer = answer_of(runner, model, array, probabilities=("all",), **given)
    for values, probability in zip(answer.companions.values(), saved[1:], strict=True):
        off = np.abs(values - np.rint(255.0 * probability))
        assert off[3 + EDGE : -4 - EDGE, EDGE:-EDGE, EDGE : -2 - EDGE].max() <= FAST_LEVELS
        assert np.mean(off > FAST_LEVELS) <= AT_EDGES
    assert max(values.max() for values in answer.companions.values()) > 200


def test_labels_and_uncertainty_are_the_same_beside_them_and_a_resumed_run_gives_the_same_bytes(
    runner, edited_model, answer_of, noise, monkeypatch
):
    model = runner.install(edited_model(plans=small_tiles), name="small")
    array = np.pad(noise((40, 30, 33)), ((3, 4), (0, 0), (0, 2)))
    given = {"mirroring": False, "uncertainty": "margin"}
    without = answer_of(runner, model, array, **given)
    whole = answer_of(runner, model, array, probabilities=("all",), **given)
    assert [*without.companions, "probability-membrane", "probability-particle"] == list(whole.companions)
    np.testing.assert_array_equal(whole.labels, without.labels)
    np.testing.assert_array_equal(whole.companions["uncertainty"], without.companions["uncertainty"])
    monkeypatch.setattr(piecewise, "PIECE_VOXELS", 97)
    for row in (2, 25, 43):
        resumed = answer_of(runner, model, array, probabilities=("all",), final_rows=row, **given)
        for name, values in resumed.companions.items():
            np.testing.assert_array_equal(values[row:], whole.companions[name][row:])


@pytest.mark.parametrize("kind", [torch.half, torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", [scheme_of("a", "b", "c"), scheme_of_regions([1, 2, 3, 4], *"abcd")])
def test_any_scores_have_a_probability(kind, scheme):
    scores = random_scores(4).to(kind)
    scores[0, 0] = 6e4  # as high as half precision goes
    scores[:, 1, 0] = -3
    scores[1, 2, 0, 7] = -torch.inf  # the logarithm of a probability of 0
    before = scores.clone()
    params = NNUNetParams(probabilities=("all",), uncertainty="entropy")
    found = companions_of(scores, scheme, params)
    assert torch.equal(scores, before)
    assert list(found) == [companion.name for companion in companions_asked(scheme, params)]
    doubles = scores.double()
    expected = doubles.sigmoid() if scheme.regions is not None else doubles.softmax(0)[1:]
    assert_exact({name: values for name, values in found.items() if name != "uncertainty"}, expected.numpy())


def test_pieces_do_not_matter(monkeypatch):
    scheme, scores = scheme_of("a", "b", "c", "d"), random_scores(5, (7, 23, 31))
    params = NNUNetParams(probabilities=("d", "b"), uncertainty="margin")
    whole = companions_of(scores, scheme, params)
    assert list(whole) == ["uncertainty", "probability-b", "probability-d"]
    for voxels in (1, 97, 23 * 31 * 2):
        monkeypatch.setattr(piecewise, "PIECE_VOXELS", voxels)
        for name, values in companions_of(scores, scheme, params).items():
            np.testing.assert_array_equal(values, whole[name])


def test_heads_of_regions_are_in_the_order_of_the_classes():
    scheme, scores = scheme_of_regions([3, 1, 2], "x", "y", "z"), random_scores(3)
    assert scheme.names == {3: "x", 1: "y", 2: "z"}
    found = companions_of(scores, scheme, NNUNetParams(probabilities=("all",)))
    assert list(found) == ["probability-y", "probability-z", "probability-x"]
    assert_exact(found, scores[[1, 2, 0]].sigmoid().numpy())


@pytest.mark.parametrize(
    "scheme", [scheme_of("membrane", "ribosome"), scheme_of_regions([1, 2], "membrane", "ribosome")]
)
def test_a_label_that_the_model_does_not_have_is_refused_with_those_that_it_has(scheme):
    for asked in (("membrane", "vesicle"), ("background",), ("all", "membrane"), ("probability-membrane",)):
        with pytest.raises(InvalidParameter) as caught:
            companions_asked(scheme, NNUNetParams(probabilities=asked))
        assert asked[asked[0] == "membrane"] in str(caught.value)
        assert "membrane, ribosome" in caught.value.hint


def test_a_label_that_is_called_all_can_be_asked_for_beside_another():
    scheme = scheme_of("all", "membrane", "lumen")
    assert names_of(scheme, "membrane", "all") == ["probability-all", "probability-membrane"]
    assert len(names_of(scheme, "all")) == 3


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["membrane", "Ribosome 80S"], ["membrane", "ribosome-80s"]),
        (["Größe", "β-galactosidase", "膜"], ["groe", "galactosidase", "3"]),
        (["a b", "A-B", "c"], ["a-b-1", "a-b-2", "c"]),
        (["x", "X", "x 1"], ["x-1", "x-2", "x-1-3"]),
        (["x", "X", "X-1", "x 1"], ["x-1", "x-2", "x-1-3", "x-1-4"]),
        (["膜", "細胞", "1"], ["1", "2", "1-3"]),
        (["y" * 60, "y" * 61], [f"{'y' * 26}-1", f"{'y' * 26}-2"]),
        (["../../etc", "labels", "mask"], ["etc", "labels", "mask"]),
    ],
)
def test_their_names_are_those_of_labels_and_no_two_are_the_same(labels, names):
    scheme = scheme_of(*labels)
    found = names_of(scheme)
    assert len(set(found)) == len(labels)
    assert found == [f"probability-{name}" for name in names]
    for label, name in zip(labels, found, strict=True):
        assert names_of(scheme, label) == [name], "whatever else is asked for"


def test_what_is_said_of_them():
    params = NNUNetParams(probabilities=("b",), probabilities_binning=3)
    [label] = companions_asked(scheme_of("a", "b"), params)
    assert (label.name, label.binning, label.label) == ("probability-b", 3, 2)
    assert "softmax" in label.meaning
    [region] = companions_asked(scheme_of_regions([1, 2], "a", "b"), params)
    assert "sigmoid" in region.meaning
    assert region.label == 2
    assert companions_asked(scheme_of("a"), NNUNetParams()) == ()


def test_each_takes_as_much_memory_as_uncertainty_does_but_for_temporary_numbers():
    scheme, row = scheme_of("a", "b", "c"), 5 << 20
    asked = {count: NNUNetParams(probabilities=tuple("abc"[:count])) for count in range(4)}
    assert beside_bytes(scheme, asked[0], row, device="cpu") == (0, 0)
    for device, place in (("cpu", 0), ("cuda", 1)):
        needs = [beside_bytes(scheme, params, row, device=device) for params in asked.values()]
        assert [needs[2][0] - needs[1][0], needs[3][0] - needs[2][0]] == [2 * row, 2 * row]
        both = NNUNetParams(uncertainty="margin", probabilities=("b", "c"))
        assert beside_bytes(scheme, both, row, device=device) == needs[3]
        temporary = piecewise.PIECE_VOXELS * piecewise.PIECE_BYTES
        assert needs[3][place] >= temporary
        assert needs[3] == ((6 * row + temporary, 0) if place == 0 else (6 * row, temporary))


def test_a_plan_knows_their_memory(runner, edited_model):
    model = runner.install(edited_model(plans=small_tiles), name="small")
    grid = VoxelGrid(shape=(64, 300, 300), voxel_size=(10, 10, 10))
    asked = ((), ("membrane",), ("all",))
    none, one, two = (runner.plan(model, grid, NNUNetParams(probabilities=names), "cpu").ram_bytes for names in asked)
    assert none < one < two < none + (16 << 20)


def test_a_label_that_the_model_does_not_have_is_refused_before_a_job_begins(runner, edited_model):
    model = runner.install(edited_model(plans=small_tiles), name="small")
    with pytest.raises(InvalidParameter) as caught:
        runner.companions(model, NNUNetParams(probabilities=("vesicle",)))
    assert "membrane, particle" in caught.value.hint


@pytest.mark.parametrize(
    "params",
    [
        {"probabilities": "membrane"},
        {"probabilities": ["membrane"]},
        {"probabilities": ("membrane", "membrane")},
        {"probabilities": ("",)},
        {"probabilities": (1,)},
        {"probabilities_binning": 0},
        {"probabilities_binning": 65},
    ],
)
def test_what_cannot_be_asked_is_refused(params):
    with pytest.raises(InvalidParameter) as caught:
        NNUNetParams(**params)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["all", "membrane", "microtubule", "ribosome"]),
        ("mem", ["membrane"]),
        ("membrane,", ["membrane,microtubule", "membrane,ribosome"]),
        ("membrane,microtubule,r", ["membrane,microtubule,ribosome"]),
    ],
)
def test_a_shell_completes_the_labels_of_the_model(typed, offered, tmp_path):
    words = ["cryomamba", "segment", "a.mrc", "--model", "cryomamba-demo", "--param", f"probabilities={typed}"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CRYOMAMBA_")},
        "CRYOMAMBA_DATA_DIR": str(tmp_path),
        "_CRYOMAMBA_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-m", "cryomamba_core.cli.main"]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.split() == [f"plain,probabilities={word}" for word in offered]

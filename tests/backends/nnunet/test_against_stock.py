"""Stock nnU-Net is the judge: not one voxel may differ."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from cryomamba_backends.nnunet.runner import BUNDLED

DEMO = "cryomamba-demo"

BORDERS = {
    "plain": ((0, 0), (0, 0), (0, 0)),
    "all sides": ((3, 4), (2, 1), (5, 2)),
    "Y and X": ((0, 0), (3, 2), (1, 4)),
}

#: For tiles of 64 voxels; the demo model has them too.
SHAPES = {"even": (80, 64, 72), "odd": (71, 83, 57), "smaller than a tile": (40, 90, 64)}

#: For tiles of 32 voxels, of which all eight mirror images are cheap.
SMALL_SHAPES = {"even": (48, 40, 32), "odd": (37, 47, 31), "smaller than a tile": (24, 40, 33)}


#: For tiles of 64 voxels and all eight mirror images: few tiles.
MIRRORED_SHAPES = {"even": (70, 64, 66), "odd": (61, 71, 57), "smaller than a tile": (40, 68, 62)}
MIRRORED_BORDERS = {name: BORDERS[name] for name in ("plain", "all sides")}


def small_tiles(plans):
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]


@pytest.mark.parametrize("border", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_labels_are_those_of_stock_without_mirroring(
    shape, border, runner, tiny_tomo_model, answer_of, stock_labels, noise
):
    model = runner.install(tiny_tomo_model, name="tiny")
    array = np.pad(noise(shape), border)
    expected = stock_labels(tiny_tomo_model, array, mirroring=False)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)


@pytest.mark.parametrize("border", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize("shape", SMALL_SHAPES.values(), ids=SMALL_SHAPES)
def test_labels_are_those_of_stock_with_mirroring(shape, border, runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles)
    model = runner.install(folder, name="small")
    array = np.pad(noise(shape), border)
    expected = stock_labels(folder, array)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array).labels, expected)


@pytest.mark.parametrize("border", MIRRORED_BORDERS.values(), ids=MIRRORED_BORDERS)
@pytest.mark.parametrize("shape", MIRRORED_SHAPES.values(), ids=MIRRORED_SHAPES)
def test_labels_are_those_of_stock_with_mirroring_and_the_model_as_it_is(
    shape, border, runner, tiny_tomo_model, answer_of, stock_labels, noise
):
    model = runner.install(tiny_tomo_model, name="tiny")
    array = np.pad(noise(shape), border)
    expected = stock_labels(tiny_tomo_model, array)
    np.testing.assert_array_equal(answer_of(runner, model, array).labels, expected)


@pytest.fixture
def demo_folder(as_trained_folder):
    """The model that comes with the package, as stock nnU-Net opens it."""
    return as_trained_folder(BUNDLED / DEMO)


@pytest.mark.parametrize("border", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_labels_of_the_demo_model_are_those_of_stock_without_mirroring(
    shape, border, runner, demo_folder, answer_of, stock_labels, noise
):
    array = np.pad(noise(shape), border)
    expected = stock_labels(demo_folder, array, mirroring=False)
    np.testing.assert_array_equal(answer_of(runner, runner.model(DEMO), array, mirroring=False).labels, expected)


@pytest.mark.parametrize("border", MIRRORED_BORDERS.values(), ids=MIRRORED_BORDERS)
@pytest.mark.parametrize("shape", MIRRORED_SHAPES.values(), ids=MIRRORED_SHAPES)
def test_labels_of_the_demo_model_are_those_of_stock_with_mirroring(
    shape, border, runner, demo_folder, answer_of, stock_labels, noise
):
    array = np.pad(noise(shape), border)
    expected = stock_labels(demo_folder, array)
    np.testing.assert_array_equal(answer_of(runner, runner.model(DEMO), array).labels, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_labels_are_those_of_stock_for_other_types_of_voxels(
    dtype, runner, edited_model, answer_of, stock_labels, noise
):
    folder = edited_model(plans=small_tiles)
    model = runner.install(folder, name="small")
    array = noise((34, 40, 37), dtype)
    expected = stock_labels(folder, array, mirroring=False)
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)


def test_two_folds_are_averaged_as_stock_does(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles, folds={"0": 0, "1": 7})
    model = runner.install(folder, name="two-folds")
    array = np.pad(noise((40, 36, 30)), 2)
    both = stock_labels(folder, array, folds=(0, 1))
    second = stock_labels(folder, array, folds=(1,), mirroring=False)
    assert (both != second).any()
    np.testing.assert_array_equal(answer_of(runner, model, array).labels, both)
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False, folds=(1,)).labels, second)


@pytest.mark.parametrize(
    ("step", "shape"),
    [(0.3, (50, 40, 33)), (0.8, (50, 40, 33)), (1.0, (50, 40, 33)), (0.02, (34, 32, 34))],
    ids=["0.3", "0.8", "1", "less than a voxel"],
)
def test_another_step_is_that_of_stock(step, shape, runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles)
    model = runner.install(folder, name="small")
    array = noise(shape)
    expected = stock_labels(folder, array, mirroring=False, step=step)
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False, step=step).labels, expected)


def test_regions_are_painted_in_the_order_of_stock(runner, edited_model, answer_of, stock_labels, noise):
    def regions(dataset):
        dataset["labels"] = {"background": 0, "all": [1, 2, 3], "inner": [2, 3], "core": 3}
        dataset["regions_class_order"] = [1, 2, 3]

    folder = edited_model(plans=small_tiles, dataset=regions)
    model = runner.install(folder, name="regions")
    assert [(label.value, label.name) for label in model.labels] == [(1, "all"), (2, "inner"), (3, "core")]
    array = np.pad(noise((36, 40, 50)), 1)
    expected = stock_labels(folder, array, mirroring=False)
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)


def test_an_ignore_label_has_no_output_as_in_stock(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=small_tiles, dataset=lambda dataset: dataset["labels"].update(ignore=3))
    model = runner.install(folder, name="ignore")
    assert [label.name for label in model.labels] == ["membrane", "particle"]
    array = noise((32, 40, 33))
    expected = stock_labels(folder, array, mirroring=False)
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_turned_axes_are_those_of_stock(axes, runner, edited_model, answer_of, stock_labels, noise):
    def turned(plans):
        plans["configurations"]["3d_fullres"]["patch_size"] = [24, 40, 32]
        plans["transpose_forward"] = list(axes)
        plans["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]
        plans["configurations"]["3d_fullres"]["spacing"] = [4.0, 3.0, 2.5]

    folder = edited_model(plans=turned)
    model = runner.install(folder, name="turned", options={"spacing_unit": "angstrom-as-mm"})
    array = np.pad(noise((45, 58, 50)), BORDERS["all sides"])
    expected = stock_labels(folder, array, mirroring=False)
    answer = answer_of(runner, model, array, mirroring=False)
    np.testing.assert_array_equal(answer.labels, expected)
    assert [model.voxel_size[axis] for axis in axes] == [4.0, 3.0, 2.5]
    sweep = [block.start[axes[0]] for block in answer.blocks]
    assert sweep == sorted(sweep)


SCHEMES = ["CTNormalization", "NoNormalization", "RGBTo01Normalization", "RescaleTo01Normalization"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_normalisations_are_those_of_stock(scheme, runner, edited_model, answer_of, stock_labels, noise):
    def other(plans):
        small_tiles(plans)
        plans["configurations"]["3d_fullres"]["normalization_schemes"] = [scheme]

    folder = edited_model(plans=other)
    model = runner.install(folder, name="other")
    array = np.pad(noise((32, 40, 36)), BORDERS["all sides"])
    expected = stock_labels(folder, array, mirroring=False)
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)


@pytest.mark.parametrize("network", ["ResidualEncoderUNet", "ResidualUNet"])
def test_residual_networks_are_those_of_stock(network, runner, edited_model, answer_of, stock_labels, noise):
    from dynamic_network_architectures.architectures import unet

    torch = pytest.importorskip("torch")

    def residual(plans):
        small_tiles(plans)
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{network}"
        architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")
        if network == "ResidualUNet":
            architecture["arch_kwargs"]["n_conv_per_stage_decoder"] = [1, 1, 1]

    def weights(content):
        plans = copy.deepcopy({"configurations": content["init_args"]["plans"]["configurations"]})
        residual(plans)
        arguments = dict(plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"])
        for key in ("conv_op", "norm_op", "nonlin"):
            arguments[key] = getattr(torch.nn, arguments[key].rpartition(".")[2])
        torch.manual_seed(3)
        built = getattr(unet, network)(input_channels=1, num_classes=3, deep_supervision=False, **arguments)
        content["network_weights"] = built.state_dict()

    folder = edited_model(plans=residual, checkpoint=weights)
    model = runner.install(folder, name="residual")
    array = noise((32, 50, 40))
    expected = stock_labels(folder, array, mirroring=False)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)

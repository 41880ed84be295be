"""Configurations besides 3d_fullres: stock nnU-Net is the judge."""

from __future__ import annotations

import numpy as np
import pytest

from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.errors import UnusableModel
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")


def planar(plans, *, spacing=(10.0, 10.0), axes=(0, 1, 2)):
    chosen = plans["configurations"]["2d"]
    chosen.update(patch_size=[32, 24], spacing=list(spacing))
    plans["transpose_forward"] = list(axes)
    plans["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]
    plans["original_median_spacing_after_transp"] = [15.0, *spacing]
    arguments = chosen["architecture"]["arch_kwargs"]
    arguments.update(n_stages=3, features_per_stage=[8, 16, 32], n_conv_per_stage=[1, 1, 1])
    arguments.update(kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 2]], n_conv_per_stage_decoder=[1, 1])


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("border", [0, ((2, 1), (3, 0), (0, 4))], ids=["plain", "zeros around"])
def test_sections_are_labelled_as_by_stock(border, mirroring, runner, fresh_model, answer_of, stock_labels, noise):
    folder = fresh_model("2d", plans=planar, mirroring=(0, 1))
    model = runner.install(folder, name="flat")
    assert model.details["mirroring"] == "1, 2"
    assert model.voxel_size == (15.0, 10.0, 10.0)
    array = np.pad(noise((7, 70, 41)), border)
    size = (13.0, 10.0, 10.0)
    expected = stock_labels(folder, array, mirroring=mirroring, spacing=size)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, mirroring=mirroring, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)


@pytest.mark.parametrize(
    ("axes", "size"),
    [
        ((0, 1, 2), (13.0, 8.0, 12.0)),
        ((0, 1, 2), (40.0, 8.0, 12.0)),
        ((1, 0, 2), (8.0, 13.0, 12.0)),
        ((2, 1, 0), (8.0, 9.0, 60.0)),
    ],
)
def test_resampled_sections_are_labelled_as_by_stock(axes, size, runner, fresh_model, answer_of, stock_labels, noise):
    folder = fresh_model("2d", plans=lambda plans: planar(plans, axes=axes), mirroring=(0, 1))
    model = runner.install(folder, name="flat")
    array = noise(tuple((9, 36, 40)[axes.index(axis)] for axis in range(3)))
    expected = stock_labels(folder, array, mirroring=False, spacing=size)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)


def test_sections_are_resumed_with_the_same_bytes(runner, fresh_model, answer_of, noise):
    model = runner.install(fresh_model("2d", plans=planar, mirroring=(0, 1)), name="flat")
    array, given = noise((9, 40, 30)), {"mirroring": False, "mode": "exact", "voxel_size": (15.0, 12.0, 12.0)}
    whole = answer_of(runner, model, array, **given)
    resumed = answer_of(runner, model, array, final_rows=5, **given)
    np.testing.assert_array_equal(resumed.labels[5:], whole.labels[5:])


def test_a_coarse_answer_of_sections_goes_on_from_the_first_in_runs(runner, fresh_model, noise):
    """Rows are kept by slabs: to change sides with each section would have a slab made anew for each."""
    model = runner.install(fresh_model("2d", plans=planar, mirroring=(0, 1)), name="flat")
    volume = ArrayVolume(noise((150, 32, 24)), voxel_size=model.voxel_size)
    params = NNUNetParams(mirroring=False, coarse="on", coarse_first="z=70", precision="single")
    blocks = runner.segment(volume, params, RecordingContext(model, volume))
    sections = [block.region.start[0] for block in blocks if block.provisional]
    assert sections == [
        70,
        *range(39, 70),
        *range(71, 102),
        *range(7, 39),
        *range(102, 134),
        *range(7),
        *range(134, 150),
    ]


def test_a_low_resolution_configuration_is_that_of_stock(runner, fresh_model, answer_of, stock_labels, noise):
    def lowres(plans):
        plans["configurations"]["3d_lowres"] = {
            "inherits_from": "3d_fullres",
            "patch_size": [16, 24, 32],
            "spacing": [17.0, 17.0, 17.0],
            "next_stage": "3d_cascade_fullres",
        }

    folder = fresh_model("3d_lowres", plans=lowres)
    model = runner.install(folder, name="low")
    assert model.details["configuration"] == "3d_lowres"
    array, size = noise((40, 47, 51)), (10.0, 10.0, 10.0)
    expected = stock_labels(folder, array, mirroring=False, spacing=size)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)


def test_anisotropic_networks_are_those_of_stock(runner, fresh_model, answer_of, stock_labels, noise):
    def flat_kernels(plans):
        chosen = plans["configurations"]["3d_fullres"]
        chosen.update(patch_size=[8, 40, 32], spacing=[40.0, 10.0, 10.0])
        arguments = chosen["architecture"]["arch_kwargs"]
        arguments["kernel_sizes"][:2] = [[1, 3, 3], [1, 3, 3]]
        arguments["strides"] = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]]

    folder = fresh_model("3d_fullres", plans=flat_kernels)
    model = runner.install(folder, name="long")
    array, size = noise((14, 44, 36)), (35.0, 9.0, 11.0)
    expected = stock_labels(folder, array, spacing=size)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)


def test_layers_of_other_dimensions_than_the_patch_are_refused(runner, fresh_model):
    def mixed(plans):
        planar(plans)
        plans["configurations"]["2d"]["patch_size"] = [8, 32, 32]
        plans["configurations"]["2d"]["spacing"] = [10.0, 10.0, 10.0]

    with pytest.raises(UnusableModel, match="Conv2d"):
        runner.install(fresh_model("2d", plans=mixed, mirroring=(0, 1)), name="mixed")


def test_mirroring_across_sections_is_refused(runner, fresh_model):
    with pytest.raises(UnusableModel, match="mirroring"):
        runner.install(fresh_model("2d", plans=planar, mirroring=(0, 1, 2)), name="mixed")

"""What the runner offers and refuses before it runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest
from attrs import fields

from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.runner import BUNDLED
from cryomamba_core.errors import (
    InvalidParameter,
    ModelExists,
    OutOfMemory,
    PluginUnavailable,
    UnsupportedModel,
    UnusableModel,
    UnusableVolume,
)
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_core.wire import from_plain, to_plain


def grid(size: float | tuple[float, float, float] = 10.0, shape=(128, 256, 256)) -> VoxelGrid:
    return VoxelGrid(shape=shape, voxel_size=size if isinstance(size, tuple) else (size,) * 3)


@pytest.fixture
def spaced(runner, edited_model):
    """A model trained on voxels of 10 Å."""

    def spacing(plans):
        plans["configurations"]["3d_fullres"]["spacing"] = [10.0, 10.0, 10.0]

    return runner.install(edited_model(plans=spacing), name="spaced")


def test_the_plugin_registers_the_runner(tmp_path):
    from cryomamba_backends.nnunet import plugin

    host = PluginHost(Settings(data_dir=tmp_path))
    assert host.register(plugin, name="nnunet").error == ""
    assert host.runners.names == ("nnunet",)


def test_the_plugin_is_light():
    heavy = ("torch", "nnunetv2", "scipy", "safetensors", "dynamic_network_architectures")
    code = f"import sys, cryomamba_backends.nnunet.plugin; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_parameter_explains_itself_and_has_a_default():
    assert all(field.metadata["help"] for field in fields(NNUNetParams))
    assert NNUNetParams() == from_plain({}, NNUNetParams)
    chosen = NNUNetParams(mirroring=False, step=0.7, folds=(0, 2), spacing="voxels")
    assert from_plain(to_plain(chosen), NNUNetParams) == chosen


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "quick"},
        {"precision": "half"},
        {"coarse": True},
        {"coarse_first": "120"},
        {"coarse_first": "w=1"},
        {"coarse_first": "z=-1"},
        {"coarse_first": 120},
        {"step": 0},
        {"step": 1.01},
        {"step": float("nan")},
        {"folds": []},
        {"folds": [0, 0]},
        {"folds": [-1]},
        {"spacing": "loose"},
        {"mirroring": "yes"},
        {"unknown": 1},
    ],
)
def test_parameters_that_cannot_be_are_refused(params: dict[str, Any]):
    with pytest.raises(InvalidParameter):
        from_plain(params, NNUNetParams)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_plan_counts_images_of_tiles_and_memory(mode, runner, spaced):
    def plan(shape, **params):
        return runner.plan(spaced, grid(shape=shape), NNUNetParams(mode=mode, **params), "cpu")

    once = plan((256, 256, 256), mirroring=False)
    assert once.tiles == 7 * 7 * 7
    assert plan((256, 256, 256)).tiles == 8 * once.tiles
    deeper = plan((512, 256, 256), mirroring=False)
    assert deeper.tiles == 15 * 7 * 7
    assert deeper.ram_bytes == once.ram_bytes
    assert deeper.vram_bytes == 0
    wider = plan((512, 512, 512), mirroring=False)
    bytes_of_voxel = {"exact": 2 * (3 + 1) + 4, "fast": 4 * 3 + 4}[mode]
    assert wider.ram_bytes == pytest.approx(once.ram_bytes + bytes_of_voxel * 64 * 3 * 256 * 256, rel=0.1)


def test_fast_mode_holds_no_more_for_several_folds(runner, edited_model):
    model = runner.install(
        edited_model(folds={"0": 0, "1": 7, "2": 8}), name="folds", options={"spacing_unit": "voxels"}
    )

    def needed(mode, folds):
        params = NNUNetParams(mode=mode, folds=folds)
        return runner.plan(model, grid(shape=(512, 512, 512)), params, "cpu").ram_bytes

    weights = 2 * 4 << 20
    assert needed("fast", (0, 1, 2)) < needed("fast", (0,)) + weights
    assert needed("exact", (0, 1, 2)) > needed("exact", (0,)) + 2 * 2 * 3 * 64 * 512 * 512


def test_a_run_that_no_memory_holds_is_refused(runner, spaced):
    with pytest.raises(OutOfMemory) as caught:
        runner.plan(spaced, grid(shape=(64, 400_000, 400_000)), NNUNetParams(), "cpu")
    assert caught.value.hint


def test_what_is_not_there_is_refused_with_a_hint(runner, spaced):
    with pytest.raises(PluginUnavailable, match="cuda") as unavailable:
        runner.plan(spaced, grid(), NNUNetParams(), "cuda:99")
    assert "cpu" in unavailable.value.hint
    with pytest.raises(InvalidParameter, match="fold 3"):
        runner.plan(spaced, grid(), NNUNetParams(folds=(0, 3)), "cpu")


@pytest.mark.parametrize(
    ("rule", "size", "resampled", "noted"),
    [
        ("tolerant", 10.0, False, ""),
        ("tolerant", 10.05, False, "without resampling"),
        ("tolerant", 10.2, True, "is resampled"),
        ("tolerant", (10.0, 10.0, 9.0), True, "is resampled"),
        ("tolerant", 25.0, True, "--voxel-size"),
        ("strict", 10.01, False, "without resampling"),
        ("strict", 10.05, True, "is resampled"),
        ("voxels", 25.0, False, "ignores"),
        ("voxels", 10.0, False, ""),
    ],
)
def test_voxel_sizes_are_judged_by_the_rule(rule, size, resampled, noted, runner, spaced):
    params = NNUNetParams(spacing=rule, mode="exact")
    plan = runner.plan(spaced, grid(size), params, "cpu")
    equal = runner.plan(spaced, grid(), params, "cpu")
    assert (plan.ram_bytes != equal.ram_bytes) == resampled
    assert [note for note in plan.notes if "voxel size" in note and noted in note] or not noted
    assert noted or not any("voxel size" in note for note in plan.notes)


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 40, 1)], ids=["sections", "rows"])
def test_a_volume_of_which_resampling_leaves_nothing_is_refused(shape, runner, spaced):
    with pytest.raises(UnusableVolume, match="is 4 Å long: less than half a voxel of 10 Å") as caught:
        runner.plan(spaced, VoxelGrid(shape=shape, voxel_size=(4.0,) * 3), NNUNetParams(mode="exact"), "cpu")
    assert "--voxel-size" in caught.value.hint


def test_a_plan_counts_the_tiles_of_the_resampled_volume(runner, spaced):
    plan = runner.plan(spaced, grid(20.0), NNUNetParams(mode="exact", mirroring=False), "cpu")
    assert plan.tiles == 7 * 15 * 15


def resampled_by(function, **arguments):
    def plans(content):
        content["configurations"]["3d_fullres"].update(
            spacing=[10.0, 10.0, 10.0],
            resampling_fn_data=function,
            resampling_fn_probabilities=function,
            resampling_fn_data_kwargs=arguments,
            resampling_fn_probabilities_kwargs=arguments,
        )

    return plans


@pytest.mark.parametrize(
    "plans",
    [
        resampled_by("resample_torch_fornnunet", mode="bicubic"),
        resampled_by("resample_data_or_seg_to_shape", order=0),
        resampled_by("resample_data_or_seg_to_shape", force_separate_z="often"),
    ],
)
def test_another_way_to_resample_is_refused_where_it_is_needed(plans, runner, edited_model):
    model = runner.install(edited_model(plans=plans), name="x")
    with pytest.raises(UnsupportedModel, match="resample_") as caught:
        runner.plan(model, grid(12.0), NNUNetParams(), "cpu")
    assert "spacing=voxels" in caught.value.hint
    runner.plan(model, grid(12.0), NNUNetParams(spacing="voxels"), "cpu")
    runner.plan(model, grid(10.05), NNUNetParams(), "cpu")


def test_a_model_that_never_resamples_is_run_voxel_by_voxel(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=resampled_by("no_resampling_hack"))
    model = runner.install(folder, name="x")
    array, size = noise((20, 40, 30)), (12.0, 12.0, 12.0)
    answer = answer_of(runner, model, array, voxel_size=size, mirroring=False, mode="exact")
    assert any("never to resample" in note for note in answer.context.notes)
    expected = stock_labels(folder, array, spacing=size, mirroring=False)
    assert (answer.labels == expected).all()


@pytest.mark.parametrize(
    ("spacing", "unit", "expected"),
    [
        ([1.0, 1.0, 1.0], None, None),
        ([13.3, 10.0, 10.0], None, (13.3, 10.0, 10.0)),
        ([1e-6, 1e-6, 1e-6], None, (10.0, 10.0, 10.0)),
        ([0.8, 0.8, 0.8], "angstrom-as-mm", (0.8, 0.8, 0.8)),
        ([10.0, 10.0, 10.0], "voxels", None),
    ],
)
def test_the_unit_of_the_spacing_is_asked_or_guessed(spacing, unit, expected, runner, edited_model):
    folder = edited_model(plans=lambda plans: plans["configurations"]["3d_fullres"].update(spacing=spacing))
    model = runner.install(folder, name="x", options={"spacing_unit": unit} if unit else None)
    assert model.voxel_size == (pytest.approx(expected) if expected else None)
    assert ("notes" in model.details) == (unit is None)


def test_a_spacing_of_any_unit_asks_for_it(runner, edited_model):
    folder = edited_model(plans=lambda plans: plans["configurations"]["3d_fullres"].update(spacing=[0.8, 0.8, 0.8]))
    with pytest.raises(InvalidParameter, match=r"0\.8") as caught:
        runner.install(folder, name="x")
    assert "spacing_unit" in caught.value.hint


def test_a_model_that_was_replaced_is_not_taken_for_the_one_that_was_planned(runner, spaced, tiny_tomo_model):
    shutil.rmtree(runner._settings.models_dir / "spaced")
    runner.install(tiny_tomo_model, name="spaced")
    with pytest.raises(UnusableModel, match="replaced"):
        runner.plan(spaced, grid(), NNUNetParams(), "cpu")


def test_the_demo_model_comes_with_the_package_and_is_small(runner):
    model = runner.model("cryomamba-demo")
    assert model.licence == "BSD-3-Clause"
    assert [label.name for label in model.labels] == ["membrane", "microtubule", "ribosome"]
    assert sum(path.stat().st_size for path in (BUNDLED / model.name).iterdir()) <= 4 << 20


def test_no_model_takes_the_name_of_the_demo_model(runner, tiny_tomo_model):
    with pytest.raises(ModelExists):
        runner.install(tiny_tomo_model, name="cryomamba-demo")


def test_the_demo_model_that_is_installed_again_is_the_one_of_the_package(runner, as_trained_folder):
    folder = as_trained_folder(BUNDLED / "cryomamba-demo")
    model = runner.install(folder, options={"spacing_unit": runner.model("cryomamba-demo").details["spacing unit"]})
    assert model.name == "cryomamba-demo"

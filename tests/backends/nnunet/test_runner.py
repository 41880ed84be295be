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


def test_a_plan_counts_tiles_and_memory(runner, spaced):
    plan = runner.plan(spaced, grid(), NNUNetParams(), "cpu")
    assert plan.tiles == 3 * 7 * 7
    deeper = runner.plan(spaced, grid(shape=(512, 256, 256)), NNUNetParams(), "cpu")
    assert deeper.tiles == 15 * 7 * 7
    assert deeper.ram_bytes == plan.ram_bytes
    wider = runner.plan(spaced, grid(shape=(128, 512, 512)), NNUNetParams(), "cpu")
    assert wider.ram_bytes > plan.ram_bytes + (2 * 4 + 4) * 64 * 3 * 256 * 256 - 1


def test_a_run_that_no_memory_holds_is_refused(runner, spaced):
    with pytest.raises(OutOfMemory) as caught:
        runner.plan(spaced, grid(shape=(64, 400_000, 400_000)), NNUNetParams(), "cpu")
    assert caught.value.hint


def test_what_is_not_there_yet_is_refused_with_a_hint(runner, spaced):
    with pytest.raises(InvalidParameter, match="fast") as caught:
        runner.plan(spaced, grid(), NNUNetParams(mode="fast"), "cpu")
    assert "exact" in caught.value.hint
    with pytest.raises(PluginUnavailable, match="cuda") as unavailable:
        runner.plan(spaced, grid(), NNUNetParams(), "cuda:0")
    assert "cpu" in unavailable.value.hint
    with pytest.raises(InvalidParameter, match="fold 3"):
        runner.plan(spaced, grid(), NNUNetParams(folds=(0, 3)), "cpu")


@pytest.mark.parametrize(
    ("rule", "size", "runs", "noted"),
    [
        ("tolerant", 10.0, True, False),
        ("tolerant", 10.05, True, True),
        ("tolerant", 10.2, False, False),
        ("tolerant", (10.0, 10.0, 9.0), False, False),
        ("strict", 10.01, True, True),
        ("strict", 10.05, False, False),
        ("voxels", 25.0, True, True),
        ("voxels", 10.0, True, False),
    ],
)
def test_voxel_sizes_are_judged_by_the_rule(rule, size, runs, noted, runner, spaced):
    params = NNUNetParams(spacing=rule)
    if runs:
        notes = runner.plan(spaced, grid(size), params, "cpu").notes
        assert bool(notes) == noted
    else:
        with pytest.raises(UnsupportedModel, match="resampl") as caught:
            runner.plan(spaced, grid(size), params, "cpu")
        assert "spacing=voxels" in caught.value.hint


def test_a_run_is_refused_and_noted_as_it_was_planned(runner, spaced, answer_of, noise):
    array = noise((16, 24, 32))
    with pytest.raises(UnsupportedModel, match="resampl"):
        answer_of(runner, spaced, array, voxel_size=(12.0, 12.0, 12.0))
    answer = answer_of(runner, spaced, array, voxel_size=(10.05, 10.0, 10.0), mirroring=False)
    assert any("without resampling" in note for note in answer.context.notes)


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

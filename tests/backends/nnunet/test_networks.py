"""Networks that stock's trainers make of their own: stock nnU-Net is the judge."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scores_kept import assert_scores_are_kept
from torchvision_operators import import_torchvision

from cryomamba_backends.nnunet.trainers import KNOWN_TRAINERS, TRAINERS
from cryomamba_core.errors import UnsupportedModel, UnusableModel

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

BATCH_NORM = "nnUNetTrainerBN"
PRIMUS = "nnUNet_Primus_S_Trainer"

#: Random networks are full of near ties, which fall otherwise where sums are in single precision, not in half.
NEAR_TIES = 5e-3

#: Stock's that nobody trains with: it builds no network.
ABSTRACT = {"AbstractPrimus"}


@pytest.fixture
def trained_by(edited_model):
    """A model of random weights, of the network that one of stock's trainers builds."""
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    import_torchvision()

    def make(trainer, *, patch=(24, 16, 24), change=None):
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        def plans(edited):
            edited["configurations"]["3d_fullres"]["patch_size"] = list(patch)

        def weights(content):
            described = content["init_args"]["plans"]
            plans(described)
            content["trainer_name"] = trainer
            manager = PlansManager(json.loads(json.dumps(described)))
            torch.manual_seed(5)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = recursive_find_trainer_class_by_name(trainer).build_network_architecture(
                    manager, manager.get_configuration("3d_fullres"), 1, 3, enable_deep_supervision=False
                )
            content["network_weights"] = network.state_dict()
            if change:
                change(content["network_weights"])

        return edited_model(trainer, plans=plans, checkpoint=weights)

    return make


def random_statistics(weights):
    for key, tensor in weights.items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.2)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 2)


def lively(weights):
    """Random weights whose answers are not all the same: what layers add counts as much as what they are given."""
    for key, tensor in weights.items():
        if "gamma_" in key or "scale_proj" in key:
            tensor.fill_(1)
        elif "pos_embed" in key:
            tensor.normal_(0, 1)


def test_networks_with_batch_norm_are_those_of_stock(runner, trained_by, answer_of, stock_labels, noise):
    folder = trained_by(BATCH_NORM, change=random_statistics)
    model = runner.install(folder, name="bn")
    array = np.pad(noise((30, 27, 32)), 2)
    expected = stock_labels(folder, array)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array).labels, expected)
    fast = answer_of(runner, model, array, mode="fast", precision="single")
    assert (fast.labels != expected).mean() < NEAR_TIES
    assert_scores_are_kept(runner, model)


@pytest.mark.parametrize("trainer", [PRIMUS, "nnUNet_PrimusV2S_Trainer", "nnUNet_PrimusV3S_Trainer"])
def test_primus_is_that_of_stock(trainer, runner, trained_by, answer_of, stock_labels, noise):
    folder = trained_by(trainer, change=lively)
    model = runner.install(folder, name="primus")
    array = np.pad(noise((28, 20, 30)), ((1, 0), (2, 1), (0, 3)))
    expected = stock_labels(folder, array, mirroring=False)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)
    fast = answer_of(runner, model, array, mirroring=False, mode="fast", precision="single")
    assert (fast.labels != expected).mean() < NEAR_TIES
    assert_scores_are_kept(runner, model)


def test_the_digest_of_primus_depends_on_the_trainer(runner, trained_by):
    digests = [runner.install(trained_by(trainer), name=trainer).digest for trainer in (PRIMUS, "_Primus_S_96_BS1")]
    assert digests[0] != digests[1]


def test_a_patch_that_primus_cannot_divide_is_refused(runner, edited_model):
    for patch, error in (((32, 28, 32), UnusableModel), ((1024, 512, 512), UnsupportedModel)):
        folder = edited_model(
            f"p{patch[1]}",
            plans=lambda plans, patch=patch: plans["configurations"]["3d_fullres"].update(patch_size=list(patch)),
            checkpoint=lambda content: content.update(trainer_name=PRIMUS),
        )
        with pytest.raises(error, match=str(patch[1])) as caught:
            runner.install(folder, name="x")
        assert error is UnsupportedModel or "multiple of 8" in caught.value.hint


@pytest.mark.parametrize(
    ("library", "error"), [("timm", "ImportError"), ("torchvision", "RuntimeError"), ("torchvision", "OSError")]
)
def test_a_library_of_primus_that_cannot_be_imported_is_named(library, error):
    """In a process of its own, which has imported none of them yet."""
    code = f"""
import sys
class Broken:
    def find_spec(self, name, *_):
        if name == {library!r}:
            raise {error}("it is broken")
sys.meta_path.insert(0, Broken())
from cryomamba_backends.nnunet.network import build_network
from cryomamba_backends.nnunet.primus import primus_recipe
from cryomamba_core.errors import PluginUnavailable
try:
    build_network(primus_recipe("nnUNet_Primus_S_Trainer", (32, 32, 32)), channels=1, heads=2)
except PluginUnavailable as error:
    print(error.message, "|", error.hint)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Primus needs timm and torchvision, which cannot be imported: it is broken" in said
    assert f"the torchvision that fits PyTorch {torch.__version__}: pip install" in said


def stock_trainers() -> dict[str, tuple[list[str], list[str]]]:
    """Every trainer of stock nnU-Net: its bases, and the methods that it has of its own; nothing is imported."""
    spec = find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        pytest.skip("stock nnU-Net is the judge")
    found = {}
    for file in (Path(spec.origin).parent / "training" / "nnUNetTrainer").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                found[node.name] = bases, [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
    return found


def test_every_trainer_of_stock_is_known():
    assert set(stock_trainers()) - ABSTRACT == KNOWN_TRAINERS


def test_trainers_that_are_said_to_leave_the_network_alone_do():
    found = stock_trainers()

    def builds(name: str) -> bool:
        bases, methods = found[name]
        return "build_network_architecture" in methods or any(builds(base) for base in bases if base in found)

    found["nnUNetTrainer"] = found["nnUNetTrainer"][0], []  # its own is that of the plans
    assert {name for name in found if not builds(name)} == TRAINERS

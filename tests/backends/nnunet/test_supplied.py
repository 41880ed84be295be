"""What packages of others supply for nnU-Net models: stock nnU-Net, which finds their trainers, is the judge."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scores_kept import assert_scores_are_kept
from torchvision_operators import import_torchvision

from cryomamba_core.errors import HostileModel, PluginFault, PluginUnavailable, UnsupportedModel, UnusableModel

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

EXAMPLE = Path(__file__).with_name("supplied_example.py")
CLASS = "somebodys.networks.Small"
SCHEME = "ArcsinhNormalization"
MODULE = "somebodys_example"

TRAINER = f"""
from {MODULE} import build
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class SomebodysTrainer(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return build(
            architecture={{"arch_kwargs": configuration_manager.network_arch_init_kwargs}},
            patch=configuration_manager.patch_size,
            channels=num_input_channels,
            heads=num_output_channels,
        )
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installs packages that supply things, and removes them again."""
    site = tmp_path / "site-packages"
    site.mkdir()
    shutil.copy(EXAMPLE, site / f"{MODULE}.py")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)

    def install(name="somebodys", **groups):
        folder = site / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [
            f"[cryomamba.nnunet.{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in groups.items()
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        return lambda: shutil.rmtree(folder)

    yield install
    sys.modules.pop(MODULE, None)


@pytest.fixture
def own_network(edited_model, packages):
    """A model of a trainer that builds a network of its own, or of plans that name one."""

    def make(name="own", *, trainer="SomebodysTrainer", class_name=None):
        import importlib

        def plans(edited):
            chosen = edited["configurations"]["3d_fullres"]
            chosen["patch_size"] = [24, 32, 16]
            if class_name:
                chosen["architecture"]["network_class_name"] = class_name

        def weights(content):
            torch.manual_seed(2)
            network = importlib.import_module(MODULE).build(
                architecture={"arch_kwargs": {"features_per_stage": [8]}}, patch=(24, 32, 16), channels=1, heads=3
            )
            content.update(trainer_name=trainer, network_weights=network.state_dict())

        return edited_model(name, plans=plans, checkpoint=weights)

    return make


def test_a_network_of_somebodys_trainer_is_that_of_stock(
    runner, packages, own_network, answer_of, stock_labels, noise, tmp_path, monkeypatch
):
    import_torchvision()
    packages(networks={"SomebodysTrainer": f"{MODULE}:build"})
    folder = own_network()
    model = runner.install(folder, name="own")
    assert "its network is built by somebodys 1.2" in model.details["notes"]
    trainers = tmp_path / "trainers"
    trainers.mkdir()
    (trainers / "somebodys_trainer.py").write_text(TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers))
    array = np.pad(noise((30, 40, 33)), 1)
    expected = stock_labels(folder, array)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array).labels, expected)
    fast = answer_of(runner, model, array, mode="fast", precision="single")
    assert (fast.labels != expected).mean() < 5e-3  # sums are in single precision, and near ties many
    assert_scores_are_kept(runner, model)


def test_a_network_that_only_a_plugin_knows_may_stand_in_plans(runner, packages, own_network, answer_of, noise):
    folder = own_network(trainer="nnUNetTrainer", class_name=CLASS)
    with pytest.raises(HostileModel, match="somebodys") as caught:
        runner.install(folder, name="own")
    assert "plugin" in caught.value.hint
    packages(networks={CLASS: f"{MODULE}:build"})
    model = runner.install(folder, name="own")
    by_trainer = own_network("by-trainer")
    packages("more", networks={"SomebodysTrainer": f"{MODULE}:build"})
    assert runner.install(by_trainer, name="by-trainer").digest != model.digest
    assert answer_of(runner, model, noise((24, 32, 16))).labels.any()


def test_without_its_plugin_an_installed_model_says_what_it_needs(runner, packages, own_network, answer_of, noise):
    remove = packages(networks={"SomebodysTrainer": f"{MODULE}:build"})
    model = runner.install(own_network(), name="own")
    remove()
    assert runner.model("own") == model
    with pytest.raises(PluginUnavailable, match="SomebodysTrainer") as caught:
        answer_of(runner, model, noise((24, 32, 16)))
    assert "cryomamba.nnunet.networks" in caught.value.hint


def test_a_trainer_that_the_user_vouches_for_has_the_network_of_the_plans(runner, packages, edited_model):
    packages(networks={"SomebodysTrainer": f"{MODULE}:build"})
    folder = edited_model(checkpoint=lambda content: content.update(trainer_name="SomebodysTrainer"))
    with pytest.raises(UnusableModel, match="weight"):
        runner.install(folder, name="x")
    model = runner.install(folder, name="x", options={"accept_trainer": "SomebodysTrainer"})
    assert "built by" not in model.details["notes"]


def test_no_plugin_takes_the_network_of_a_trainer_of_stock(runner, packages, edited_model, tiny_tomo_model):
    packages(networks={"nnUNetTrainer": f"{MODULE}:build", "nnUNetTrainer_5epochs": f"{MODULE}:build"})
    folder = edited_model(checkpoint=lambda content: content.update(trainer_name="nnUNetTrainer_5epochs"))
    assert runner.install(folder, name="a").digest == runner.install(tiny_tomo_model, name="b").digest


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no_such_module:build", "cannot be imported"),
        (f"{MODULE}:no_such", "cannot be imported"),
        (f"{MODULE}:__doc__", "no function"),
        ("builtins:dict", "no network"),
        ("builtins:print", "cannot build"),
    ],
)
def test_a_plugin_that_fails_is_named(entry, said, runner, packages, own_network):
    packages(networks={"SomebodysTrainer": entry})
    with pytest.raises(PluginFault, match=said) as caught:
        runner.install(own_network(), name="own")
    assert "somebodys 1.2" in caught.value.message


def test_two_packages_that_supply_the_same_are_named(runner, packages, own_network):
    for name in ("somebodys", "others"):
        packages(name, networks={"SomebodysTrainer": f"{MODULE}:build"})
    with pytest.raises(PluginFault, match=r"others 1\.2 and somebodys 1\.2"):
        runner.install(own_network(), name="own")


def with_scheme(plans):
    chosen = plans["configurations"]["3d_fullres"]
    chosen.update(patch_size=[24, 32, 16], normalization_schemes=[SCHEME])


def test_a_normalisation_of_a_plugin_is_that_of_stock(
    runner, packages, edited_model, answer_of, stock_labels, noise, monkeypatch
):
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes

    class ArcsinhNormalization(schemes.ImageNormalization):
        leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

        def run(self, image, seg=None):
            image = image.astype(self.target_dtype, copy=False)
            image -= np.float32(self.intensityproperties["mean"])
            image /= np.float32(self.intensityproperties["std"])
            return np.arcsinh(image)

    monkeypatch.setattr(schemes, SCHEME, ArcsinhNormalization, raising=False)
    folder = edited_model(plans=with_scheme)
    with pytest.raises(UnsupportedModel, match=SCHEME):
        runner.install(folder, name="x")
    remove = packages(normalisations={SCHEME: f"{MODULE}:normalise"})
    model = runner.install(folder, name="x")
    assert f"{SCHEME} is of somebodys 1.2" in model.details["notes"]
    array = np.pad(noise((30, 40, 33)), 2)
    expected = stock_labels(folder, array, mirroring=False)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array, mirroring=False).labels, expected)
    remove()
    with pytest.raises(UnsupportedModel, match=SCHEME):
        answer_of(runner, model, array)


def test_a_normalisation_of_a_plugin_knows_no_mask(runner, packages, edited_model):
    def masked(plans):
        with_scheme(plans)
        plans["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True]

    packages(normalisations={SCHEME: f"{MODULE}:normalise"})
    with pytest.raises(UnsupportedModel, match="mask"):
        runner.install(edited_model(plans=masked), name="x")


def test_a_normalisation_of_a_plugin_that_fails_is_named(runner, packages, edited_model, answer_of, noise):
    packages(normalisations={SCHEME: f"{MODULE}:build"})  # which takes other arguments
    model = runner.install(edited_model(plans=with_scheme), name="x")
    with pytest.raises(PluginFault, match=rf"{SCHEME} of somebodys 1\.2 cannot normalise the volume: TypeError"):
        answer_of(runner, model, noise((30, 40, 33)), mirroring=False)

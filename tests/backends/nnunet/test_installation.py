"""Installing models from folders that nobody vouches for."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest

from cryomamba_backends.nnunet.installed import read_installed
from cryomamba_backends.nnunet.plans import parse_recipe
from cryomamba_core.errors import (
    HostileModel,
    InvalidParameter,
    ModelExists,
    UnsupportedModel,
    UnusableModel,
)

torch = pytest.importorskip("torch")


def models_dir(runner) -> Path:
    return runner._settings.models_dir


def own_models(runner) -> list[str]:
    return [model.name for model in runner.models() if model.name != "cryomamba-demo"]


def left_behind(runner) -> list[str]:
    folder = models_dir(runner)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_an_installed_model_says_what_it_is(runner, tiny_tomo_model):
    model = runner.install(
        tiny_tomo_model, name="tiny", options={"licence": "BSD-3-Clause", "citation": "us", "description": "small"}
    )
    assert [(label.value, label.name) for label in model.labels] == [(1, "membrane"), (2, "particle")]
    assert (model.runner, model.licence, model.citation, model.description) == ("nnunet", "BSD-3-Clause", "us", "small")
    assert model.voxel_size is None
    assert model.details["spacing unit"] == "voxels"
    assert "voxels" in model.details["notes"]
    assert model.details["mirroring"] == "0, 1, 2"
    assert runner.model("tiny") == model
    assert left_behind(runner) == ["tiny"]
    assert sorted(path.name for path in (models_dir(runner) / "tiny").iterdir()) == [
        "dataset.json",
        "fold_0.safetensors",
        "model.json",
        "plans.json",
    ]


def test_a_parent_of_the_only_full_resolution_model_is_enough(runner, tiny_tomo_model, tmp_path):
    inner = tmp_path / "Dataset901_TinyTomo" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(tiny_tomo_model, inner)
    assert runner.recognises(inner)
    assert runner.recognises(inner.parent)
    model = runner.install(inner.parent)
    assert model.name == f"Dataset901_TinyTomo-{model.digest[:12]}"


@pytest.mark.parametrize(
    ("others", "taken"),
    [(["2d", "3d_lowres"], "3d_fullres"), ([], "3d_fullres"), (["2d"], None), (["2d", "3d_lowres"], None)],
)
def test_of_several_models_in_a_folder_the_full_resolution_one_is_taken(
    others, taken, runner, tiny_tomo_model, tmp_path
):
    for name in others:
        (tmp_path / "data" / f"T__P__{name}").mkdir(parents=True)
        shutil.copy(tiny_tomo_model / "plans.json", tmp_path / "data" / f"T__P__{name}")
    assert runner.recognises(tmp_path / "data") == bool(others)
    if taken:
        shutil.copytree(tiny_tomo_model, tmp_path / "data" / f"T__P__{taken}")
        assert runner.install(tmp_path / "data", name="x").details["configuration"] == taken
    else:
        message = "T__P__2d, T__P__3d_lowres" if len(others) > 1 else "T__P__2d has no folds"
        with pytest.raises(UnusableModel, match=message):
            runner.install(tmp_path / "data", name="x")


def test_the_digest_does_not_depend_on_names_and_times(runner, tiny_tomo_model, edited_model):
    first = runner.install(tiny_tomo_model, name="one")
    copy = edited_model("copy")
    os.utime(copy / "plans.json", (1, 1))
    assert runner.install(copy, name="two").digest == first.digest


def test_the_digest_depends_on_what_decides_the_labels(runner, edited_model):
    def patch(plans):
        plans["configurations"]["3d_fullres"]["patch_size"] = [64, 64, 32]

    def unmirrored(content):
        content["inference_allowed_mirroring_axes"] = None

    def renamed(dataset):
        dataset["labels"] = {"background": 0, "membrane": 1, "ribosome": 2}

    digests = [
        runner.install(edited_model("as-is"), name="a").digest,
        runner.install(edited_model("weights", folds={"0": 5}), name="b").digest,
        runner.install(edited_model("patch", plans=patch), name="c").digest,
        runner.install(edited_model("mirrors", checkpoint=unmirrored), name="d").digest,
        runner.install(edited_model("labels", dataset=renamed), name="e").digest,
        runner.install(edited_model("folds", folds={"0": 0, "1": 0}), name="f").digest,
    ]
    assert len(set(digests)) == len(digests)


def test_without_a_name_the_same_model_is_installed_once(runner, tiny_tomo_model):
    first = runner.install(tiny_tomo_model)
    assert first.name == f"tiny-tomo-{first.digest[:12]}"
    assert runner.install(tiny_tomo_model) == first
    assert left_behind(runner) == [first.name]


def test_a_name_that_is_taken_is_refused(runner, tiny_tomo_model):
    runner.install(tiny_tomo_model, name="tiny")
    with pytest.raises(ModelExists) as caught:
        runner.install(tiny_tomo_model, name="tiny")
    assert caught.value.hint
    assert left_behind(runner) == ["tiny"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "a/b", "", "..", "a b", "ä", "x" * 200, "a\n"])
def test_a_name_that_leaves_its_folder_is_refused(name, runner, tiny_tomo_model):
    with pytest.raises(InvalidParameter):
        runner.install(tiny_tomo_model, name=name)
    assert left_behind(runner) == []


@pytest.mark.parametrize("options", [{"spacing": "mm"}, {"spacing_unit": "furlong"}])
def test_options_that_are_not_known_are_refused(options, runner, tiny_tomo_model):
    with pytest.raises(InvalidParameter):
        runner.install(tiny_tomo_model, name="tiny", options=options)


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json", "fold_0", "fold_0/checkpoint_final.pth"])
def test_a_missing_file_is_named(missing, runner, edited_model):
    folder = edited_model()
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UnusableModel) as caught:
        runner.install(folder, name="x")
    assert Path(missing).name.replace("fold_0", "folds") in caught.value.message
    assert left_behind(runner) == []


def test_the_best_checkpoint_is_taken_where_there_is_no_final_one(runner, edited_model):
    folder = edited_model()
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
    assert "checkpoint_best.pth" in runner.install(folder, name="x").details["notes"]


def test_a_checkpoint_is_taken_by_its_name(runner, edited_model):
    folder = edited_model(folds={"0": 0, "1": 5})
    for fold in ("0", "1"):
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        shutil.copy(path, path.with_name("checkpoint_best.pth"))
        disturbed = torch.load(path, weights_only=False)
        disturbed["network_weights"]["decoder.seg_layers.2.bias"] = torch.ones(3)
        torch.save(disturbed, path)
    best = runner.install(folder, name="best", options={"checkpoint": "checkpoint_best.pth"})
    assert "checkpoint_best.pth was taken, as asked for" in best.details["notes"]
    assert best.details["folds"] == "0, 1"
    final = runner.install(folder, name="final", options={"checkpoint": "checkpoint_final.pth"})
    assert final.digest == runner.install(folder, name="usual").digest != best.digest
    (folder / "fold_1" / "checkpoint_best.pth").unlink()
    one = runner.install(folder, name="one", options={"checkpoint": "checkpoint_best.pth"})
    assert one.details["folds"] == "0"
    assert "left out: fold_1" in one.details["notes"]


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(runner, edited_model):
    folder = edited_model()
    shutil.copy(folder / "fold_0" / "checkpoint_final.pth", folder / "fold_0" / "epoch_100.pth")
    with pytest.raises(UnusableModel, match=r"checkpoint_latest\.pth") as caught:
        runner.install(folder, name="x", options={"checkpoint": "checkpoint_latest.pth"})
    assert "checkpoint_final.pth, epoch_100.pth" in caught.value.hint
    assert left_behind(runner) == []


@pytest.mark.parametrize("name", ["../fold_1/x.pth", "/etc/passwd", "..", "", ".x.pth", "a\\b.pth", "a.pth\n"])
def test_a_checkpoint_is_named_without_a_path(name, runner, edited_model):
    with pytest.raises(InvalidParameter, match="checkpoint"):
        runner.install(edited_model(), name="x", options={"checkpoint": name})


def test_the_fold_of_all_data_is_taken_where_there_is_no_other(runner, edited_model):
    assert runner.install(edited_model(folds={"all": 0}), name="x").details["folds"] == "all"
    both = runner.install(edited_model("both", folds={"all": 0, "0": 0}), name="y")
    assert both.details["folds"] == "0"
    assert "fold_all" in both.details["notes"]


class Touches:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def zipped(content, path):
    torch.save(content, path)


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [zipped, legacy, bare])
@pytest.mark.parametrize("where", ["beside the weights", "instead of everything"])
def test_a_checkpoint_that_would_run_a_command_does_not(write, where, runner, edited_model, tmp_path):
    mark = tmp_path / "it-ran"
    folder = edited_model()
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    hostile = {**content, "_best_ema": Touches(mark)} if where == "beside the weights" else Touches(mark)
    if write is bare and where == "beside the weights":
        hostile = {"_best_ema": Touches(mark)}
    write(hostile, path)
    with pytest.raises(HostileModel, match=r"(posix|os|nt)\.system") as caught:
        runner.install(folder, name="x")
    assert not mark.exists()
    assert caught.value.hint
    assert left_behind(runner) == []


@pytest.mark.parametrize("asked", [eval, getattr, shutil.rmtree])
def test_other_functions_in_a_checkpoint_are_named(asked, runner, edited_model):
    class Calls:
        def __reduce__(self):
            return asked, ("1",)

    folder = edited_model(checkpoint=lambda content: content.update(x=Calls()))
    with pytest.raises(HostileModel, match=asked.__name__):
        runner.install(folder, name="x")


def test_a_file_that_is_no_checkpoint_is_refused(runner, edited_model):
    folder = edited_model()
    path = folder / "fold_0" / "checkpoint_final.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((UnusableModel, HostileModel), match=r"checkpoint_final\.pth"):
        runner.install(folder, name="x")
    path.write_bytes(b"")
    with pytest.raises((UnusableModel, HostileModel), match=r"checkpoint_final\.pth"):
        runner.install(folder, name="x")


def architecture(**changes):
    def change(plans):
        described = plans["configurations"]["3d_fullres"]["architecture"]
        described.update({key: value for key, value in changes.items() if key == "network_class_name"})
        described["arch_kwargs"].update({key: value for key, value in changes.items() if key != "network_class_name"})

    return change


def configuration(**changes):
    return lambda plans: plans["configurations"]["3d_fullres"].update(changes)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (architecture(network_class_name="os.system"), "os.system"),
        (architecture(network_class_name="dynamic_network_architectures_evil.x.PlainConvUNet"), "evil"),
        (architecture(conv_op="subprocess.Popen"), "subprocess.Popen"),
        (architecture(nonlin="torch.hub.load"), "torch.hub.load"),
        (architecture(norm_op="torch.nn.modules.x.__import__.Y"), "__import__"),
    ],
)
def test_plans_that_name_foreign_code_are_hostile(change, named, runner, edited_model):
    with pytest.raises(HostileModel, match=named):
        runner.install(edited_model(plans=change), name="x")
    assert left_behind(runner) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (architecture(network_class_name="dynamic_network_architectures.architectures.primus.PrimusM"), "PrimusM"),
        (architecture(nonlin="torch.nn.Linear"), "Linear"),
        (architecture(callback="x"), "callback"),
        (configuration(normalization_schemes=["MyNormalization"]), "MyNormalization"),
        (configuration(preprocessor_name="Mine"), "Mine"),
        (configuration(patch_size=[4096, 4096, 4096]), "4096"),
        (lambda plans: plans.update(label_manager="Mine"), "Mine"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change, named, runner, edited_model):
    with pytest.raises(UnsupportedModel, match=named) as caught:
        runner.install(edited_model(plans=change), name="x")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("accept_preprocessor", configuration(preprocessor_name="Mine")),
        ("accept_label_manager", lambda plans: plans.update(label_manager="Mine")),
    ],
)
def test_classes_that_the_user_vouches_for_are_taken_for_stock_ones(option, change, runner, edited_model, tmp_path):
    folder = edited_model(plans=change)
    with pytest.raises(UnsupportedModel) as caught:
        runner.install(folder, name="x", options={option: "Another"})
    assert f"--option {option}=Mine" in caught.value.hint
    model = runner.install(folder, name="x", options={option: "Mine"})
    assert "Mine was taken for nnU-Net's own" in model.details["notes"]
    usual = runner.install(edited_model("usual"), name="y")
    assert model.digest == usual.digest
    assert "Mine" not in usual.details.get("notes", "")


@pytest.mark.parametrize(
    "change",
    [
        architecture(n_stages=10**9),
        architecture(features_per_stage=[10**9] * 4),
        architecture(n_conv_per_stage=[10**6] * 4),
        architecture(nonlin_kwargs={"no_such": 1}),
        architecture(features_per_stage=[4, 4]),
        configuration(patch_size=[64, 64]),
        configuration(patch_size="64"),
        configuration(spacing=[0, 1, 1]),
        configuration(inherits_from="3d_fullres"),
        configuration(use_mask_for_norm=[True, True]),
        configuration(architecture=None),
        lambda plans: plans.pop("configurations"),
        lambda plans: plans.update(transpose_forward=[0, 0, 2]),
    ],
)
def test_plans_that_cannot_be_are_refused(change, runner, edited_model):
    with pytest.raises(UnusableModel) as caught:
        runner.install(edited_model(plans=change), name="x")
    assert caught.value.message[0].islower()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.update(labels={"background": 0, "a": 2}), UnusableModel),
        (lambda d: d.update(labels={"a": 1}), UnusableModel),
        (lambda d: d.update(labels={"background": 0, "a": [1, 2], "b": 2}), UnusableModel),
        (lambda d: d.update(labels={"background": 0}), UnusableModel),
        (lambda d: d.pop("channel_names"), UnusableModel),
    ],
)
def test_labels_and_channels_that_do_not_fit_are_refused(change, error, runner, edited_model):
    with pytest.raises(error):
        runner.install(edited_model(dataset=change), name="x")


def test_weights_that_do_not_fit_the_network_are_named(runner, edited_model):
    key = "decoder.seg_layers.0.weight"
    with pytest.raises(UnusableModel, match=key):
        runner.install(edited_model("a", checkpoint=lambda c: c["network_weights"].pop(key)), name="x")
    with pytest.raises(UnusableModel, match=key):
        runner.install(
            edited_model("b", checkpoint=lambda c: c["network_weights"].update({key: torch.zeros(1)})), name="x"
        )
    with pytest.raises(UnusableModel, match="extra"):
        runner.install(
            edited_model("c", checkpoint=lambda c: c["network_weights"].update(extra=torch.zeros(1))), name="x"
        )


def test_prefixes_of_compiled_and_distributed_training_are_stripped(runner, tiny_tomo_model, edited_model):
    def prefixed(content):
        weights = content["network_weights"]
        content["network_weights"] = {f"module._orig_mod.{key}": tensor for key, tensor in weights.items()}

    plain = runner.install(tiny_tomo_model, name="plain")
    assert runner.install(edited_model(checkpoint=prefixed), name="prefixed").digest == plain.digest


def test_a_trainer_that_may_have_changed_the_network_is_refused(runner, edited_model):
    trainer = "MyTrainer"
    folder = edited_model(checkpoint=lambda content: content.update(trainer_name=trainer))
    with pytest.raises(UnsupportedModel, match=trainer) as caught:
        runner.install(folder, name="x")
    assert trainer in caught.value.hint
    assert runner.install(folder, name="x", options={"accept_trainer": trainer}).details["trainer"] == trainer


def test_a_model_trained_without_mirroring_is_never_mirrored(runner, edited_model, answer_of, noise):
    def unmirrored(content):
        content.update(trainer_name="nnUNetTrainerNoMirroring", inference_allowed_mirroring_axes=None)

    model = runner.install(edited_model(checkpoint=unmirrored), name="x")
    assert model.details["mirroring"] == "none"
    answer = answer_of(runner, model, noise((16, 24, 32)))
    assert any("without mirroring" in note for note in answer.context.notes)


def test_a_configuration_that_the_plans_do_not_have_is_named(runner, edited_model):
    folder = edited_model(checkpoint=lambda content: content["init_args"].update(configuration="3d_lowres"))
    with pytest.raises(UnusableModel, match="3d_lowres"):
        runner.install(folder, name="x")


def test_plans_of_the_format_before_2_4_are_understood(runner, tiny_tomo_model, edited_model):
    def old(plans):
        chosen = plans["configurations"]["3d_fullres"]
        arguments = chosen.pop("architecture")["arch_kwargs"]
        chosen.update(
            UNet_class_name="PlainConvUNet",
            UNet_base_num_features=8,
            unet_max_num_features=320,
            n_conv_per_stage_encoder=arguments["n_conv_per_stage"],
            n_conv_per_stage_decoder=arguments["n_conv_per_stage_decoder"],
            conv_kernel_sizes=arguments["kernel_sizes"],
            pool_op_kernel_sizes=arguments["strides"],
        )

    new = runner.install(tiny_tomo_model, name="new")
    assert runner.install(edited_model(plans=old), name="old").digest == new.digest


def test_a_configuration_inherits_what_it_does_not_say(tiny_tomo_model):
    plans = json.loads((tiny_tomo_model / "plans.json").read_text())
    dataset = json.loads((tiny_tomo_model / "dataset.json").read_text())
    configurations = plans["configurations"]
    expected = parse_recipe(plans, dataset, "3d_fullres")
    configurations["parent"] = configurations.pop("3d_fullres")
    configurations["3d_fullres"] = {"inherits_from": "parent", "batch_size": 4}
    assert parse_recipe(plans, dataset, "3d_fullres") == expected


def test_a_broken_model_is_left_out_with_a_warning(runner, tiny_tomo_model, caplog):
    for name in ("good", "record", "weights", "foreign"):
        runner.install(tiny_tomo_model, name=name)
    folder = models_dir(runner)
    (folder / "record" / "model.json").write_text('{"runner": "nnunet"')
    (folder / "weights" / "fold_0.safetensors").unlink()
    (folder / "foreign" / "model.json").write_text('{"runner": "other"}')
    with caplog.at_level(logging.WARNING):
        assert own_models(runner) == ["good"]
    assert [name for name in ("record", "weights", "foreign") if name in caplog.text] == ["record", "weights"]


def test_a_record_cannot_point_out_of_its_folder(runner, tiny_tomo_model):
    runner.install(tiny_tomo_model, name="tiny")
    record = models_dir(runner) / "tiny" / "model.json"
    content = json.loads(record.read_text())
    content["folds"][0]["file"] = "../../secret"
    record.write_text(json.dumps(content))
    assert own_models(runner) == []


def test_weights_that_have_changed_are_not_run(runner, tiny_tomo_model, answer_of, noise):
    model = runner.install(tiny_tomo_model, name="tiny")
    path = models_dir(runner) / "tiny" / "fold_0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UnusableModel, match="changed") as caught:
        answer_of(runner, model, noise((16, 24, 32)))
    assert "install" in caught.value.hint


def test_a_failed_write_leaves_nothing_behind(runner, tiny_tomo_model, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cryomamba_backends.nnunet.installation.sync_file", full)
    with pytest.raises(OSError, match="No space"):
        runner.install(tiny_tomo_model, name="tiny")
    assert left_behind(runner) == []


def test_nothing_of_a_dataset_but_what_is_needed_is_kept(runner, edited_model):
    folder = edited_model(dataset=lambda d: d.update(training=[{"image": "/home/someone/patient.nii.gz"}]))
    runner.install(folder, name="tiny")
    assert "someone" not in (models_dir(runner) / "tiny" / "dataset.json").read_text()
    assert read_installed(models_dir(runner) / "tiny").recipe().labels.heads == 3

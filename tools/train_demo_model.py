"""Train the demonstration model from nothing: phantoms in, a stock nnU-Net v2 trained-model folder out.

    python tools/train_demo_model.py OUTPUT_FOLDER

Fingerprint, planning, preprocessing, `nnUNetTrainer` and `nnUNetPredictor` are stock nnU-Net 2.8. What differs is set
on the trainer's instance and in the plans: a small network, AdamW, patches that are only mirrored (phantoms are cheap,
so variety comes from them), two phases. Training phantoms have the seeds from 10 000 on; the demonstration volume has
seed 7, so the model has never seen it. About 40 minutes on two free cores.

The model that ships was made with these settings, but its first phase took Dice per patch and not per batch and was
interrupted twice, with the learning rate's decay shortened each time: a new run gives its like, not its bytes.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from cryomamba_backends.demo.phantom import DEFAULT_SEED, LABEL_NAMES, PhantomParameters, make_phantom

DATASET_ID: Final = 950
DATASET: Final = "Dataset950_CryoMambaDemo"
FIRST_TRAINING_SEED: Final = 10_000
HELD_OUT_SEEDS: Final = (DEFAULT_SEED, 8, 9)
VALIDATION_PHANTOMS: Final = 2
FEATURES: Final = (8, 16, 32, 64)
PATCH: Final = (64, 64, 64)
PHASES: Final = ((17, 1.0), (27, 0.33))
"""Epoch at which each phase ends, and the share of its patches that is centred on an object.

Objects alone teach the network fastest what they look like, but also that they are everywhere: it then draws them too
large. The second phase shows it how rare they are.
"""


def main() -> None:
    """Run the whole recipe."""
    arguments = _parse()
    # nnU-Net reads these when it is imported
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(arguments.work_folder / name)
        (arguments.work_folder / name).mkdir(parents=True, exist_ok=True)
    os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112  (nnU-Net's own spelling)

    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (batchgenerators draws from the global generator)

    if arguments.step in ("all", "data"):
        write_dataset(arguments.work_folder / "raw" / DATASET, arguments.phantoms)
    if arguments.step in ("all", "data", "plan"):
        plan_and_preprocess(arguments.work_folder / "preprocessed" / DATASET)
    if arguments.step in ("all", "train"):
        started = time.monotonic()
        for epochs, foreground in PHASES[1:] if arguments.resume else PHASES:
            results = train(
                arguments.work_folder / "preprocessed" / DATASET,
                epochs=epochs,
                foreground=foreground,
                iterations=arguments.iterations,
                resume=(epochs, foreground) != PHASES[0],
            )
        print(f"trained in {(time.monotonic() - started) / 60:.1f} min")
        export_model(results, "checkpoint_final.pth", arguments.output)
    for seed in HELD_OUT_SEEDS if arguments.step in ("all", "train", "evaluate") else ():
        print(json.dumps(evaluate(arguments.output, seed)), flush=True)


def training_parameters(index: int) -> PhantomParameters:
    """Return what training phantom `index` is made of.

    Signal-to-noise, defocus, tilt range and crowding vary, so that the network does not learn one microscope's
    setting; every second one is inverted, since both conventions are in use; every eighth is thin, as thin ice is.
    """
    generator = np.random.default_rng((FIRST_TRAINING_SEED + index, 2))
    depth = 40 if index % 8 == 7 else 96
    return PhantomParameters(
        shape=(depth, 160, 160),
        seed=FIRST_TRAINING_SEED + index,
        organelles=int(generator.integers(1, 3)),
        vesicles=int(generator.integers(3, 7)),
        microtubules=int(generator.integers(2, 5)),
        ribosomes=int(generator.integers(10, 25)),
        actin_filaments=int(generator.integers(0, 6)),
        protein_concentration=float(generator.uniform(10_000, 70_000)),
        signal_to_noise=float(np.exp(generator.uniform(np.log(0.06), np.log(0.25)))),
        defocus=float(generator.uniform(35_000, 60_000)),
        tilt_range=float(generator.uniform(56, 64)),
        contrast="bright" if index % 2 else "dark",
    )


def write_dataset(folder: Path, phantoms: int) -> None:
    """Write training phantoms as an nnU-Net dataset: NIfTI, one Å written as one mm."""
    import SimpleITK

    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    for index in range(phantoms):
        phantom = make_phantom(training_parameters(index))
        name = f"phantom_{index:03d}"
        for values, path in (
            (phantom.tomogram, folder / "imagesTr" / f"{name}_0000.nii.gz"),
            (phantom.truth, folder / "labelsTr" / f"{name}.nii.gz"),
        ):
            image = SimpleITK.GetImageFromArray(values)
            image.SetSpacing((phantom.parameters.voxel_size,) * 3)
            SimpleITK.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    description = {
        "channel_names": {"0": "cryo-ET"},
        "labels": {name: value for value, name in LABEL_NAMES.items()},
        "numTraining": phantoms,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=4))


def plan_and_preprocess(folder: Path) -> None:
    """Let nnU-Net plan, put the small network into its plans, let nnU-Net preprocess.

    Parameters
    ----------
    folder : Path
        The dataset's folder under ``nnUNet_preprocessed``.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([DATASET_ID], num_processes=1)
    plan_experiments([DATASET_ID])
    plans_path = folder / "nnUNetPlans.json"
    plans = json.loads(plans_path.read_text())
    plans["configurations"] = {"3d_fullres": small_configuration(plans["configurations"]["3d_fullres"])}
    plans_path.write_text(json.dumps(plans, indent=4))
    preprocess([DATASET_ID], configurations=("3d_fullres",), num_processes=(1,))
    cases = sorted(path.stem for path in (folder / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    split = {"train": cases[:-VALIDATION_PHANTOMS], "val": cases[-VALIDATION_PHANTOMS:]}
    (folder / "splits_final.json").write_text(json.dumps([split]))


def small_configuration(planned: dict[str, Any]) -> dict[str, Any]:
    """Return the planned configuration with a network of 0.35 million parameters on patches of 64³ voxels."""
    stages = len(FEATURES)
    architecture = planned["architecture"]
    network = architecture["arch_kwargs"] | {
        "n_stages": stages,
        "features_per_stage": list(FEATURES),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    return planned | {
        "batch_size": 2,
        "batch_dice": True,
        "patch_size": list(PATCH),
        "architecture": architecture | {"arch_kwargs": network},
    }


def train(folder: Path, *, epochs: int, foreground: float, iterations: int, resume: bool) -> Path:
    """Train with the stock trainer and return its results folder.

    Settings are changed on the instance: the checkpoint names the base class, which any nnU-Net can load. No random
    rotations: they would turn the missing wedge, which never turns. The forward pass runs in bfloat16, as the stock
    trainer's does in float16 on a GPU.
    """
    import torch
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    # augmentation in this process: with few cores a worker only takes them from the training
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  (nnU-Net's own spelling)

    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": resume}
    description = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, description, torch.device("cpu"))
    trainer.num_epochs = epochs
    trainer.num_iterations_per_epoch = iterations
    trainer.num_val_iterations_per_epoch = 8
    trainer.save_every = 1
    trainer.oversample_foreground_percent = foreground
    trainer.initial_lr = 3e-3

    def without_rotation() -> tuple[tuple[float, float], bool, tuple[int, ...], tuple[int, ...]]:
        trainer.inference_allowed_mirroring_axes = (0, 1, 2)
        return (0.0, 0.0), False, PATCH, (0, 1, 2)

    def adam() -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW(trainer.network.parameters(), trainer.initial_lr, weight_decay=1e-4)
        return optimizer, PolyLRScheduler(optimizer, trainer.initial_lr, trainer.num_epochs)

    def mirror_only(*_: Any, **__: Any) -> ComposeTransforms:
        scales = trainer._get_deep_supervision_scales()
        return ComposeTransforms(
            [MirrorTransform((0, 1, 2)), RemoveLabelTansform(-1, 0), DownsampleSegForDSTransform(scales)]
        )

    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = without_rotation
    trainer.configure_optimizers = adam
    trainer.get_training_transforms = mirror_only
    trainer.initialize()
    network = trainer.network.to(memory_format=torch.channels_last_3d)
    full_precision = network.forward

    @functools.wraps(full_precision)
    def reduced_precision(batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = full_precision(batch.contiguous(memory_format=torch.channels_last_3d))
        return [each.float() for each in outputs] if isinstance(outputs, (list, tuple)) else outputs.float()

    network.forward = reduced_precision
    if resume:
        folds = Path(trainer.output_folder)
        newest = max(folds.glob("checkpoint_[fl]*.pth"), key=lambda path: path.stat().st_mtime)
        trainer.load_checkpoint(str(newest))
    trainer.run_training()
    return Path(trainer.output_folder)


def export_model(results: Path, checkpoint_name: str, output: Path) -> None:
    """Copy what inference needs, and no optimiser state, into a trained-model folder.

    Parameters
    ----------
    results : Path
        The trainer's ``fold_0`` folder.
    checkpoint_name : str
        Which of its checkpoints.
    output : Path
        Receives dataset.json, plans.json and fold_0/checkpoint_final.pth.
    """
    import torch

    trained = torch.load(results / checkpoint_name, map_location="cpu", weights_only=False)
    # the state dict names most tensors three times; a copy each would triple the file
    copies: dict[int, torch.Tensor] = {}
    weights = {
        name: copies.setdefault(weight.data_ptr(), weight.contiguous(memory_format=torch.contiguous_format).clone())
        for name, weight in trained["network_weights"].items()
    }
    checkpoint = {
        "network_weights": weights,
        "trainer_name": trained["trainer_name"],
        "init_args": {"configuration": trained["init_args"]["configuration"], "fold": trained["init_args"]["fold"]},
        "inference_allowed_mirroring_axes": trained["inference_allowed_mirroring_axes"],
        "current_epoch": trained["current_epoch"],
    }
    (output / "fold_0").mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, output / "fold_0" / "checkpoint_final.pth")
    for name in ("dataset.json", "plans.json"):
        shutil.copyfile(results.parent / name, output / name)


def evaluate(model: Path, seed: int) -> dict[str, float]:
    """Return the Dice of each label by the stock predictor, without mirroring, on a phantom of the default size."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    phantom = make_phantom(PhantomParameters(seed=seed))
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    spacing = [phantom.parameters.voxel_size] * 3
    labels = predictor.predict_single_npy_array(phantom.tomogram[None], {"spacing": spacing})
    scores: dict[str, float] = {}
    for value, name in LABEL_NAMES.items():
        if value:
            found, true = labels == value, phantom.truth == value
            scores[name] = round(2.0 * float((found & true).sum()) / float(found.sum() + true.sum()), 4)
    mean = round(float(np.mean(list(scores.values()))), 4)
    return {"seed": seed, "snr": round(phantom.signal_to_noise, 4), **scores, "mean": mean}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder that receives the trained model")
    parser.add_argument("--work-folder", type=Path, default=Path("build/demo-model"), help="nnU-Net's three folders")
    parser.add_argument(
        "--phantoms", type=int, default=72, help="number of training phantoms, the last 2 for validation"
    )
    parser.add_argument("--iterations", type=int, default=100, help="training steps in an epoch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--step", choices=("all", "data", "plan", "train", "evaluate"), default="all")
    parser.add_argument("--resume", action="store_true", help="go on with the last phase from the newest checkpoint")
    return parser.parse_args()


if __name__ == "__main__":
    main()

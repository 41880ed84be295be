"""The models and the volumes that are run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.nnunet.course import choose_course
from cryomamba_backends.nnunet.installed import InstalledModel, read_installed
from cryomamba_backends.nnunet.network import build_network
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.runner import BUNDLED, NNUNetRunner
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_core.geometry import Index3, to_index
from cryomamba_core.settings import Settings
from rig.nnunet.cases import Case

DEMO = BUNDLED / "cryomamba-demo"
WRITER = Path(__file__).parents[3] / "tools" / "write_trained_folder.py"

#: The name under which a model is installed.
NAME = "benchmark"

#: What nnU-Net plans for a large isotropic volume: 31 million weights.
FULL_PATCH = (128, 128, 128)
FULL_FEATURES = (32, 64, 128, 256, 320, 320)


def lay_out(folder: Path, trained: Path, options: argparse.Namespace) -> Case:
    """Install a trained-model folder and write a volume, for runs with the options of `cases.arguments`."""
    return Case(
        trained=str(trained),
        data_dir=str(install(trained, folder / "data", dict(option.split("=", 1) for option in options.option))),
        volume=str(write_volume(folder / "volume.mrc", tuple(options.shape))),
        stub=options.stub,
        mirroring=options.mirroring,
        threads=options.threads,
        device=options.device,
    )


def demo_model(folder: Path) -> Path:
    """The model that comes with the package, as stock nnU-Net opens it."""
    subprocess.run([sys.executable, str(WRITER), str(DEMO), str(folder)], check=True)
    return folder


def full_size_model(folder: Path) -> Path:
    """A model of full size with random weights, as a trained-model folder; its labels mean nothing."""
    import torch

    plans, dataset = (json.loads((DEMO / name).read_text()) for name in ("plans.json", "dataset.json"))
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = list(FULL_PATCH)
    stages = len(FULL_FEATURES)
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(FULL_FEATURES),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    recipe = InstalledModel(folder=folder, record=read_installed(DEMO).record).recipe()
    network = build_network(recipe.network, channels=1, heads=recipe.labels.heads).to_empty(device="cpu")
    torch.manual_seed(0)
    for weights in network.parameters():
        if weights.ndim > 1:
            torch.nn.init.kaiming_normal_(weights, a=0.01)
        else:
            torch.nn.init.normal_(weights, mean=0.5, std=0.5)
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def install(trained: Path, data_dir: Path, options: Mapping[str, str] | None = None) -> Path:
    """Install a trained-model folder into a new data directory, with options of the runner."""
    runner = NNUNetRunner(Settings(data_dir=data_dir))
    runner.install(trained, name=NAME, options={"spacing_unit": "voxels", **(options or {})})
    return data_dir


def installed_model(data_dir: Path) -> InstalledModel:
    """What `install` made."""
    return read_installed(Settings(data_dir=data_dir).models_dir / NAME)


def rows_of(installed: InstalledModel, shape: Index3, params: NNUNetParams, device: str = "cpu") -> int:
    """How many rows of tiles a sweep has."""
    recipe = installed.recipe()
    course = choose_course(recipe, shape, params, device)
    extent, patch = (shape[axis] for axis in course.axes), (recipe.patch[axis] for axis in course.order)
    return len(TileGrid.over(to_index(extent), to_index(patch), params.step).starts[0])


def write_volume(path: Path, shape: tuple[int, int, int]) -> Path:
    """A synthetic tomogram, mirrored at its faces until the shape is filled."""
    import mrcfile

    from cryomamba_backends.demo.phantom import PhantomParameters, make_phantom

    piece = make_phantom(PhantomParameters(seed=1)).tomogram.astype(np.float32)
    depth, *plane = (_back_and_forth(size, wanted) for size, wanted in zip(piece.shape, shape, strict=True))
    with mrcfile.new_mmap(path, shape, mrc_mode=2, overwrite=True) as file:
        for z, source in enumerate(depth):
            file.data[z] = piece[source][np.ix_(*plane)]
        file.voxel_size = 10.0
    return path


def _back_and_forth(size: int, wanted: int) -> NDArray[np.intp]:
    index = np.arange(wanted) % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def stub_network(heads: int) -> Any:
    """A network without work that has the outputs of the real one."""
    import torch

    class Stub(torch.nn.Module):
        def forward(self, tile: torch.Tensor) -> torch.Tensor:
            return tile.repeat(1, heads, 1, 1, 1)

    return Stub()

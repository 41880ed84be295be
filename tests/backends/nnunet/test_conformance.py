"""The nnU-Net runner keeps the promises of every runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from cryomamba_backends.nnunet.runner import BUNDLED, NNUNetRunner
from cryomamba_core.settings import Settings
from cryomamba_core.testing.runners import RunnerConformance

pytest.importorskip("torch")


class TestNNUNetRunner(RunnerConformance):
    """With the model that comes with the package, in tiles of 16 voxels."""

    model_name = "small-tiles"
    params_given: ClassVar = {"mirroring": False}
    companions_asked: ClassVar = {"uncertainty": "entropy"}
    shape = (36, 14, 19)

    def make_runner(self, data_dir: Path) -> NNUNetRunner:
        folder = data_dir / "models" / self.model_name
        shutil.copytree(BUNDLED / "cryomamba-demo", folder)
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
        (folder / "plans.json").write_text(json.dumps(plans))
        return NNUNetRunner(Settings(data_dir=data_dir, threads=1))

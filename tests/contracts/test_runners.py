"""The built-in runner that needs no model passes the suite that strangers use."""

from pathlib import Path
from typing import ClassVar

import pytest

from cryomamba_backends import threshold
from cryomamba_core.interfaces import ModelRunner
from cryomamba_core.testing.runners import RunnerConformance


class TestThreshold(RunnerConformance):
    @pytest.fixture(autouse=True)
    def thin_slabs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threshold, "SLAB_VOXELS", 3 * 11 * 13)

    def make_runner(self, data_dir: Path) -> ModelRunner:
        return threshold.ThresholdRunner()


class TestThresholdOfAGivenValue(TestThreshold):
    params_given: ClassVar = {"value": 1.5, "dark": True}

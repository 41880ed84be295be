"""The example in the plugin author's guide keeps its contract."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_core.testing.exporters import ExporterSuite

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "plugins" / "example" / "src"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCE))
    yield __import__("cryomamba_voxel_counts")
    del sys.modules["cryomamba_voxel_counts"]


class TestVoxelCounts(ExporterSuite):
    @pytest.fixture
    def exporter(self, example):
        return example.VoxelCounts()


def test_the_example_registers_its_exporter(example, tmp_path):
    host = PluginHost(Settings(data_dir=tmp_path))
    record = host.register(example, name="voxel-counts")
    assert record.error == ""
    assert record.provides == {"exporter": ("voxel-counts",)}

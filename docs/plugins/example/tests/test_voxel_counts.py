"""The exporter keeps the contract of every exporter, and counts."""

import cryomamba_voxel_counts
import pytest

from cryomamba_core.testing.exporters import ExporterSuite


class TestVoxelCounts(ExporterSuite):
    @pytest.fixture
    def exporter(self):
        return cryomamba_voxel_counts.VoxelCounts()

"""Tomograms to open."""

import numpy as np
import pytest
from tomograms import DEADLINE, write_mrc

from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_gui.volumes import planes
from cryomamba_gui.volumes.overview_cache import OverviewCache


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    return PluginHost.discover(Settings(data_dir=tmp_path_factory.mktemp("data")), only="cryomamba")


@pytest.fixture
def cache(tmp_path):
    return OverviewCache(tmp_path / "overviews")


@pytest.fixture
def patient(monkeypatch):
    """Planes are waited for, however long they take."""
    monkeypatch.setattr(planes, "PATIENCE", DEADLINE)


@pytest.fixture
def tomogram_file(tmp_path):
    """An MRC file whose voxels are all different, and its voxels."""
    array = np.random.default_rng(5).normal(50, 10, size=(20, 30, 40)).astype(np.float32)
    return write_mrc(tmp_path / "tomogram.mrc", array), array

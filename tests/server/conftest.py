"""Fixtures for tests of the engine."""

import engines
import pytest
from uploading import opened


@pytest.fixture
def settings(tmp_path):
    return engines.make_settings(tmp_path / "data")


@pytest.fixture
def tomogram(tmp_path):
    return engines.make_tomogram(tmp_path / "a.npy")


@pytest.fixture
async def engine(settings):
    """One that takes small parts."""
    async with opened(settings) as engine:
        yield engine


@pytest.fixture
def uploads(engine):
    return engine.uploads

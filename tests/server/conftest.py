"""Fixtures for tests of the engine."""

import engines
import pytest


@pytest.fixture
def settings(tmp_path):
    return engines.make_settings(tmp_path / "data")


@pytest.fixture
def tomogram(tmp_path):
    return engines.make_tomogram(tmp_path / "a.npy")

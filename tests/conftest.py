"""Fixtures that tests of several parts share."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("cryomamba_core.testing")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tomograms that is not part of the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real tomograms are missing: there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_tomo_model() -> Path:
    """A real nnU-Net trained-model folder that is not part of the repository."""
    folder = SHARED / "models" / "tiny-tomo"
    if not folder.is_dir():
        pytest.skip(f"the real trained model is missing: there is no folder {folder}")
    return folder

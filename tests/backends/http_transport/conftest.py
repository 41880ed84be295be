"""Sessions with real servers on real sockets, and files to send."""

import engines
import numpy as np
import pytest

from cryomamba_backends.http_transport.patience import Patience
from cryomamba_backends.http_transport.transport import HttpTransport
from cryomamba_core.interfaces import Credentials
from cryomamba_core.settings import Settings

#: Long enough for a busy machine, short enough to wait for its end.
BRIEF = Patience(first=2, control=5, long=60, silence=20, connect=10)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No cache and no configuration but the test's own; workers find the strangers."""
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


@pytest.fixture
def session_with():
    """Open a session: ``async with session_with(url, token) as session``."""

    def open_session(url, token=None, *, fingerprint=None, patience=BRIEF, **settings):
        transport = HttpTransport(Settings(**settings), patience)
        return transport.open(url, Credentials(token=token, fingerprint=fingerprint))

    return open_session


@pytest.fixture
def write_npy(tmp_path):
    """Write a file that the strangers' reader takes, of so many bytes that no compression makes fewer."""

    def write(size, name="a.npy", seed=1):
        path = tmp_path / name
        np.save(path, np.random.default_rng(seed).integers(0, 255, (2, 1, (size - 128) // 2), dtype=np.uint8))
        assert path.stat().st_size == size
        return path

    return write


@pytest.fixture
def gate(tmp_path):
    """A folder whose files let the strangers' runner go on."""
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder

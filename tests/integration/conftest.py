"""What tests of whole jobs share: the command as users run it, on a data directory of its own, and a server."""

import os
import subprocess
import sys

import pytest
from servers import ServerProcess


@pytest.fixture
def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRYOMAMBA_")}
    return {**kept, "CRYOMAMBA_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def cryomamba(environment):
    """Starts the command; whatever is left of it is killed at the end."""
    started = []

    def start(*arguments, **more):
        command = [sys.executable, "-m", "cryomamba_core.cli.main", *map(str, arguments)]
        started.append(
            subprocess.Popen(
                command, env={**environment, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["http", "https"])
def server(request, tmp_path):
    """A server in a process of its own, on a data directory of its own."""
    arguments = ["--tls-self-signed"] if request.param == "https" else []
    with ServerProcess(tmp_path / "served", *arguments) as server:
        yield server


@pytest.fixture
def at_server(server):
    """Variables that send a command to the server."""
    pinned = {"CRYOMAMBA_FINGERPRINT": server.fingerprint} if server.fingerprint else {}
    return {"CRYOMAMBA_SERVER": server.url, "CRYOMAMBA_TOKEN": server.token(), **pinned}

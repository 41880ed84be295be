"""A server of ours, started as its operator starts it, on a data directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from attrs import frozen

from cryomamba_core.interfaces import Credentials, Transport
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

BENCHMARKS = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "cryomamba_core"]
SCOPES = "jobs:read jobs:write uploads:write artifacts:read"
SECONDS_TO_START = 60.0


@frozen(kw_only=True)
class Served:
    """A running server: its address, a token for all of it, its process."""

    url: str
    token: str
    process: psutil.Process
    data_dir: Path

    @property
    def transport(self) -> Transport:
        """Our client for it."""
        host = PluginHost.discover(Settings(data_dir=self.data_dir / "client"))
        return host.transport_for(self.url)

    @property
    def credentials(self) -> Credentials:
        """What our client shows."""
        return Credentials(token=self.token)

    @property
    def header(self) -> str:
        """What other clients show."""
        return f"Authorization: Bearer {self.token}"


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Served]:
    """Serve from `folder` on a free port of this computer, without a rate limit, and with the rig's own plugin.

    Parameters
    ----------
    folder
        For the data directory, the log, and the plugin's installation.
    settings
        Of `ServeSettings`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data_dir = folder / "data"
    data_dir.mkdir()
    environment = _environment(folder, data_dir, {"requests_per_minute": 0, **settings})
    command = [*COMMAND, "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(data_dir)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        url = _address(process, data_dir / "server.json", folder / "server.log")
        create = [*COMMAND, "token", "create", "--data-dir", str(data_dir), "--subject", "benchmark"]
        create += ["--scope", SCOPES, "--ttl", "12h"]
        token = subprocess.run(create, env=environment, check=True, capture_output=True, text=True).stdout.strip()
        yield Served(url=url, token=token, process=psutil.Process(process.pid), data_dir=data_dir)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


def _environment(folder: Path, data_dir: Path, settings: Mapping[str, object]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRYOMAMBA_")}
    return {
        **kept,
        "CRYOMAMBA_DATA_DIR": str(data_dir),
        "PYTHONPATH": os.pathsep.join([str(_install_plugin(folder / "site")), str(BENCHMARKS)]),
        **{f"CRYOMAMBA_SERVE_{name.upper()}": str(value) for name, value in settings.items()},
    }


def _install_plugin(site: Path) -> Path:
    """Make `rig.plugin` an installed plugin for processes that have `site` on their path."""
    info = site / "rig-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rig\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nrig = rig.plugin\n")
    return site


def _address(process: subprocess.Popen[bytes], note: Path, log: Path) -> str:
    """The address that a server notes when it is ready."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not note.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the server does not start:\n{log.read_text()}")
        time.sleep(0.02)
    return str(json.loads(note.read_text())["url"])

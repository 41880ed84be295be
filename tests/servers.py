"""Servers for tests: one in this process, one in a process of its own that can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import engines

from cryomamba_core.plugins import PluginHost
from cryomamba_server.http.access.tokens import create_token
from cryomamba_server.http.routing import Scope
from cryomamba_server.http.serving import open_server
from cryomamba_server.http.settings import ServeSettings

#: Everything that a token of a client may allow.
SCOPES = ("jobs:read", "jobs:write", "uploads:write", "artifacts:read")


def make_serving(**values):
    """Settings of a server on loopback, on a free port, without a rate limit, that stops soon."""
    return ServeSettings(**{"port": 0, "requests_per_minute": 0, "graceful_seconds": 2, "reserve_bytes": 0, **values})


def make_token(data_dir, subject="ada", scopes=SCOPES, ttl=3600):
    """A token as ``cryomamba token create`` makes it."""
    return create_token(
        Path(data_dir), subject=subject, scopes=[Scope(scope) for scope in scopes], ttl=timedelta(seconds=ttl)
    )


class OpenedServer:
    """A server in this process.

    Attributes
    ----------
    url, fingerprint, services
        As of `cryomamba_server.http.serving.RunningServer`.
    settings
        Of its engine.
    """

    def __init__(self, server, settings):
        self.url, self.fingerprint, self.services = server.url, server.fingerprint, server.services
        self.settings = settings

    def token(self, subject="ada", scopes=SCOPES, ttl=3600):
        return make_token(self.settings.data_dir, subject, scopes, ttl)

    def headers(self, **values):
        """Headers with a token of `token`."""
        return {"Authorization": f"Bearer {self.token(**values)}"}


@asynccontextmanager
async def open_test_server(data_dir, *plugins, settings=None, installed=False, **serving):
    """A server in this process, on a real socket.

    Parameters
    ----------
    data_dir
        Its data directory.
    plugins
        As for `engines.make_host`.
    settings
        Of its engine; None for `engines.make_settings`.
    installed
        Whether it has every installed plugin instead of the strangers.
    serving
        Values of `ServeSettings`, over those of `make_serving`.
    """
    settings = settings or engines.make_settings(data_dir)
    host = PluginHost.discover(settings) if installed else engines.make_host(settings, *plugins)
    async with open_server(host, settings, make_serving(**serving)) as server:
        yield OpenedServer(server, settings)


class ServerProcess:
    """``cryomamba serve`` in a process of its own, with every installed plugin.

    Parameters
    ----------
    data_dir
        Its data directory; what it logs is appended to ``serve.err`` beside it.
    arguments
        More words for the command.
    port
        Where it listens; 0 for a free one.
    environment
        Of the process, over this one's.
    wait
        Whether to return once it listens only.
    program
        What runs instead of the command: ``python tests/NAME``.

    Attributes
    ----------
    url, fingerprint
        As it wrote them into ``server.json``.
    """

    def __init__(self, data_dir, *arguments, port=0, environment=None, wait=True, program=None):
        self.data_dir = Path(data_dir)
        self.arguments = arguments
        self.port = port
        self.program = ["-m", "cryomamba_core"] if program is None else [str(engines.TESTS / program)]
        self.environment = {
            **os.environ,
            "CRYOMAMBA_SERVE_REQUESTS_PER_MINUTE": "0",
            "CRYOMAMBA_SERVE_RESERVE_BYTES": "0",
            **(environment or {}),
        }
        self.log = self.data_dir.with_name(f"{self.data_dir.name}-serve.err")
        self.out = self.data_dir.with_name(f"{self.data_dir.name}-serve.out")
        self.process = None
        self.start(wait=wait)

    @property
    def words(self):
        """What stands behind ``cryomamba serve``."""
        return ["--data-dir", str(self.data_dir), "--port", str(self.port), *map(str, self.arguments)]

    def start(self, *, wait=True):
        """Start it, on the same port as before if it ran before."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=self.environment,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self):
        """Wait until it listens."""
        self._wait_until(lambda: (self.note() or {}).get("pid") == self.process.pid)
        note = self.note()
        self.url, self.fingerprint = note["url"], note["fingerprint"]
        self.port = int(self.url.rpartition(":")[2])

    def greeting(self):
        """What it prints once it listens."""
        self._wait_until(lambda: "stop with Ctrl-C" in self.out.read_text())
        return self.out.read_text()

    def _wait_until(self, happened):
        deadline = time.monotonic() + engines.DEADLINE
        while not happened():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"it does not get ready: {self.log.read_text()}"
            time.sleep(0.02)

    def note(self):
        """What stands in ``server.json``, None if it is not there."""
        try:
            return json.loads((self.data_dir / "server.json").read_text())
        except FileNotFoundError:
            return None

    def token(self, subject="ada", scopes=SCOPES, ttl=3600):
        return make_token(self.data_dir, subject, scopes, ttl)

    def headers(self, **values):
        """Headers with a token of `token`."""
        return {"Authorization": f"Bearer {self.token(**values)}"}

    def terminate(self):
        """Ask it to stop, and wait; returns the exit status."""
        return self.signal(signal.SIGTERM)

    def signal(self, number):
        """Send a signal and wait for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(engines.DEADLINE)

    def kill(self):
        """Kill it at once."""
        self.process.kill()
        self.process.wait(engines.DEADLINE)

    def restart(self):
        """Start it again on the same port and data directory."""
        assert self.process.poll() is not None
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

"""The demonstration's own server: ``cryomamba serve`` on this computer, for as long as it is needed."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from cryomamba_core.errors import ServerError, ServerUnusable
from cryomamba_core.interfaces import Credentials

if TYPE_CHECKING:
    import trio

    from cryomamba_core.cli.interruption import Interruption

COMMAND = [sys.executable, "-m", "cryomamba_core"]
SCOPES = "jobs:read jobs:write uploads:write artifacts:read"
#: Seconds between two looks for the server's address, and until one gives up.
LOOK_INTERVAL, SECONDS_TO_START = 0.05, 120.0
#: Seconds that the server has for requests in progress at its end, and that it has in all.
GRACEFUL_SECONDS, SECONDS_TO_STOP = 2.0, 15.0
#: How much of the server's log is quoted in an error: lines, and characters.
LAST_LINES, LAST_CHARACTERS = 5, 1000


@frozen(kw_only=True)
class LoopbackServer:
    """Where the server listens, what its client shows, and the process; `kept` is where its jobs stay, if they do."""

    url: str
    credentials: Credentials = field(repr=False)
    process: trio.Process
    kept: Path | None

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None


@asynccontextmanager
async def open_loopback(
    *, data_dir: Path, config: Path | None, log: Path, interruption: Interruption
) -> AsyncIterator[LoopbackServer]:
    """Start a server on a free port of the loopback, and stop it at the end, whatever that is.

    Parameters
    ----------
    data_dir
        The server's data directory; if another server is at work on it, a temporary one is used instead.
    config
        The settings file that was named, if any.
    log
        For what the server says.
    interruption
        Tells of signals; the server does not get them.

    Raises
    ------
    ServerUnusable
        If it does not start, or leaves its client alone.
    """
    with ExitStack() as held:
        kept: Path | None = data_dir
        if _is_served(data_dir):
            kept = None
            data_dir = Path(held.enter_context(TemporaryDirectory(prefix="cryomamba-demo-")))
        environment = _environment(data_dir, config)
        with log.open("wb") as stream:
            process = await _start(data_dir, environment, stream.fileno())
        try:
            note = await _wait_for_note(process, data_dir / "server.json", log)
            token = await _make_token(data_dir, environment, log)
            credentials = Credentials(token=token, fingerprint=note.get("fingerprint"))
            async with _watched(
                LoopbackServer(url=note["url"], credentials=credentials, process=process, kept=kept), log
            ) as server:
                yield server
        finally:
            await _stop(process, interruption)


@asynccontextmanager
async def _watched(server: LoopbackServer, log: Path) -> AsyncIterator[LoopbackServer]:
    """Cancel the block as soon as the server is gone, and raise with what it said last."""
    import trio

    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await server.process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            yield server
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # raised below, not in a group
            raised = error
        nursery.cancel_scope.cancel()
    if server.ended:
        raise _failure(_ending(server.process), log) from raised
    if isinstance(raised, ServerError):
        raise _failure(raised.message, log) from raised
    if raised is not None:
        raise raised


def _ending(process: trio.Process) -> str:
    return f"the demo's server ended with status {process.returncode}"


def _is_served(data_dir: Path) -> bool:
    """Whether a server that lives has noted its address in the data directory."""
    import psutil

    try:
        return psutil.pid_exists(int(_read_note(data_dir / "server.json")["pid"]))
    except (OSError, ValueError, KeyError):
        return False


def _read_note(path: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads(path.read_bytes())
    return note


def _environment(data_dir: Path, config: Path | None) -> dict[str, str]:
    environment = {**os.environ, "CRYOMAMBA_DATA_DIR": str(data_dir)}
    for of_a_client in ("CRYOMAMBA_SERVER", "CRYOMAMBA_TOKEN", "CRYOMAMBA_FINGERPRINT"):
        environment.pop(of_a_client, None)
    if config is not None:
        environment["CRYOMAMBA_CONFIG"] = str(config)
    return environment


async def _start(data_dir: Path, environment: dict[str, str], output: int) -> trio.Process:
    import trio

    command = [*COMMAND, "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(data_dir)]
    command += ["--graceful-seconds", str(GRACEFUL_SECONDS)]
    return await trio.lowlevel.open_process(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C is ours: the job is canceled while the server still listens
    )


async def _wait_for_note(process: trio.Process, path: Path, log: Path) -> dict[str, Any]:
    """What the server has noted of itself, as soon as it listens."""
    import trio

    with trio.move_on_after(SECONDS_TO_START):
        while process.poll() is None:
            try:
                note = _read_note(path)
            except (OSError, ValueError):
                note = {}
            if note.get("pid") == process.pid:
                return note
            await trio.sleep(LOOK_INTERVAL)
        raise _failure(_ending(process), log)
    raise _failure(f"the demo's server did not listen within {SECONDS_TO_START:g} s", log)


async def _make_token(data_dir: Path, environment: dict[str, str], log: Path) -> str:
    """A token for an hour, in the name of the user: the demo's job is one of theirs."""
    import trio

    command = [*COMMAND, "token", "create", "--data-dir", str(data_dir), "--subject", _user_name()]
    command += ["--scope", SCOPES, "--ttl", "1h"]
    done = await trio.run_process(
        command, env=environment, stdin=b"", capture_stdout=True, capture_stderr=True, check=False
    )
    if done.returncode:
        raise _failure(f"no token can be made: {_last_words(done.stderr)}", log)
    return str(done.stdout.decode().strip())


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without an entry, as in containers
        return f"uid-{os.getuid()}"


async def _stop(process: trio.Process, interruption: Interruption) -> None:
    import trio

    try:
        if process.poll() is None:
            process.terminate()
        with interruption.shielded(), trio.move_on_after(SECONDS_TO_STOP):
            await process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def _failure(message: str, log: Path) -> ServerUnusable:
    words = _last_words(log.read_bytes())
    quoted = f"; its last words were: {words}" if words else ""
    return ServerUnusable(f"{message}{quoted}", hint=f"see {log}, or run the demo without a server: --in-process")


def _last_words(text: bytes) -> str:
    lines: Sequence[str] = [" ".join(line.split()) for line in text.decode(errors="replace").splitlines()]
    return " | ".join([line for line in lines if line][-LAST_LINES:])[-LAST_CHARACTERS:]

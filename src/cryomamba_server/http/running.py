"""One run of ``cryomamba serve``, from its settings to its end."""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from attrs import evolve
from filelock import FileLock, Timeout

from cryomamba_core.cli.interruption import stopping_signals
from cryomamba_core.errors import DataDirectoryUnusable, ServerUnusable
from cryomamba_server.http.announcing import NOTE_NAME, announce, first_token, note_of, noted
from cryomamba_server.http.logs import logging_to
from cryomamba_server.http.serving import open_server
from cryomamba_server.http.settings import ServeSettings, load_serve_settings

if TYPE_CHECKING:
    from cryomamba_core.cli.state import CliState

log = logging.getLogger(__name__)

#: Held by the server of a data directory; several engines may share one, but ``server.json`` names one server.
LOCK_NAME = "serve.lock"

#: Seconds after the patience of a stop in which whatever still hangs may come to an end.
LAST_SECONDS = 4.0

#: Seconds in which signals are one: who stops a group of processes, or passes signals on, sends it twice.
ONE_SIGNAL = 0.5

#: Descriptors that a server would like: one for each connection, and some for files.
DESCRIPTORS = 65_536


def run_server(state: CliState, *, data_dir: Path | None, options: dict[str, Any]) -> None:
    """Serve until a signal comes, and then until the requests in progress have ended.

    Parameters
    ----------
    state
        Of the command.
    data_dir
        What the command's own option says, if anything.
    options
        Settings that were given on the command line, None where they were not.

    Raises
    ------
    ServerUnusable
        If it cannot serve as it was asked to, or another server has the data directory.
    """
    state.use_data_dir(data_dir)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    serving = evolve(load_serve_settings(state.config), **given)
    _allow_many_connections()
    with logging_to(style=serving.log_format), _only_server_of(state.settings.data_dir):
        trio.run(_serve, state, serving)


async def _serve(state: CliState, serving: ServeSettings) -> None:
    async with trio.open_nursery() as nursery:
        departure = Departure(serving.graceful_seconds)
        await nursery.start(departure.listen)
        async with open_server(state.host, state.settings, serving) as server:
            token = await first_token(server, state.settings.data_dir)
            with noted(server, state.settings.data_dir):
                announce(state, server, serving, token)
                log.info("listening", extra={"url": server.url})
                await departure.asked.wait()
                log.info("stopping", extra={"requests": len(server.services.traffic)})
        nursery.cancel_scope.cancel()
    log.info("stopped")


class Departure:
    """What ends a server: the first signal asks it to stop, the second one ends it at once.

    A server loses nothing when it is killed: so it does not wait longer than it said, whatever hangs.

    Parameters
    ----------
    graceful_seconds
        How long requests in progress may take.

    Attributes
    ----------
    asked
        Set by the first signal.
    """

    def __init__(self, graceful_seconds: float) -> None:
        self.asked = trio.Event()
        self._graceful_seconds = graceful_seconds

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait for signals."""
        try:
            with trio.open_signal_receiver(*stopping_signals()) as arrivals:
                task_status.started()
                await self._heed(arrivals)
        finally:
            if self.asked.is_set():  # one that comes now shall not turn a good end into a bad one
                for each in stopping_signals():
                    signal.signal(each, signal.SIG_IGN)

    async def _heed(self, arrivals: AsyncIterator[int]) -> None:
        asked_at = -math.inf
        async for number in arrivals:
            if self.asked.is_set():
                if trio.current_time() > asked_at + ONE_SIGNAL:
                    _leave(number)
                continue
            asked_at = trio.current_time()
            self.asked.set()
            last = threading.Timer(self._graceful_seconds + LAST_SECONDS, _leave, [number])
            last.daemon = True
            last.start()


def _leave(number: int) -> None:
    log.warning("left at once, by %s", signal.Signals(number).name)
    logging.shutdown()
    os._exit(128 + number)


@contextmanager
def _only_server_of(data_dir: Path) -> Iterator[None]:
    """Keep a second server from the same data directory."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _warn_of_others(data_dir)
        lock = FileLock(data_dir / LOCK_NAME, thread_local=False)
        lock.acquire(timeout=0)
        (data_dir / NOTE_NAME).unlink(missing_ok=True)  # of a server that was killed
    except Timeout as error:
        note = note_of(data_dir)
        who = f"process {note['pid']} at {note['url']}" if note else "another process"
        raise ServerUnusable(
            f"{who} already serves {data_dir}", hint="stop it first, or give another --data-dir"
        ) from error
    except OSError as error:
        raise DataDirectoryUnusable(
            f"{data_dir} cannot be used: {(error.strerror or str(error)).lower()}",
            hint="choose another with --data-dir or CRYOMAMBA_DATA_DIR",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _warn_of_others(data_dir: Path) -> None:
    if data_dir.stat().st_mode & 0o005:
        log.warning("other users of this machine can read %s, and what everybody has sent: chmod 700 it", data_dir)


def _allow_many_connections() -> None:
    """Take as many descriptors as the system allows; the usual 1024 are for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

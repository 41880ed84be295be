"""A worker process that is given its jobs by whoever started it, one after the other.

The line is a stream socket. The executor writes a job directory, as a line of JSON; the worker answers `TAKEN` before
it touches the job, and `LEFT` once it has left it and would take another. When the executor's end is closed, by
whatever way, the process ends: after the job, if it has one. So none without a job outlives its executor.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from cryomamba_core.allocator import return_freed
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.worker.keeping import Kept
from cryomamba_core.worker.process import run_worker

#: What a worker says of a job.
TAKEN, LEFT = b"+", b"-"
#: Written to it, it makes Linux count the most memory that a process has held from now on.
_PEAK = Path("/proc/self/clear_refs")


def serve_line(descriptor: int) -> int:
    """Run the jobs that come on a line.

    Parameters
    ----------
    descriptor
        Of the line's end.

    Returns
    -------
    status
        Of the last job, as `run_worker` has it; 0 if the line ended without one.
    """
    os.set_inheritable(descriptor, False)  # noqa: FBT003  # it takes no keyword
    kept = Kept()
    with socket.socket(fileno=descriptor) as line, line.makefile("r", encoding="utf-8") as orders:
        while order := _read(orders):
            path = Path(json.loads(order))
            if not _say(line, TAKEN):
                break
            _go_to(path, JobDirectory(path).log_path)
            status = run_worker(path, kept)
            kept.end_job()
            if status or not kept or threading.active_count() > 1:
                return status
            if not (_leave(JobDirectory(path)) and _say(line, LEFT)):
                return status
    return 0


def _read(orders: TextIO) -> str:
    """The next order; empty if there will be none."""
    try:
        return orders.readline()
    except ConnectionError:
        return ""


def _say(line: socket.socket, what: bytes) -> bool:
    """Tell the executor; False if nobody hears it any more."""
    try:
        line.sendall(what)
    except OSError:
        return False
    return True


def _go_to(folder: Path, log: Path | str) -> None:
    """Have a folder for the current one, and print to a file, whoever prints."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # what C libraries have printed, and not yet written
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        for stream in (1, 2):
            os.dup2(descriptor, stream)
    finally:
        os.close(descriptor)
    os.chdir(folder)


def _leave(directory: JobDirectory) -> bool:
    """Hold nothing more of a job, and say that in its directory; False if there is no room for that."""
    _go_to(Path("/"), os.devnull)
    gc.collect()
    return_freed()
    with suppress(OSError):
        _PEAK.write_text("5", encoding="ascii")
    try:
        directory.mark_left()
    except OSError:
        return False
    return True

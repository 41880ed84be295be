"""Workers that lose as much as a power cut can take, and are killed at a chosen moment.

Run as a program it takes jobs, one JSON document a line: ``path`` of the job directory, and if the worker is to die,
``tiles`` after which and ``seconds`` after that. It answers with the worker's exit status, that of a signal negative.
Each worker is a process of its own that runs `run_worker`, forked from this one, which has imported everything: what
takes time is PyTorch.

A worker saves after every block. Its disk is slow and keeps labels to itself until they are synced: only then are they
in ``durable``, a file in the job directory. Each tile leaves a line in ``tiles``.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import load_settings
from cryomamba_core.worker import taking
from cryomamba_core.worker.context import WorkerContext
from cryomamba_core.worker.process import run_worker

#: Seconds that a sync takes.
SYNC = 0.01

_pwrite, _fdatasync, _report = os.pwrite, os.fdatasync, WorkerContext.report


class LossyDisk:
    """What a machine that loses its power keeps of ``labels.raw``, in ``durable``."""

    def __init__(self):
        self._waiting = {}

    def pwrite(self, descriptor, data, offset):
        count = _pwrite(descriptor, data, offset)
        if self._holds_labels(descriptor):
            self._waiting.setdefault(descriptor, []).append((offset, bytes(data[:count])))
        return count

    def fdatasync(self, descriptor):
        time.sleep(SYNC)
        _fdatasync(descriptor)
        if self._holds_labels(descriptor):
            durable = os.open("durable", os.O_WRONLY | os.O_CREAT, 0o644)
            for offset, data in self._waiting.pop(descriptor, []):
                _pwrite(durable, data, offset)
            os.close(durable)

    def _holds_labels(self, descriptor):
        return Path(f"/proc/self/fd/{descriptor}").readlink().name == "labels.raw"


def die(after=0.0):
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


def work(path, tiles=0, seconds=0.0):
    """Be the worker of a job; one that is to die does so at the latest when it has nothing left to do."""

    def report(self, done, total, unit):
        with Path("tiles").open("a") as stream:
            stream.write(f"{os.getpid()} {done} {total}\n")
        _report(self, done, total, unit)
        if tiles and done >= tiles and not any(thread.name == "doom" for thread in threading.enumerate()):
            threading.Thread(target=die, args=(seconds,), name="doom", daemon=True).start()

    os.chdir(path)
    disk = LossyDisk()
    taking.CHECKPOINT_INTERVAL = 0.0
    os.pwrite, os.fdatasync, WorkerContext.report = disk.pwrite, disk.fdatasync, report
    status = run_worker(Path(path))
    if tiles:
        die()
    return status


def main():
    for name in ("dynamic_network_architectures.architectures.unet", "safetensors.torch", "scipy.ndimage"):
        importlib.import_module(name)
    PluginHost.discover(load_settings())
    for line in sys.stdin:
        worker = os.fork()
        if not worker:
            os._exit(work(**json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)


if __name__ == "__main__":
    main()

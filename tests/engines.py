"""Engines for tests: a host of chosen plugins, workers of any kind, and an engine in a process that can be killed."""

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import strangers
import trio

from cryomamba_backends.filesystem import plugin as filesystem
from cryomamba_backends.local_executor import plugin as local_executor
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Executor, WorkerExit, WorkerHandle
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.settings import Settings
from cryomamba_core.wire import dump_json, load_json
from cryomamba_server.engine.engine import open_engine

TESTS = Path(__file__).parent
SHAPE = (6, 5, 4)
OWNER = "ada"
#: Seconds after which a test gives up waiting; nothing takes so long, even on a busy machine.
DEADLINE = 120

#: Files of a job's directory that outlive its work.
KEPT = {"artifacts", "cancel", "events.jsonl", "heartbeat", "job.json", "worker.log"}


def make_settings(data_dir, **values):
    return Settings(data_dir=Path(data_dir), **values)


def make_host(settings, *plugins):
    """A host with the strangers, the filesystem storage, the local executor unless `plugins` has one, and `plugins`."""
    host = PluginHost(settings)
    for plugin in (*plugins, strangers, filesystem):
        record = host.register(plugin, name=getattr(plugin, "__name__", type(plugin).__name__))
        assert not record.error, record.error
    if "local" not in host.executors:
        assert not host.register(local_executor, name="local-executor").error
    return host


def install_strangers(site):
    """Make the strangers an installed distribution for processes with the returned PYTHONPATH."""
    info = site / "strangers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nstrangers = strangers\n")
    return os.pathsep.join([str(site), str(TESTS)])


def make_tomogram(path, shape=SHAPE, seed=3):
    np.save(path, np.random.default_rng(seed).normal(size=shape).astype(np.float32))
    return path


def steps(tomogram, *, artifacts=None, max_voxels=1_000_000, **params):
    """A job of the strangers' runner."""
    return JobConfig(
        source=Source(path=str(tomogram)),
        runner="steps",
        params=params,
        artifacts=artifacts,
        preview=PreviewPolicy(interval_seconds=0, max_voxels=max_voxels),
    )


def open_gate(gate, *sections):
    """Let the runner go on to sections."""
    for section in sections or range(SHAPE[0]):
        (Path(gate) / str(section)).touch()


async def heard(engine, job_id, *, after=0, until=lambda event: False):
    """Events of a job up to the first that `until` accepts, or to the end."""
    events = []
    with trio.fail_after(DEADLINE):
        async with aclosing(engine.events(job_id, owner=None, after=after)) as stream:
            async for event in stream:
                events.append(event)
                if until(event):
                    break
    return events


def workers_of(data_dir):
    """Processes that work on a job of a data directory."""
    jobs = str(Path(data_dir) / "jobs")
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and any(jobs in part for part in command[1:]):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


class ScriptedExecutor(Executor):
    """Runs a script in the place of the worker; it gets the job directory as its argument.

    The script may use `directory`, `spec`, `log` (the worker's `EventLog`), `os`, `sys` and `time`.
    """

    name = "local"

    def __init__(self, script, *, slots=("cpu",)):
        self._script = PREAMBLE + script
        self._slots = slots
        self._processes = {}
        self.started = []

    def slots(self):
        return self._slots

    def start(self, job_dir, resources):
        with (job_dir / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", self._script, str(job_dir)],
                start_new_session=True,
                stdout=log,
                stderr=log,
                env={**os.environ, **resources.environment},
            )
        self._processes[str(process.pid)] = process
        self.started.append(job_dir.name)
        return WorkerHandle(executor=self.name, token=str(process.pid))

    def reattach(self, handle):
        return self.wait(handle, 0.0) is None

    def wait(self, handle, timeout):
        process = self._processes.get(handle.token)
        if process is None:
            return WorkerExit(code=None, reason="it is not ours")
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return WorkerExit(code=code, reason=f"exit status {code}")

    def cancel(self, handle, grace=10.0):
        process = self._processes.get(handle.token)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self):
        """End every worker that is left."""
        for token in self._processes:
            self.cancel(WorkerHandle(executor=self.name, token=token))


PREAMBLE = """
import os, sys, time
from pathlib import Path
from cryomamba_core.errors import *
from cryomamba_core.artifacts import Artifact
from cryomamba_core.durable import sha256_of
from cryomamba_core.job_directory import *
from cryomamba_core.jobs import JobState
from cryomamba_core.worker.reporting import EventLog
directory = JobDirectory(Path(sys.argv[1]))
spec = directory.spec()
log = EventLog(directory, attempt=spec.attempt)
def make(name, text):
    path = directory.artifacts_path / name
    path.write_text(text)
    return Artifact(name=name, media_type="text/plain", size=path.stat().st_size, sha256=sha256_of(path))
log.state(JobState.RUNNING)
"""

#: What the scripts of most tests do.
SUCCEED = "log.completed((make('stats.json', '{}'),))"


class ExecutorPlugin:
    """Registers one executor."""

    def __init__(self, executor):
        self._executor = executor

    @hookimpl
    def cryomamba_register_executors(self, register):
        register(self._executor)


@asynccontextmanager
async def scripted_engine(settings, script=SUCCEED, *, slots=("cpu",), plugins=()):
    """An engine whose workers run a script; it has the executor as `executor`."""
    executor = ScriptedExecutor(script, slots=slots)
    async with open_engine(make_host(settings, ExecutorPlugin(executor), *plugins), settings) as engine:
        engine.executor = executor
        yield engine


class EngineProcess:
    """An engine in a process of its own.

    Commands are lines on its standard input, answers are lines on its standard output:
    ``submit JSON`` → job id, ``cancel ID`` → state, ``list`` → states, ``leads`` → True or False.
    """

    def __init__(self, data_dir, *, environment=None, **settings):
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "engines.py"), str(data_dir), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        assert self.process.stdout.readline() == "open\n"

    def ask(self, *words):
        self.process.stdin.write(" ".join(words) + "\n")
        return self.process.stdout.readline().rstrip("\n")

    def submit(self, config):
        return self.ask("submit", dump_json(config))

    def wait(self):
        """Wait for a death that was arranged."""
        self._reap()

    def kill(self):
        self.process.kill()
        self._reap()

    def leave(self):
        self.process.stdin.close()
        self._reap()

    def _reap(self):
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def die_at(place):
    """Let this process be killed the moment it reaches a method, written ``module:Class.method``."""
    module, _, name = place.partition(":")
    kind, _, method = name.partition(".")
    setattr(
        getattr(importlib.import_module(module), kind), method, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    )


async def serve(data_dir, values):
    settings = make_settings(data_dir, **values)
    if os.environ.get("DIE_AT"):
        die_at(os.environ["DIE_AT"])
    async with open_engine(make_host(settings), settings) as engine:
        print("open", flush=True)
        async for line in trio.wrap_file(sys.stdin):
            word, _, rest = line.strip().partition(" ")
            if word == "submit":
                print((await engine.submit(load_json(rest, JobConfig), owner=OWNER)).id, flush=True)
            elif word == "cancel":
                print((await engine.cancel(rest, owner=OWNER)).state, flush=True)
            elif word == "list":
                records = await engine.jobs(owner=OWNER)
                print(" ".join(f"{record.id}={record.state}" for record in records), flush=True)
            elif word == "leads":
                print(engine.scheduler.leads, flush=True)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], json.loads(sys.argv[2]))

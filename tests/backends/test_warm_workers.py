"""Processes that go on to another job: whose jobs they take, and that none outlives what it is kept for.

The jobs are of a stranger's runner whose model is a file. It keeps what it has read there, and prints what it does.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest
import trio
from attrs import evolve
from engines import OWNER, heard, install_strangers, make_host, make_tomogram

from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_backends.local_executor.processes import WorkerProcess
from cryomamba_core.events import Completed
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Resources
from cryomamba_core.job_directory import EXIT_CANCELED, JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.settings import Settings
from cryomamba_core.wire import load_json
from cryomamba_core.worker.keeping import Kept
from cryomamba_server.engine.engine import open_engine

PATIENCE = 120
SHAPE = (4, 3, 2)

RUNNER = """
    import os, subprocess, sys, threading, time
    from pathlib import Path
    import numpy as np
    from attrs import field, frozen
    from cryomamba_core.hookspecs import hookimpl
    from cryomamba_core.interfaces import ModelRunner
    from cryomamba_core.labels import LabelBlock, name_labels
    from cryomamba_core.models import ModelInfo
    from cryomamba_core.plans import RunPlan

    cryomamba_api_version = 1
    WEIGHTS = Path(__file__).with_name("weights")

    @frozen(kw_only=True)
    class Params:
        keeps: bool = field(default=True, metadata={"help": "whether the weights are kept"})
        gate: str = field(default="", metadata={"help": "file to wait for"})
        leaves: str = field(default="", metadata={"help": "what is left behind"})
        hoards: int = field(default=0, metadata={"help": "MiB that are held, and lie in a circle"})

    class Keeper(ModelRunner):
        name = "keeper"
        params_type = Params

        def models(self):
            return [ModelInfo(name=name, runner="keeper", labels=name_labels({1: "one"})) for name in ("a", "b")]

        def plan(self, model, grid, params, device):
            return RunPlan(tiles=1, ram_bytes=1)

        def segment(self, volume, params, context):
            state = WEIGHTS.stat()
            key = (state.st_ino, state.st_mtime_ns)
            weights = context.keep(key, self._load) if params.keeps else self._load()
            print("weights", weights, flush=True)
            os.system("echo printed by a child")
            if params.leaves == "fork" and os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            print("begun", file=sys.stderr, flush=True)
            while params.gate and not Path(params.gate).exists():
                context.checkpoint()
                time.sleep(0.01)
            pieces = [np.ones(1 << 20, np.uint8) for _ in range(params.hoards)]
            pieces.append(pieces)
            if params.leaves == "process":
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            if params.leaves == "thread":
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            yield LabelBlock(region=volume.grid.whole, labels=np.ones(volume.grid.shape, np.uint8))

        def _load(self):
            print("weights are loaded", flush=True)
            return WEIGHTS.read_text()

    @hookimpl
    def cryomamba_register_runners(register):
        register(Keeper())
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder with the runner installed, for workers and for this process."""
    folder = tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", install_strangers(folder))
    monkeypatch.syspath_prepend(folder)
    (folder / "keeper.py").write_text(textwrap.dedent(RUNNER))
    (folder / "weights").write_text("first")
    info = folder / "keeper-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keeper\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nkeeper = keeper\n")
    yield folder
    sys.modules.pop("keeper", None)


class Bench:
    """Makes jobs and has them run; afterwards, ends what is left."""

    def __init__(self, folder):
        self.settings = Settings(data_dir=folder / "data", warm_seconds=3600, threads=1)
        self.tomogram = make_tomogram(folder / "tomogram.npy", SHAPE)
        self.executor = LocalExecutor(self.settings)
        self.pids = set()

    def config(self, *, model="a", **params):
        return JobConfig(
            source=Source(path=str(self.tomogram)), runner="keeper", model=model, params=params, artifacts=("npy",)
        )

    def make(self, name, *, attempt=1, **params):
        directory = JobDirectory(self.settings.jobs_dir / name)
        spec = JobSpec(
            job_id=name,
            config=self.config(**params),
            source=str(self.tomogram),
            source_name="tomogram.npy",
            grid=VoxelGrid(shape=SHAPE, voxel_size=(10.0, 10.0, 10.0)),
            device="cpu",
            threads=1,
            attempt=attempt,
        )
        directory.begin_attempt(spec)
        return directory

    def start(self, name, **values):
        """Start a job; its directory and its handle."""
        directory = self.make(name, **values)
        handle = self.executor.start(directory.path, Resources(threads=1))
        self.pids.add(pid_of(handle))
        return directory, handle

    def begin(self, name, **values):
        """Start a job that waits, and return once it does; its directory, handle and gate."""
        gate = self.settings.jobs_dir / f"{name}.gate"
        directory, handle = self.start(name, gate=str(gate), **values)
        until(lambda: "begun" in log_of(directory) or self.executor.wait(handle, 0) is not None)
        assert self.executor.wait(handle, 0) is None, log_of(directory)
        return directory, handle, gate

    def run(self, name, **values):
        """Run a job to its end; its directory and the number of its process."""
        directory, handle = self.start(name, **values)
        ended = self.executor.wait(handle, PATIENCE)
        assert ended is not None
        assert ended.code == 0, log_of(directory)
        assert isinstance([event for event, _ in directory.events()][-1], Completed)
        return directory, pid_of(handle)


@pytest.fixture
def bench(site, tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.executor.close()
    for pid in bench.pids:
        if is_there(pid):
            os.killpg(pid, signal.SIGKILL)


def pid_of(handle):
    return load_json(handle.token, WorkerProcess).pid


def log_of(directory):
    """What it says so far; the process of an earlier job opens it when it takes this one."""
    return directory.log_path.read_text() if directory.log_path.exists() else ""


def is_there(pid):
    """The numbers are those of processes that were started by this one or by one that it has started."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def until_gone(pid):
    until(lambda: not is_there(pid))


def test_the_next_job_of_a_model_finds_its_weights_loaded_unless_they_have_changed(bench, site):
    first, pid = bench.run("1")
    second, same = bench.run("2")
    third, still = bench.run("3")
    assert pid == same == still
    assert "weights are loaded\nweights first\n" in log_of(first)
    for directory in (second, third):
        assert "weights are loaded" not in log_of(directory)
        assert "is used again" in log_of(directory)
        assert "weights first\nprinted by a child\nbegun\n" in log_of(directory)
        assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.ones(SHAPE))
    assert log_of(first).count("begun") == log_of(second).count("begun") == 1
    (site / "weights").write_text("second")
    fourth, still = bench.run("4")
    assert pid == still
    assert "weights are loaded\nweights second\n" in log_of(fourth)


def test_a_process_without_a_job_holds_nothing_of_the_last_one(bench):
    first, pid = bench.run("1", hoards=256)
    manifest = json.loads((first.artifacts_path / "manifest.json").read_text())
    process = psutil.Process(pid)
    assert process.memory_info().rss < manifest["peak_rss_bytes"] - (200 << 20)
    assert process.cwd() == "/"
    assert not [file.path for file in process.open_files() if str(bench.settings.data_dir) in file.path]
    second, same = bench.run("2")
    assert pid == same
    peak = json.loads((second.artifacts_path / "manifest.json").read_text())["peak_rss_bytes"]
    assert peak < manifest["peak_rss_bytes"] - (200 << 20)


@pytest.mark.parametrize(
    "values", [{"model": "b"}, {"attempt": 2}], ids=["of another model", "that a worker was lost on"]
)
def test_a_job_that_a_process_cannot_take_ends_it_first(bench, values):
    _, pid = bench.run("1")
    second, other = bench.run("2", **values)
    assert pid != other
    assert not is_there(pid)
    assert "weights are loaded" in log_of(second)


def test_what_is_installed_meanwhile_is_used(bench, site):
    _, pid = bench.run("1")
    (site / "another-1.0.dist-info").mkdir()
    _, other = bench.run("2")
    assert pid != other
    shutil.rmtree(site / "another-1.0.dist-info")
    (site / "another-1.0.dist-info").mkdir()  # the same version once more
    _, third = bench.run("3")
    assert third not in {pid, other}


def test_bytecode_that_the_first_job_leaves_makes_no_difference(bench, site, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    _, pid = bench.run("1")
    assert (site / "__pycache__").is_dir()
    assert bench.run("2")[1] == pid


def test_jobs_at_the_same_time_have_processes_of_their_own(bench):
    _, first, gate = bench.begin("1")
    _, second = bench.run("2")
    assert pid_of(first) != second
    gate.touch()
    assert bench.executor.wait(first, PATIENCE).code == 0
    assert {bench.run("3")[1], pid_of(bench.start("4")[1])} <= {pid_of(first), second}


@pytest.mark.parametrize(
    ("limits", "params"),
    [
        ({"warm_seconds": 0.05}, {}),
        ({"warm_mib": 1}, {}),
        ({}, {"keeps": False}),
        ({}, {"leaves": "thread"}),
        ({}, {"leaves": "process"}),
    ],
    ids=["time", "memory", "nothing kept", "a thread left", "a process left"],
)
def test_a_process_ends_that_is_not_worth_keeping(bench, limits, params):
    bench.executor = LocalExecutor(evolve(bench.settings, **limits))
    _, handle = bench.start("1", **params)
    try:
        assert bench.executor.wait(handle, PATIENCE).code == 0
        until_gone(pid_of(handle))
        assert not bench.executor.reattach(handle)
    finally:
        for child in load_json(handle.token, WorkerProcess).family():
            child.kill()


def test_the_second_job_of_a_process_is_cancelled_as_the_first_is(bench):
    bench.run("1")
    second, handle, _ = bench.begin("2")
    second.order_cancel()
    assert bench.executor.wait(handle, PATIENCE).code == EXIT_CANCELED
    until_gone(pid_of(handle))
    bench.run("3")
    _, handle, _ = bench.begin("4")
    bench.executor.cancel(handle, grace=PATIENCE)
    assert bench.executor.wait(handle, 0).code == 128 + signal.SIGTERM
    assert not is_there(pid_of(handle))


def test_a_process_that_does_not_react_in_its_second_job_is_killed(bench):
    bench.run("1")
    _, handle, _ = bench.begin("2")
    os.kill(pid_of(handle), signal.SIGSTOP)
    bench.executor.cancel(handle, grace=0.1)
    assert bench.executor.wait(handle, 0).code == -signal.SIGKILL
    assert not is_there(pid_of(handle))


def test_a_crash_in_the_second_job_is_its_own(bench):
    _, first = bench.start("1")
    ended = bench.executor.wait(first, PATIENCE)
    second, handle, _ = bench.begin("2", leaves="fork")
    assert pid_of(first) == pid_of(handle)
    os.kill(pid_of(handle), signal.SIGKILL)
    assert bench.executor.wait(handle, PATIENCE).reason == "killed by signal 9 (SIGKILL)"
    assert bench.executor.wait(first, 0) == ended
    assert not second.left
    assert load_json(handle.token, WorkerProcess).family()
    bench.executor.cancel(handle)
    assert not load_json(handle.token, WorkerProcess).family()
    third, pid = bench.run("3")
    assert pid != pid_of(handle)
    assert "weights are loaded" in log_of(third)
    os.kill(pid, signal.SIGKILL)
    fourth, other = bench.run("4")
    assert pid != other
    assert "weights are loaded" in log_of(fourth)


def test_a_process_that_does_not_react_while_it_waits_is_given_no_job(bench, monkeypatch):
    monkeypatch.setattr("cryomamba_backends.local_executor.warm.LEAVING_SECONDS", 0.5)
    _, pid = bench.run("1")
    os.kill(pid, signal.SIGSTOP)
    second, other = bench.run("2")
    assert other != pid
    assert "weights are loaded" in log_of(second)
    assert not is_there(pid)


def test_nobody_takes_a_job_for_the_next_one_of_its_process(bench):
    first_directory, first = bench.start("1")
    bench.executor.wait(first, PATIENCE)
    second_directory, second, gate = bench.begin("2")
    assert pid_of(first) == pid_of(second)
    other = LocalExecutor(bench.settings)
    for executor in (bench.executor, other):
        assert not executor.reattach(first)
        assert executor.wait(first, 0) is not None
        assert executor.find(first_directory.path) is None
        executor.cancel(first, grace=0)
        assert executor.reattach(second)
        assert executor.find(second_directory.path) == second
    first_directory.begin_attempt(first_directory.spec())
    assert other.find(first_directory.path) is None
    gate.touch()
    assert bench.executor.wait(second, PATIENCE).code == 0


def test_an_engine_that_leaves_lets_no_process_wait(bench):
    _, handle, gate = bench.begin("1")
    _, pid = bench.run("2")
    bench.executor.close()
    until_gone(pid)
    gate.touch()
    assert bench.executor.wait(handle, PATIENCE).code == 0
    until_gone(pid_of(handle))


SERVER = """
import sys
from pathlib import Path
from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_core.interfaces import Resources
from cryomamba_core.settings import Settings
data_dir, *jobs = map(Path, sys.argv[1:])
executor = LocalExecutor(Settings(data_dir=data_dir, warm_seconds=3600, threads=1))
for job in jobs:
    handle = executor.start(job, Resources(threads=1))
    print(handle.token, flush=True)
    input()
    executor.wait(handle, 120)
print("done", flush=True)
input()
"""


@pytest.mark.parametrize("busy", [False, True], ids=["it waits", "it works"])
def test_no_process_outlives_its_job_when_the_server_is_killed(bench, busy):
    gate = bench.settings.data_dir / "gate"
    second = bench.make("2", gate=str(gate) if busy else "")
    jobs = [str(directory.path) for directory in (bench.make("1"), second)]
    arguments = [sys.executable, "-c", SERVER, str(bench.settings.data_dir), *jobs]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as server:
        first_token = server.stdout.readline()
        bench.pids.add(load_json(first_token, WorkerProcess).pid)
        server.stdin.write("\n")
        worker = load_json(server.stdout.readline(), WorkerProcess)
        assert worker.pid in bench.pids
        if busy:
            until(lambda: "begun" in log_of(second))
        else:
            server.stdin.write("\n")
            assert server.stdout.readline() == "done\n"
        assert is_there(worker.pid)
        server.kill()
    if busy:
        assert worker.works
        gate.touch()
    until_gone(worker.pid)
    assert isinstance([event for event, _ in second.events()][-1], Completed)


def test_the_jobs_of_an_engine_share_a_process_and_survive_its_end(bench):
    """The process of the second one is killed: the job is done at the second attempt."""
    gate = bench.settings.data_dir / "gate"

    async def main():
        host = make_host(bench.settings, importlib.import_module("keeper"))
        async with open_engine(host, bench.settings) as engine:
            first = await engine.submit(bench.config(), owner=OWNER)
            await heard(engine, first.id)
            second = await engine.submit(bench.config(gate=str(gate)), owner=OWNER)
            directories = [JobDirectory(bench.settings.jobs_dir / job.id) for job in (first, second)]
            with trio.fail_after(PATIENCE):
                while "begun" not in log_of(directories[1]):
                    await trio.sleep(0.01)
            handles = [directory.handle() for directory in directories]
            bench.pids |= {pid_of(handle) for handle in handles}
            assert len(bench.pids) == 1
            os.kill(pid_of(handles[1]), signal.SIGKILL)
            gate.touch()
            await heard(engine, second.id)
            records = [await engine.job(job.id, owner=OWNER) for job in (first, second)]
            assert [(record.state, record.attempt) for record in records] == [
                (JobState.COMPLETED, 1),
                (JobState.COMPLETED, 2),
            ]
            third = await engine.submit(bench.config(), owner=OWNER)
            await heard(engine, third.id)
            pid = pid_of(JobDirectory(bench.settings.jobs_dir / third.id).handle())
            bench.pids.add(pid)
            return pid

    until_gone(trio.run(main))


def test_what_a_job_does_not_ask_for_is_dropped_before_more_is_made():
    kept = Kept()
    assert kept.get("a", lambda: 1) == 1
    assert kept.get("b", lambda: 2) == 2
    kept.end_job()
    assert kept.get("a", lambda: 3) == 1
    assert kept.get("c", lambda: 4) == 4
    assert kept.get("b", lambda: 5) == 5
    kept.end_job()
    kept.end_job()
    assert not kept

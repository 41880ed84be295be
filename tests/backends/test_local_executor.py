"""The local executor: whose processes are whose, and that none is left."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from cryomamba_backends.local_executor import cores, plugin
from cryomamba_backends.local_executor import executor as module
from cryomamba_backends.local_executor.executor import SPINS, THREAD_VARIABLES, WAITING_VARIABLES, LocalExecutor
from cryomamba_backends.local_executor.processes import MARK, WorkerProcess, birth_of
from cryomamba_core.errors import StorageDamaged, WorkerDied
from cryomamba_core.interfaces import Resources, WorkerHandle
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_core.wire import dump_json, load_json

PATIENCE = 60


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "data", devices=("cuda:0", "cpu"))


@pytest.fixture
def executor(settings):
    return LocalExecutor(settings)


@pytest.fixture
def job_dir(settings):
    folder = settings.jobs_dir / "j"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def worker(tmp_path, monkeypatch, job_dir):
    """Puts a program in the worker's place; `start` returns when it has said `ready`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(module, "WORKER", "pretender")
    started = []

    class Pretender:
        def write(self, program):
            text = "import os, signal, subprocess, sys, time\n"
            text += "def ready():\n    open('part', 'w').close(); os.rename('part', 'ready')\n"
            (folder / "pretender.py").write_text(text + textwrap.dedent(program))

        def start(self, executor, resources=None):
            handle = executor.start(job_dir, resources or Resources())
            started.append((executor, handle))
            until((job_dir / "ready").exists)
            return handle

    yield Pretender()
    for executor, handle in started:
        executor.cancel(handle, grace=0)


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def pid_of(handle):
    return load_json(handle.token, WorkerProcess).pid


def test_it_registers_as_a_plugin_with_a_slot_for_each_device(settings):
    host = PluginHost(settings)
    assert host.register(plugin, name="local").provides == {"executor": ("local",)}
    assert host.executors.get("local").slots() == ("cuda:0", "cpu")


def test_a_worker_has_its_own_session_its_log_and_no_input(executor, worker, job_dir):
    worker.write(
        """
        print("said", sys.stdin.read() == "", flush=True)
        print("complained", file=sys.stderr, flush=True)
        ready()
        signal.pause()
        """
    )
    handle = worker.start(executor)
    pid = pid_of(handle)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert Path(psutil.Process(pid).cwd()) == job_dir
    assert (job_dir / "worker.log").read_text() == "said True\ncomplained\n"


def test_the_log_of_the_attempt_before_is_kept(executor, worker, job_dir):
    (job_dir / "worker.log").write_text("first\n")
    worker.write("print('second', flush=True)\nready()")
    executor.wait(worker.start(executor), PATIENCE)
    assert (job_dir / "worker.log").read_text() == "first\nsecond\n"


def test_a_worker_is_told_data_directory_and_threads(executor, worker, settings):
    worker.write("ready()\nsignal.pause()")
    handle = worker.start(executor, Resources(threads=3, environment={"OMP_NUM_THREADS": "7", "A": "b"}))
    environment = psutil.Process(pid_of(handle)).environ()
    assert environment["CRYOMAMBA_DATA_DIR"] == str(settings.data_dir)
    assert {environment[variable] for variable in set(THREAD_VARIABLES) - {"OMP_NUM_THREADS"}} == {"3"}
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["A"] == "b"


def test_without_a_number_of_threads_none_is_set(executor, worker, monkeypatch):
    for variable in THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    worker.write("ready()\nsignal.pause()")
    assert not set(THREAD_VARIABLES) & set(psutil.Process(pid_of(worker.start(executor))).environ())


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["by default", "the user's number", "the user's policy"],
)
def test_threads_that_wait_leave_the_cores_to_other_jobs(executor, worker, monkeypatch, own, expected):
    for variable in WAITING_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in own.items():
        monkeypatch.setenv(variable, value)
    worker.write("ready()\nsignal.pause()")
    environment = psutil.Process(pid_of(worker.start(executor))).environ()
    assert environment.get("GOMP_SPINCOUNT") == expected


def test_relative_paths_in_the_environment_keep_their_meaning(executor, worker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"modules{os.pathsep}{tmp_path}")
    monkeypatch.setenv("CRYOMAMBA_CONFIG", "here.toml")
    worker.write("ready()\nsignal.pause()")
    environment = psutil.Process(pid_of(worker.start(executor))).environ()
    assert environment["PYTHONPATH"] == f"{tmp_path / 'modules'}{os.pathsep}{tmp_path}"
    assert environment["CRYOMAMBA_CONFIG"] == str(tmp_path / "here.toml")


def test_nothing_is_imported_from_the_job_directory(executor, worker, job_dir):
    (job_dir / "json.py").write_text("raise SystemExit(77)")
    worker.write("import json\nready()")
    assert executor.wait(worker.start(executor), PATIENCE).code == 0


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [
        ("sys.exit(0)", 0, "exit status 0"),
        ("sys.exit(11)", 11, "exit status 11"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "killed by signal 9 (SIGKILL)"),
        ("os.abort()", -6, "killed by signal 6 (SIGABRT)"),
        ("os.kill(os.getpid(), 40)", -40, "killed by signal 40"),
    ],
)
def test_the_end_is_told_in_words(executor, worker, ending, code, reason):
    worker.write(f"ready()\n{ending}")
    ended = executor.wait(worker.start(executor), PATIENCE)
    assert (ended.code, ended.reason) == (code, reason)


def test_a_worker_that_has_ended_is_no_zombie_though_nobody_waits(executor, worker):
    worker.write("ready()")
    pid = pid_of(worker.start(executor))
    until(lambda: not psutil.pid_exists(pid))


def test_a_worker_ends_in_its_own_way_when_asked(executor, worker, job_dir):
    worker.write(
        """
        def end(*_):
            open("tidied", "w").close()
            sys.exit(3)
        signal.signal(signal.SIGTERM, end)
        ready()
        while True:
            signal.pause()
        """
    )
    handle = worker.start(executor)
    executor.cancel(handle, grace=PATIENCE)
    assert executor.wait(handle, 0).code == 3
    assert (job_dir / "tidied").exists()


STUBBORN = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    sleep = [sys.executable, "-c", program]
    children = [
        subprocess.Popen(sleep),
        subprocess.Popen(sleep, start_new_session=True),
        subprocess.Popen(sleep, env={"PATH": os.environ["PATH"]}),
    ]
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
    ready()
    time.sleep(600)
"""


def family_of(handle, size):
    """The worker's processes, once there are `size`: a program shows its environment a moment after it has begun."""
    deadline = time.monotonic() + PATIENCE
    while len(found := processes_of(handle)) != size:
        assert time.monotonic() < deadline, found
    return found


def processes_of(handle):
    """The worker's processes, by the mark in their environment, and those below the worker."""
    mark = load_json(handle.token, WorkerProcess).mark
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue
    return found


def still_running(processes):
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_stubborn_worker_is_ended_with_all_that_it_started(executor, worker):
    worker.write(STUBBORN)
    handle = worker.start(executor)
    family = family_of(handle, 5)
    executor.cancel(handle, grace=0.2)
    assert still_running(family) == []
    assert executor.wait(handle, 0).code == -signal.SIGKILL


def test_what_a_dead_worker_left_behind_is_ended_too(executor, worker):
    worker.write(STUBBORN.replace(', env={"PATH": os.environ["PATH"]}', ""))
    handle = worker.start(executor)
    family = family_of(handle, 5)
    os.kill(pid_of(handle), signal.SIGKILL)
    assert executor.wait(handle, PATIENCE).reason == "killed by signal 9 (SIGKILL)"
    assert len(still_running(family)) == 4
    executor.cancel(handle)
    assert still_running(family) == []


def test_a_process_that_dies_is_of_the_family_until_it_is_gone():
    """It shows no mark any more, as this one does not at all."""
    worker = WorkerProcess(pid=os.getpid(), birth="long ago", mark="0" * 32)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        known = [psutil.Process(process.pid)]
        assert worker.family() == []
        assert worker.family(known) == known
        process.kill()
        process.wait()
        assert worker.family(known) == []


def test_a_number_that_belongs_to_another_process_now_is_left_alone(executor):
    """The handle names this very process, as it would after the worker's number was given away."""
    other = dump_json(WorkerProcess(pid=os.getpid(), birth="long ago", mark="0" * 32))
    handle = WorkerHandle(executor="local", token=other)
    assert executor.reattach(handle) is False
    assert executor.wait(handle, 0).code is None
    executor.cancel(handle, grace=0)


def test_births_tell_processes_apart():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        first = birth_of(process.pid)
        assert first
        assert first == birth_of(process.pid) != birth_of(os.getpid())
    assert birth_of(process.pid) is None


ENGINE = """
import os, signal, sys
from pathlib import Path
from cryomamba_backends.local_executor import executor
from cryomamba_core.interfaces import Resources
from cryomamba_core.settings import Settings
executor.WORKER = "pretender"
handle = executor.LocalExecutor(Settings(data_dir=Path(sys.argv[1]))).start(Path(sys.argv[2]), Resources())
print(handle.token, flush=True)
os.killpg(os.getpgid(0), signal.SIGKILL)
"""


def test_a_worker_outlives_the_engine_that_started_it(executor, worker, settings, job_dir):
    worker.write("ready()\nsignal.pause()")
    engine = subprocess.run(
        [sys.executable, "-c", ENGINE, settings.data_dir, job_dir],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert engine.returncode == -signal.SIGKILL
    handle = WorkerHandle(executor="local", token=engine.stdout.strip())
    until((job_dir / "ready").exists)
    assert executor.reattach(handle)
    assert executor.find(job_dir) == handle
    assert executor.wait(handle, 0.1) is None
    executor.cancel(handle, grace=PATIENCE)
    ended = executor.wait(handle, 0)
    assert ended.code is None
    assert "another process" in ended.reason
    assert not executor.reattach(handle)
    assert executor.find(job_dir) is None


def test_another_executor_does_not_take_the_exit_status_away(executor, worker, settings):
    worker.write("ready()\nsignal.pause()")
    handle = worker.start(executor)
    other = LocalExecutor(settings)
    other.cancel(handle, grace=0)
    assert other.wait(handle, PATIENCE).code is None
    assert executor.wait(handle, PATIENCE).code == -signal.SIGKILL


def test_a_forked_child_is_not_taken_for_the_worker(executor, worker, job_dir):
    worker.write("children = [os.fork()]\nif children[0]:\n    ready()\nsignal.pause()")
    handle = worker.start(executor)
    assert executor.find(job_dir) == handle


def test_what_cannot_be_started_is_named(executor, job_dir, tmp_path, monkeypatch):
    with pytest.raises(StorageDamaged, match="none"):
        executor.start(tmp_path / "none", Resources())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(WorkerDied, match="no-python"):
        executor.start(job_dir, Resources())


def test_cores_are_found_by_what_the_system_says_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "CPUS", tmp_path)
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 8}, raising=False)
    assert cores.usable_cores() == ((0, 2), (1, 3), (8,))  # nothing is known of the last


def test_shards_divide_cores_and_threads(executor, monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: ((0, 4), (1, 5), (2, 6), (3, 7)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    given = Resources(device="cpu", environment={"A": "b"})
    places = executor.places(given, ("cpu",), 2)
    assert [place.cores for place in places] == [(0, 4, 1, 5), (2, 6, 3, 7)]
    assert [place.threads for place in places] == [2, 2]
    assert places[0].environment == {"A": "b", "CRYOMAMBA_THREADS": "2"}
    assert [place.threads for place in executor.places(given, ("cpu",), 3)] == [2, 1, 1]
    assert len(executor.places(given, ("cpu",), 9)) == 4
    few = executor.places(Resources(device="cpu", threads=2), ("cpu",), 9)
    assert [(place.threads, place.cores) for place in few] == [(1, (0, 4, 1, 5)), (1, (2, 6, 3, 7))]
    assert [place.cores for place in executor.places(Resources(threads=8), ("cpu",), 8)] == [()] * 8


def test_each_shard_on_a_gpu_has_one_that_its_job_holds(executor, monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: ((0,), (1,)))
    given = Resources(device="cuda:0")
    assert [place.device for place in executor.places(given, ("cuda:0", "cuda:1"), 4)] == ["cuda:0", "cuda:1"]
    assert [place.device for place in executor.places(given, ("cuda:0",), 4)] == ["cuda:0"]


def test_a_worker_keeps_to_its_cores(executor, worker):
    worker.write("ready()\nsignal.pause()")
    own = min(os.sched_getaffinity(0))
    handle = worker.start(executor, Resources(cores=(own,)))
    assert psutil.Process(pid_of(handle)).cpu_affinity() == [own]


def test_a_worker_runs_even_where_it_cannot_keep_to_its_cores(executor, worker, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    worker.write("ready()\nsignal.pause()")
    assert executor.reattach(worker.start(executor, Resources(cores=(0,))))


def test_no_worker_is_left_of_a_start_that_fails(executor, worker, job_dir, monkeypatch):
    def fail(_):
        raise OSError(errno.EMFILE, "too many open files")

    worker.write("signal.pause()")
    monkeypatch.setattr(module, "birth_of", fail)
    with pytest.raises(OSError, match="too many open files"):
        executor.start(job_dir, Resources())
    assert executor.find(job_dir) is None


COORDINATOR = """
    if os.path.basename(sys.argv[1]) == "shard":
        ready()
        signal.pause()
    from pathlib import Path
    from cryomamba_backends.local_executor import executor
    from cryomamba_core.interfaces import Resources
    from cryomamba_core.settings import Settings
    executor.WORKER = "pretender"
    shard = Path(sys.argv[1]) / "shard"
    shard.mkdir()
    executor.LocalExecutor(Settings(data_dir=shard)).start(shard, Resources())
    while not (shard / "ready").exists():
        time.sleep(0.01)
    ready()
    signal.pause()
"""


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "killed"])
def test_the_workers_that_a_worker_has_started_end_with_it(executor, worker, job_dir, dead):
    worker.write(COORDINATOR)
    handle = worker.start(executor)
    shard = executor.find(job_dir / "shard")
    assert executor.reattach(shard)
    if dead:
        os.kill(pid_of(handle), signal.SIGKILL)
        executor.wait(handle, PATIENCE)
        assert executor.reattach(shard)
    executor.cancel(handle, grace=0.2)
    assert not executor.reattach(shard)


def test_the_end_of_a_shards_worker_leaves_that_of_its_job_alone(executor, worker, job_dir):
    worker.write(COORDINATOR)
    handle = worker.start(executor)
    shard = executor.find(job_dir / "shard")
    executor.cancel(shard, grace=0)
    assert not executor.reattach(shard)
    assert executor.reattach(handle)

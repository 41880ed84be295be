"""A job run inside this process with a stranger's plugins, and the same as the real worker process."""

import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strangers
from attrs import evolve

from cryomamba_core.artifacts import Manifest
from cryomamba_core.companions import Companion, CompanionFiles
from cryomamba_core.durable import sha256_of
from cryomamba_core.errors import (
    CorruptFile,
    InvalidParameter,
    PluginFault,
    StorageDamaged,
    UnusableModel,
    UnusableVolume,
)
from cryomamba_core.events import Completed, Failed, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Executor, JobCanceled, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import EXIT_CANCELED, EXIT_FAILED, Checkpoint, JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import LabelBlock
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.settings import Settings
from cryomamba_core.wire import load_json
from cryomamba_core.worker import run, taking
from cryomamba_core.worker.context import Preempted, StopOrders
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.run import JobRun

SHAPE = (6, 5, 4)


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.random.default_rng(3).normal(size=SHAPE).astype(np.float32))
    return path


@pytest.fixture
def host(tmp_path):
    host = PluginHost(Settings(data_dir=tmp_path / "data"))
    assert not host.register(strangers, name="strangers").error
    return host


def make_directory(tmp_path, tomogram, **params):
    spec = JobSpec(
        job_id="j",
        config=JobConfig(
            source=Source(path=str(tomogram)),
            runner="steps",
            params=params,
            label="a",
            preview=PreviewPolicy(interval_seconds=0),
        ),
        source=str(tomogram),
        source_name="a.npy",
        grid=VoxelGrid(shape=SHAPE, voxel_size=(10, 10, 10)),
        device="cpu",
    )
    directory = JobDirectory(tmp_path / "job")
    directory.begin_attempt(spec)
    return directory


def write_spec_with_interval(directory, seconds):
    spec = directory.spec()
    policy = PreviewPolicy(interval_seconds=seconds)
    directory.begin_attempt(evolve(spec, config=evolve(spec.config, preview=policy)))


def run_here(directory, host):
    spec = directory.spec()
    log, orders = EventLog(directory, attempt=spec.attempt), StopOrders(directory)
    return JobRun(directory=directory, spec=spec, host=host, log=log, orders=orders).execute()


def events_of(directory, kind):
    return [event for event, _ in directory.events() if isinstance(event, kind)]


def test_the_labels_are_the_runners_and_the_manifest_says_where_they_come_from(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram)
    artifacts = run_here(directory, host)
    assert [artifact.name for artifact in artifacts] == ["mask.npy", "manifest.json"]
    mask = np.load(directory.artifacts_path / "mask.npy")
    assert np.array_equal(mask, np.load(tomogram) > 0)
    manifest = load_json((directory.artifacts_path / "manifest.json").read_bytes(), Manifest)
    assert manifest.run.source.sha256 == sha256_of(tomogram)
    defaults = {"gate": "", "depth": 1, "fault": "", "resumes": True, "axis": 0, "doubt": 0, "sure": False}
    assert manifest.run.params == defaults
    assert manifest.run.statistics[0].voxels == int(mask.sum())
    assert manifest.artifacts[0].sha256 == sha256_of(directory.artifacts_path / "mask.npy")
    assert manifest.notes == ("written by a stranger",)
    assert manifest.peak_rss_bytes > 10**7
    assert manifest.versions["cryomamba"] == metadata.version("cryomamba")


def test_progress_never_falls_and_the_last_preview_is_the_whole_mask(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram)
    run_here(directory, host)
    fractions = [event.progress.fraction for event in events_of(directory, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(events_of(directory, PreviewReady)) == SHAPE[0] + 1
    preview = directory.preview()
    assert np.array_equal(preview.labels(), np.load(tomogram) > 0)
    assert not preview.provisional


def test_the_time_left_counts_what_follows_the_labels_by_voxels(tmp_path, tomogram, host, monkeypatch):
    monkeypatch.setattr(run, "SECONDS_AFTERWARDS", 3.0)
    directory = make_directory(tmp_path, tomogram)
    run_here(directory, host)
    told = [event.progress for event in events_of(directory, Progress) if event.progress.stage == "segmenting"]
    assert told[-1].done == told[-1].total
    assert told[-1].eta_seconds == 3.0 * np.prod(SHAPE)


def fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, **params):
    """A first attempt that ends after two rows, whose labels are then turned over: the next one takes them as they lie.

    Returns the labels that the job should end with.
    """
    monkeypatch.setattr(taking, "CHECKPOINT_INTERVAL", 0)
    directory = make_directory(tmp_path, tomogram, fault="raises", depth=2, **params)
    with pytest.raises(ArithmeticError):
        run_here(directory, host)
    assert directory.checkpoint().rows == 2
    expected = (np.load(tomogram) > 0).astype(np.uint8)
    final = [slice(None)] * 3
    final[params["axis"]] = slice(2)
    with directory.open_labels(directory.spec().grid, np.dtype(np.uint8), create=True) as labels:
        lying = labels[:]
        assert np.array_equal(lying[tuple(final)], expected[tuple(final)])
        lying[tuple(final)] ^= 1
        expected[tuple(final)] ^= 1
        labels.write(directory.spec().grid.whole, lying)
    return expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("resumes", [True, False], ids=["leaves final rows out", "gives all rows again"])
def test_a_second_attempt_goes_on_from_the_checkpoint(tmp_path, tomogram, host, monkeypatch, resumes, axis):
    expected = fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, resumes=resumes, axis=axis)
    directory = make_directory(tmp_path, tomogram, depth=2, resumes=resumes, axis=axis)
    run_here(directory, host)
    mask = np.load(directory.artifacts_path / "mask.npy")
    assert np.array_equal(mask, expected)
    assert np.array_equal(directory.preview().labels(), mask)


def test_rows_along_another_axis_are_not_gone_on_from(tmp_path, tomogram, host, monkeypatch):
    fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, axis=1)
    directory = make_directory(tmp_path, tomogram, depth=2, axis=2)
    run_here(directory, host)
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)


def test_what_the_first_machine_decided_holds_for_all_attempts(tmp_path, tomogram, host, monkeypatch):
    machine = {"depth": 2}
    monkeypatch.setattr(strangers.StepRunner, "settle", lambda _, __, params, ___: evolve(params, **machine))
    monkeypatch.setattr(taking, "CHECKPOINT_INTERVAL", 0)

    def settled(directory):
        manifest = load_json((directory.artifacts_path / "manifest.json").read_bytes(), Manifest)
        return manifest.run.params["depth"]

    with monkeypatch.context() as broken:
        broken.setattr(strangers.StepRunner, "_fault", lambda *_: 1 / 0)
        first = make_directory(tmp_path, tomogram)
        with pytest.raises(ArithmeticError):
            run_here(first, host)
    machine["depth"] = 3
    again = make_directory(tmp_path, tomogram)
    run_here(again, host)
    assert settled(again) == 2
    again.clear_checkpoint()
    run_here(again, host)
    assert settled(again) == 3  # no label is left that would have to go with the new ones


@pytest.mark.parametrize("explicit", [False, True], ids=["left to the machine", "asked for"])
def test_what_another_device_decided_and_this_one_cannot_do_is_decided_anew(
    tmp_path, tomogram, host, monkeypatch, explicit
):
    def settle(_, __, params, device):
        if device != "cpu" and params.depth != 3 and (params.depth == 2 or explicit):
            raise InvalidParameter(f"depth={params.depth} is not for {device}")
        return evolve(params, depth=2 if device == "cpu" else 3)

    monkeypatch.setattr(strangers.StepRunner, "settle", settle)
    monkeypatch.setattr(taking, "CHECKPOINT_INTERVAL", 0)
    with monkeypatch.context() as broken:
        broken.setattr(strangers.StepRunner, "_fault", lambda *_: 1 / 0)
        directory = make_directory(tmp_path, tomogram)
        with pytest.raises(ArithmeticError):
            run_here(directory, host)
    with directory.open_labels(directory.spec().grid, np.dtype(np.uint8), update=True) as labels:
        labels.write(directory.spec().grid.whole, 1 - labels[:])  # none of them may be gone on from
    directory.begin_attempt(evolve(directory.spec(), device="cuda:0", attempt=2))
    if explicit:
        with pytest.raises(InvalidParameter, match="depth=1 is not for cuda:0"):
            run_here(directory, host)
        assert directory.checkpoint().rows == 2
        return
    run_here(directory, host)
    manifest = load_json((directory.artifacts_path / "manifest.json").read_bytes(), Manifest)
    assert manifest.run.params["depth"] == 3
    told = "attempt 2 began anew, with what suits its device: depth=2 is not for cuda:0"
    assert manifest.notes == (told, "written by a stranger")
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)


def test_labels_of_another_tomogram_are_not_gone_on_from(tmp_path, tomogram, host, monkeypatch):
    fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, axis=0)
    np.save(tomogram, np.load(tomogram)[::-1])  # the same grey values
    directory = make_directory(tmp_path, tomogram, depth=2)
    run_here(directory, host)
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)


def name_another_model(monkeypatch):
    """From now on the model of the same name is another one."""
    models = strangers.StepRunner.models
    monkeypatch.setattr(strangers.StepRunner, "models", lambda its: [evolve(*models(its), digest="b" * 64)])


def test_labels_of_another_model_are_not_gone_on_from(tmp_path, tomogram, host, monkeypatch):
    fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, axis=0)
    name_another_model(monkeypatch)
    directory = make_directory(tmp_path, tomogram, depth=2)
    with pytest.raises(UnusableModel, match="replaced by another one of the same name"):
        run_here(directory, host)
    directory.clear_labels()
    run_here(directory, host)
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)
    manifest = load_json((directory.artifacts_path / "manifest.json").read_bytes(), Manifest)
    assert manifest.run.model.digest == "b" * 64


class HereExecutor(Executor):
    """Runs the workers of shards in this process, one after the other, while it starts them."""

    name = "local"

    def __init__(self, host):
        self._host = host
        self.started = 0

    def slots(self):
        return ("cpu",)

    def places(self, resources, devices, count):
        return (resources,)

    def start(self, job_dir, resources):
        self.started += 1
        directory = JobDirectory(job_dir)
        run_here(directory, self._host)
        EventLog(directory, attempt=1).completed(())
        return WorkerHandle(executor=self.name, token=job_dir.name)

    def reattach(self, handle):
        return False

    def wait(self, handle, timeout):
        return WorkerExit(code=0, reason="exit status 0")

    def cancel(self, handle, grace=10.0):
        pass


@pytest.fixture
def here(host):
    executor = HereExecutor(host)
    plugin = SimpleNamespace(cryomamba_register_executors=hookimpl(lambda register: register(executor)))
    assert not host.register(plugin, name="here").error
    return executor


def make_shared_directory(tmp_path, tomogram, **params):
    directory = make_directory(tmp_path, tomogram, **params)
    spec = directory.spec()
    directory.begin_attempt(evolve(spec, config=evolve(spec.config, shards=2)))
    return directory


def test_files_that_shards_write_to_are_made_before_any_of_them_runs(tmp_path, tomogram, host, here, monkeypatch):
    made, reserve = [], LabelFile._reserve

    def note(file, size):
        made.append(here.started)
        reserve(file, size)

    monkeypatch.setattr(LabelFile, "_reserve", note)
    directory = make_shared_directory(tmp_path, tomogram, doubt=1)
    run_here(directory, host)
    assert (made, here.started) == ([0, 0], 2)
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)
    assert np.array_equal(np.load(directory.artifacts_path / "doubt.npy"), strangers.doubts(np.load(tomogram)))


def test_a_runner_that_cuts_a_volume_wrongly_is_named(tmp_path, tomogram, host, here, monkeypatch):
    monkeypatch.setattr(strangers.StepRunner, "shard_bounds", lambda *_: (0, 3, 5))
    with pytest.raises(PluginFault, match="runner steps cuts 6 rows"):
        run_here(make_shared_directory(tmp_path, tomogram), host)
    assert not here.started


def test_a_shard_settles_nothing_by_itself(tmp_path, tomogram, host, here, monkeypatch):
    monkeypatch.setattr(JobDirectory, "write_settled", lambda *_: None)
    with pytest.raises(StorageDamaged, match="what the job's runner has settled is gone"):
        run_here(make_shared_directory(tmp_path, tomogram), host)


@pytest.mark.parametrize("shards", [1, 2], ids=["whole", "shards"])
def test_what_nobody_sees_is_not_made(shards, tmp_path, tomogram, host, here, monkeypatch):
    monkeypatch.setattr(taking, "CHECKPOINT_INTERVAL", 0)
    monkeypatch.setattr(taking, "PreviewBuilder", lambda *_: pytest.fail("it is of no use"))
    directory = make_directory(tmp_path, tomogram, doubt=1)
    spec = directory.spec()
    config = evolve(spec.config, shards=shards, preview=PreviewPolicy(max_voxels=0))
    directory.begin_attempt(evolve(spec, config=config))
    with monkeypatch.context() as broken:
        broken.setattr(strangers.StepRunner, "_fault", lambda *_: 1 / 0)
        with pytest.raises(ArithmeticError):
            run_here(directory, host)
    run_here(directory, host)  # goes on from labels that would be shown
    assert directory.preview() is None
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)


def test_a_shard_does_not_run_another_model_than_its_job(tmp_path, tomogram, host, here, monkeypatch):
    begin = JobDirectory.begin_attempt

    def replace_model(directory, spec):
        if spec.shard is not None and spec.shard.number == 2:
            name_another_model(monkeypatch)
        begin(directory, spec)

    monkeypatch.setattr(JobDirectory, "begin_attempt", replace_model)
    directory = make_shared_directory(tmp_path, tomogram)
    with pytest.raises(UnusableModel, match="replaced by another one of the same name"):
        run_here(directory, host)
    assert here.started == 2
    with pytest.raises(UnusableModel, match="replaced by another one of the same name"):
        run_here(directory, host)  # shard 1 is done, by the model before
    assert here.started == 2


def test_a_companion_is_a_file_of_the_job_and_labels_are_the_same(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram, doubt=1)
    artifacts = run_here(directory, host)
    assert [artifact.name for artifact in artifacts] == ["mask.npy", "doubt.npy", "manifest.json"]
    values = np.load(tomogram)
    assert np.array_equal(np.load(directory.artifacts_path / "doubt.npy"), strangers.doubts(values))
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), values > 0)
    manifest = load_json((directory.artifacts_path / "manifest.json").read_bytes(), Manifest)
    assert manifest.run.companions == (Companion(name="doubt", meaning="255 for zero"),)
    (shown,) = directory.preview().companions
    assert (shown.name, shown.factor) == ("doubt", 1)
    assert np.array_equal(shown.values(), strangers.doubts(values))
    assert [artifact.name for artifact in manifest.artifacts] == ["mask.npy", "doubt.npy"]
    directory.clear_labels()
    assert not list(directory.path.glob("*.raw"))


def test_a_companion_says_of_which_label_it_is_in_previews_and_in_the_manifest(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram, doubt=1, sure=True)
    run_here(directory, host)
    manifest = load_json((directory.artifacts_path / "manifest.json").read_bytes(), Manifest)
    for companions in (manifest.run.companions, directory.preview().companions):
        assert [(each.name, each.label) for each in companions] == [("doubt", None), ("sure", 1)]


def test_a_binned_companion_holds_means(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram, doubt=3)
    run_here(directory, host)
    fine = strangers.doubts(np.load(tomogram)).astype(float)
    means = [[[fine[z : z + 3, y : y + 3, x : x + 3].mean() for x in (0, 3)] for y in (0, 3)] for z in (0, 3)]
    assert np.array_equal(np.load(directory.artifacts_path / "doubt.npy"), np.floor(np.array(means) + 0.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_companions_too_are_gone_on_from(tmp_path, tomogram, host, monkeypatch, axis):
    fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, axis=axis, doubt=1)
    expected = strangers.doubts(np.load(tomogram))
    directory = make_directory(tmp_path, tomogram, depth=2, axis=axis, doubt=1)
    final = [slice(None)] * 3
    final[axis] = slice(2)
    with LabelFile(directory.companion_path("doubt"), SHAPE, np.dtype(np.uint8), create=True) as lying:
        values = lying[:]
        assert np.array_equal(values[tuple(final)], expected[tuple(final)])
        values[tuple(final)] ^= 1  # the next attempt takes them as they lie
        expected[tuple(final)] ^= 1
        lying.write(Region.of_shape(SHAPE), values)
    run_here(directory, host)
    assert np.array_equal(np.load(directory.artifacts_path / "doubt.npy"), expected)


def test_labels_without_the_companion_are_not_gone_on_from(tmp_path, tomogram, host, monkeypatch):
    fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, axis=0)
    directory = make_directory(tmp_path, tomogram, depth=2, doubt=1)
    run_here(directory, host)
    assert np.array_equal(np.load(directory.artifacts_path / "mask.npy"), np.load(tomogram) > 0)
    assert np.array_equal(np.load(directory.artifacts_path / "doubt.npy"), strangers.doubts(np.load(tomogram)))


def test_a_companion_is_durable_before_the_checkpoint_says_so(tmp_path, tomogram, host, monkeypatch):
    directory = make_directory(tmp_path, tomogram, doubt=1)
    monkeypatch.setattr(taking, "CHECKPOINT_INTERVAL", 0)
    done = []
    for kind, name in ((CompanionFiles, "sync"), (type(directory), "write_checkpoint")):
        original = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *given, do=original, name=name: (done.append(name), do(*given)))
    run_here(directory, host)
    assert done[:4] == ["sync", "write_checkpoint"] * 2


def test_a_runner_that_leaves_its_companion_out_is_named(tmp_path, tomogram, host):
    with pytest.raises(PluginFault, match="brings the companions none, and the runner names doubt"):
        run_here(make_directory(tmp_path, tomogram, doubt=1, fault="no doubt"), host)


def test_a_companion_that_nobody_announced_is_refused(tmp_path, tomogram, host, monkeypatch):
    monkeypatch.setattr(strangers.StepRunner, "companions", lambda *_: ())
    with pytest.raises(PluginFault, match="brings the companions doubt, and the runner names none"):
        run_here(make_directory(tmp_path, tomogram, doubt=1), host)


def test_what_came_too_soon_to_be_shown_is_shown_and_saved_while_the_runner_works_on(
    tmp_path, tomogram, host, monkeypatch
):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(taking, "time", SimpleNamespace(monotonic=lambda: clock.now))
    directory = make_directory(tmp_path, tomogram)
    write_spec_with_interval(directory, 60.0)
    seen = []

    def segment(_, volume, params, context):
        for slab in volume.grid.whole.slabs(1):
            yield LabelBlock(region=slab, labels=np.ones(slab.shape, np.uint8))
            seen.append((len(events_of(directory, PreviewReady)), directory.checkpoint()))
            if slab.start[0] == 1:
                clock.now += 61
                context.checkpoint()
                seen.append((len(events_of(directory, PreviewReady)), directory.checkpoint()))

    monkeypatch.setattr(strangers.StepRunner, "segment", segment)
    run_here(directory, host)
    first, second, caught_up, *_ = seen
    assert (first, second) == ((1, None), (1, None))
    assert caught_up == (2, Checkpoint(rows=2, dtype="uint8", source=sha256_of(tomogram)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [("label", "label 7 in a block|label 8 in a block"), ("overlap", "cover the same voxels"), ("outside", "ends at")],
)
def test_a_runner_that_breaks_its_contract_is_named(tmp_path, tomogram, host, fault, message):
    with pytest.raises(PluginFault, match=message):
        run_here(make_directory(tmp_path, tomogram, fault=fault), host)


def test_a_runner_that_leaves_voxels_out_is_named(tmp_path, tomogram, host, monkeypatch):
    monkeypatch.setattr(strangers.StepRunner, "segment", lambda *_: iter(()))
    with pytest.raises(PluginFault, match="left 120 voxels without a label"):
        run_here(make_directory(tmp_path, tomogram), host)


def test_a_file_that_changed_since_it_was_accepted_is_refused(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram)
    np.save(tomogram, np.zeros((2, 2, 2), np.float32))
    with pytest.raises(CorruptFile, match="has changed"):
        run_here(directory, host)


def test_a_volume_that_cannot_be_segmented_is_refused_before_the_runner_sees_it(tmp_path, tomogram, host, monkeypatch):
    monkeypatch.setattr(strangers.StepRunner, "segment", lambda *_: pytest.fail("the runner was called"))
    np.save(tomogram, np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(UnusableVolume):
        run_here(make_directory(tmp_path, tomogram), host)


def test_the_order_to_cancel_is_seen_between_blocks(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram)
    directory.order_cancel()
    with pytest.raises(JobCanceled):
        run_here(directory, host)


def test_a_signal_is_another_matter_than_the_order_to_cancel(tmp_path, tomogram):
    directory = make_directory(tmp_path, tomogram)
    orders = StopOrders(directory)
    orders.obey()
    orders.signal()
    with pytest.raises(Preempted):
        orders.obey()
    directory.order_cancel()
    with pytest.raises(JobCanceled):
        orders.obey()


@pytest.fixture
def worker_environment(tmp_path):
    """An environment in which the strangers are an installed distribution."""
    site = tmp_path / "site"
    info = site / "strangers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nstrangers = strangers\n")
    path = os.pathsep.join([str(site), str(Path(strangers.__file__).parent)])
    return {**os.environ, "PYTHONPATH": path, "CRYOMAMBA_DATA_DIR": str(tmp_path / "data")}


def start(directory, environment):
    return subprocess.Popen([sys.executable, "-m", "cryomamba_core.worker", str(directory.path)], env=environment)


def wait_for(directory, kind):
    """The first event of a kind; the deadline is the test runner's."""
    while True:
        for event in events_of(directory, kind):
            return event


def test_the_worker_process_runs_a_job_and_leaves_only_results(tmp_path, tomogram, worker_environment):
    directory = make_directory(tmp_path, tomogram)
    assert start(directory, worker_environment).wait() == 0
    [done] = events_of(directory, Completed)
    assert {artifact.name for artifact in done.artifacts} >= {"mask.npy", "manifest.json"}
    assert not directory.labels_path.exists()
    assert directory.checkpoint() is None
    assert [event.seq for event, _ in directory.events()] == list(range(1, done.seq + 1))


def test_a_canceled_worker_says_so_and_leaves_nothing_behind(tmp_path, tomogram, worker_environment):
    directory = make_directory(tmp_path, tomogram, gate=str(tmp_path))
    (tmp_path / "0").touch()
    process = start(directory, worker_environment)
    wait_for(directory, PreviewReady)
    directory.order_cancel()
    assert process.wait() == EXIT_CANCELED
    assert events_of(directory, StateChanged)[-1].state is JobState.CANCELED
    assert not directory.labels_path.exists()
    assert not list(directory.artifacts_path.iterdir())
    assert not [path for path in directory.path.rglob("*") if "partial" in path.name]


def test_a_worker_that_is_told_to_end_keeps_what_another_can_go_on_from(tmp_path, tomogram, worker_environment):
    directory = make_directory(tmp_path, tomogram, gate=str(tmp_path))
    (tmp_path / "0").touch()
    process = start(directory, worker_environment)
    wait_for(directory, PreviewReady)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not events_of(directory, (Completed, Failed))
    assert directory.labels_path.exists()
    for section in range(SHAPE[0]):
        (tmp_path / str(section)).touch()
    assert start(directory, worker_environment).wait() == 0


def test_what_a_plugin_raises_becomes_the_jobs_error(tmp_path, tomogram, worker_environment):
    directory = make_directory(tmp_path, tomogram, fault="raises")
    assert start(directory, worker_environment).wait() == EXIT_FAILED
    [failed] = events_of(directory, Failed)
    assert failed.error.code == "internal/fault"
    assert "the stranger cannot go on" in failed.error.message
    assert not directory.labels_path.exists()


def test_a_specification_that_cannot_be_read_fails_the_job(tmp_path, tomogram, worker_environment):
    directory = make_directory(tmp_path, tomogram)
    (directory.path / "job.json").write_text(json.dumps({"job_id": 3}))
    assert start(directory, worker_environment).wait() == EXIT_FAILED
    assert events_of(directory, Failed)[0].error.code == "storage/damaged"


def test_a_preview_that_cannot_be_written_does_not_end_the_job(tmp_path, tomogram, host):
    directory = make_directory(tmp_path, tomogram)
    (directory.path / "preview.partial").mkdir()
    assert run_here(directory, host)
    assert not events_of(directory, PreviewReady)

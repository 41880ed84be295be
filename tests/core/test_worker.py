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
from jobs_here import SHAPE, events_of, fail_after_two_rows, make_directory, make_host, make_tomogram, run_here

from cryomamba_core.artifacts import Manifest
from cryomamba_core.companions import Companion, CompanionFiles
from cryomamba_core.durable import sha256_of
from cryomamba_core.errors import (
    CorruptFile,
    PluginFault,
    UnusableVolume,
)
from cryomamba_core.events import Completed, Failed, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import Region
from cryomamba_core.interfaces import JobCanceled
from cryomamba_core.job_directory import EXIT_CANCELED, EXIT_FAILED, Checkpoint
from cryomamba_core.jobs import JobState
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import LabelBlock
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.wire import load_json
from cryomamba_core.worker import run, taking
from cryomamba_core.worker.context import Preempted, StopOrders


@pytest.fixture
def tomogram(tmp_path):
    return make_tomogram(tmp_path / "a.npy")


@pytest.fixture
def host(tmp_path):
    return make_host(tmp_path / "data")


def write_spec_with_interval(directory, seconds):
    spec = directory.spec()
    policy = PreviewPolicy(interval_seconds=seconds)
    directory.begin_attempt(evolve(spec, config=evolve(spec.config, preview=policy)))


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

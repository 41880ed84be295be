"""Attempts at a job that go on from what earlier ones left, and the workers of shards, run inside this process."""

from types import SimpleNamespace

import numpy as np
import pytest
import strangers
from attrs import evolve
from jobs_here import fail_after_two_rows, make_directory, make_host, make_tomogram, run_here

from cryomamba_core.artifacts import Manifest
from cryomamba_core.errors import (
    InvalidParameter,
    PluginFault,
    StorageDamaged,
    UnusableModel,
)
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Executor, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.label_file import LabelFile
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.wire import load_json
from cryomamba_core.worker import taking
from cryomamba_core.worker.reporting import EventLog


@pytest.fixture
def tomogram(tmp_path):
    return make_tomogram(tmp_path / "a.npy")


@pytest.fixture
def host(tmp_path):
    return make_host(tmp_path / "data")


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

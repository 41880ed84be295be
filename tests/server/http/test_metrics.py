"""What is counted, read by Prometheus' own parser."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import engines
import pytest
import servers
import trio
import websocket
from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families

from cryomamba_core.jobs import JobProgress, JobRecord, JobState
from cryomamba_server.http import gpu
from cryomamba_server.http import metrics as metrics_module
from cryomamba_server.http.metrics import MOST_UNITS, Metrics

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def installed_strangers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


def samples(text):
    """(name, labels as sorted pairs) → value."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def count(metrics, tmp_path):
    return samples(metrics.render(data_dir=tmp_path).decode())


def record(config, **values):
    plain = {"id": "1", "owner": "ada", "state": JobState.RUNNING, "attempt": 1, "created_at": NOW, "started_at": NOW}
    return JobRecord(config=config, **(plain | values))


def at(stage, done, total, unit="tiles"):
    return JobProgress(stage=stage, done=done, total=total, unit=unit, fraction=0.0)


def fetch(server, path="/metrics", scopes=("metrics:read",), body=None):
    headers = server.headers(scopes=scopes)
    if body is not None:
        body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, body, headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def counted(server):
    status, text = await trio.to_thread.run_sync(fetch, server)
    assert status == 200
    return samples(text)


async def test_a_job_its_listener_and_its_requests_are_counted(tmp_path):
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    gate = tmp_path / "gate"
    gate.mkdir()
    async with servers.open_test_server(tmp_path / "data", allow_roots=(tmp_path,)) as server:
        engine = server.services.engine
        job = await engine.submit(engines.steps(tomogram, gate=str(gate)), owner="ada")
        waiting = await engine.submit(engines.steps(tomogram, gate=str(gate)), owner="ada")
        engines.open_gate(gate, 0)
        await engines.heard(engine, job.id, until=lambda event: event.type == "preview")
        before = await counted(server)
        assert before["cryomamba_jobs", ("state", "previewing")] == 1
        assert before["cryomamba_jobs", ("state", "queued")] == 1
        assert before["cryomamba_job_queue_seconds_count",] == 1
        assert before["cryomamba_disk_free_bytes",] <= before["cryomamba_disk_size_bytes",]
        assert before["process_resident_memory_bytes",] > 10_000_000

        listener = await trio.to_thread.run_sync(
            lambda: websocket.create_connection(
                f"{server.url.replace('http', 'ws', 1)}/v1/ws/jobs/{job.id}",
                header=server.headers(),
                timeout=engines.DEADLINE,
            )
        )
        await trio.to_thread.run_sync(hear_preview, listener)
        during = await counted(server)
        assert during["cryomamba_listeners", ("kind", "websocket")] == 1
        assert during["cryomamba_previews_sent_total",] >= 1
        await trio.to_thread.run_sync(listener.close)

        engines.open_gate(gate)
        for each in (job, waiting):
            await engines.heard(engine, each.id)
        assert (await trio.to_thread.run_sync(fetch, server, f"/v1/jobs/{job.id}", servers.SCOPES))[0] == 200
        assert (await trio.to_thread.run_sync(fetch, server, "/v1/jobs/none", servers.SCOPES))[0] == 404
        assert (await trio.to_thread.run_sync(fetch, server, "/no/such/place", servers.SCOPES))[0] == 404
        after = await counted(server)
        while after["cryomamba_listeners", ("kind", "websocket")]:
            after = await counted(server)
        assert after["cryomamba_jobs", ("state", "completed")] == 2
        assert after["cryomamba_jobs_ended_total", ("state", "completed")] == 2
        assert after["cryomamba_job_seconds_count", ("state", "completed")] == 2
        done = sum(value for name, value in after.items() if name[0] == "cryomamba_work_units_total")
        assert done > 0
        shown = ("method", "GET"), ("route", "/v1/jobs/<string:job_id>")
        assert after["cryomamba_http_requests_total", *shown, ("status", "200")] == 1
        assert after["cryomamba_http_requests_total", *shown, ("status", "404")] == 1
        nowhere = ("method", "GET"), ("route", "none"), ("status", "404")
        assert after["cryomamba_http_requests_total", *nowhere] == 1


def hear_preview(listener):
    while json.loads(listener.recv())["type"] != "preview":
        pass


def test_the_wait_of_a_job_that_was_queued_before_this_process_is_counted_once(tmp_path):
    config = engines.steps(tmp_path / "a.npy")
    metrics, started = Metrics(), metrics_module.LOADED_AT + timedelta(seconds=1)
    ours = {"created_at": started - timedelta(seconds=90), "started_at": started}
    others = {"id": "2", "created_at": NOW - timedelta(days=1), "started_at": NOW - timedelta(hours=1)}
    for values in (ours, ours, {**ours, "progress": at("segmenting", 1, 9)}, others):
        metrics.job_changed(record(config, **values))
    found = count(metrics, tmp_path)
    assert found["cryomamba_job_queue_seconds_count",] == 1
    assert found["cryomamba_job_queue_seconds_sum",] == 90


async def test_the_counters_ask_for_a_scope_of_their_own(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        status, text = await trio.to_thread.run_sync(fetch, server, "/metrics", servers.SCOPES)
        assert (status, json.loads(text)["error"]["code"]) == (403, "access/forbidden")


async def test_each_server_counts_for_itself(tmp_path):
    first, second = Metrics(), Metrics()
    first.part_received(10)
    assert count(first, tmp_path)["cryomamba_upload_bytes_total",] == 10
    assert count(second, tmp_path)["cryomamba_upload_bytes_total",] == 0


async def test_whatever_clients_and_runners_call_things_the_names_stay_few(tmp_path):
    metrics = Metrics()
    for number in range(200):
        metrics.request_ended(method=f"M{number}", route="", status=405, seconds=0.1)
        config = engines.steps(tmp_path)
        job = record(config, id=str(number))
        metrics.job_changed(job)
        metrics.job_changed(evolve(job, progress=at(f"stage {number}", 1, 2, unit=f"unit {number}")))
    found = count(metrics, tmp_path)
    assert found["cryomamba_http_requests_total", ("method", "other"), ("route", "none"), ("status", "405")] == 200
    work = [name for name in found if name[0] == "cryomamba_work_units_total"]
    assert len(work) == MOST_UNITS + 1
    assert {name[1] for name in work} == {("stage", "other")}


@pytest.mark.parametrize(
    ("reports", "counted_units"),
    [
        ([None, at("segmenting", 3, 8), at("segmenting", 8, 8)], 8),
        ([None, at("segmenting", 3, 8), at("exporting", 1, 4, "files")], 8),
        ([at("segmenting", 3, 8), at("segmenting", 5, 8)], 2),
        ([None, at("segmenting", 3, 8), at("segmenting", 3, 8)], 3),
    ],
    ids=["from the start", "a stage that was left was done whole", "taken over", "nothing new"],
)
def test_work_is_counted_once(tmp_path, reports, counted_units):
    metrics = Metrics()
    for progress in reports:
        metrics.job_changed(record(engines.steps(tmp_path), progress=progress))
    found = count(metrics, tmp_path)
    assert found["cryomamba_work_units_total", ("stage", "segmenting"), ("unit", "tiles")] == counted_units


def test_a_second_attempt_counts_what_it_does_itself(tmp_path):
    metrics = Metrics()
    first = record(engines.steps(tmp_path), progress=at("segmenting", 3, 8))
    metrics.job_changed(evolve(first, progress=None))
    metrics.job_changed(first)
    metrics.job_changed(evolve(first, state=JobState.QUEUED, progress=None))
    again = evolve(first, attempt=2)
    metrics.job_changed(evolve(again, progress=None))
    for done in (3, 8):
        metrics.job_changed(evolve(again, progress=at("segmenting", done, 8)))
    metrics.job_changed(evolve(again, state=JobState.COMPLETED, finished_at=NOW + timedelta(seconds=7)))
    found = count(metrics, tmp_path)
    assert found["cryomamba_work_units_total", ("stage", "segmenting"), ("unit", "tiles")] == 8
    assert found["cryomamba_job_seconds_sum", ("state", "completed")] == 7


class Nvml:
    """The driver's library as far as it is used; the real one is asked on machines that have a GPU."""

    NVMLError = RuntimeError

    def __init__(self, *, fails=False):
        self._fails = fails

    def nvmlDeviceGetCount(self):  # noqa: N802  # as NVIDIA spells it
        if self._fails:
            raise self.NVMLError("gone")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=3 << 30, total=24 << 30)

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return "A card"


def test_memory_of_gpus_is_told_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_driver", Nvml)
    found = count(Metrics(), tmp_path)
    card = ("gpu", "0"), ("name", "A card")
    assert found["cryomamba_gpu_memory_used_bytes", *card] == 3 << 30
    assert found["cryomamba_gpu_memory_bytes", *card] == 24 << 30


@pytest.mark.parametrize("driver", [lambda: None, lambda: Nvml(fails=True)])
def test_without_a_gpu_or_when_its_driver_fails_nothing_is_told_of_it(tmp_path, monkeypatch, driver):
    monkeypatch.setattr(gpu, "_driver", driver)
    assert not any(name[0].startswith("cryomamba_gpu") for name in count(Metrics(), tmp_path))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_promtool_has_nothing_to_say(tmp_path):
    text = Metrics().render(data_dir=tmp_path)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")

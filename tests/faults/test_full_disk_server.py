"""A server on a disk that is full: it says so, lives, and goes on as soon as there is room."""

import json
import os
import time

import httpx
import mrcfile
import numpy as np
import pytest
import unprotected
from engines import DEADLINE, make_tomogram, open_gate, steps, workers_of
from servers import SCOPES, ServerProcess
from small_disks import fill
from uploading import PART, digest, mrc_bytes, sha256, split

from cryomamba_core.events import PreviewReady
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.wire import to_plain

MIB = 1 << 20
#: MiB of the small disk.
DISK_MIB = 64
#: The labels of this volume, and their file, take 2 MiB each.
SHAPE = (32, 256, 256)


@pytest.fixture
def tomogram(tmp_path):
    return make_tomogram(tmp_path / "a.npy", SHAPE)


@pytest.fixture
def start_server(tmp_path, small_disk):
    """Starts a server whose data directory and log are on the small disk; it has a client of its own."""
    started = []
    unprotected.install(tmp_path / "site")

    def start(*, without=""):
        environment = {"UNPROTECTED": without, "CRYOMAMBA_SERVE_PART_SIZE": str(PART)}
        server = ServerProcess(small_disk / "data", "--allow-root", tmp_path, environment=environment)
        started.append(server)
        headers = server.headers(scopes=(*SCOPES, "metrics:read"))
        server.client = httpx.Client(base_url=server.url, headers=headers, timeout=DEADLINE, trust_env=False)
        return server

    yield start
    for server in started:
        server.client.close()
        server.kill()
        for worker in workers_of(server.data_dir):
            worker.kill()


def request_of(tomogram, **params):
    return to_plain(steps(tomogram, artifacts=("mask.mrc",), depth=8, **params))


def hear_to_the_end(server, job_id):
    """A job's record, once its events have ended."""
    assert server.client.get(f"/v1/jobs/{job_id}/events").status_code in (200, 204)
    return server.client.get(f"/v1/jobs/{job_id}").json()


def wait_for_preview(server, job_id):
    """Wait until a job's worker has shown a preview, by its own event file."""
    directory = JobDirectory(server.data_dir / "jobs" / job_id)
    deadline = time.monotonic() + DEADLINE
    while not any(isinstance(event, PreviewReady) for event, _ in directory.events()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lost_lines(server):
    """How many lines of the log could not be written, as the server's metrics have it."""
    metrics = server.client.get("/metrics").text
    [line] = [line for line in metrics.splitlines() if line.startswith("cryomamba_log_lines_lost ")]
    return float(line.split()[1])


def answer_often(server):
    """Have more logged than fits into what is left of the log's last block."""
    for _ in range(50):
        assert server.client.get("/v1/jobs").status_code == 200


def assert_completed(server, tomogram, record):
    assert record["state"] == "completed", record["error"]
    with mrcfile.open(server.data_dir / "artifacts" / record["job_id"] / "mask.mrc") as mask:
        np.testing.assert_array_equal(mask.data, np.load(tomogram) > 0)


@pytest.mark.parametrize(
    ("without", "status", "code"),
    [
        ("", 507, "storage/full"),
        ("reckoning of room", 507, "storage/full"),
        ("reckoning of room, name of a full disk", 500, "internal/fault"),
    ],
    ids=["as it is", "found by the database", "control"],
)
def test_a_job_that_cannot_be_recorded_is_refused_and_taken_when_there_is_room(
    start_server, tomogram, small_disk, without, status, code
):
    server = start_server(without=without)
    request = {"json": request_of(tomogram), "headers": {"Idempotency-Key": "the-same"}}
    ballast = fill(small_disk)
    refused = server.client.post("/v1/jobs", **request)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert refused.json()["error"]["retryable"] == (status == 507)
    assert server.client.get("/v1/healthz").status_code == 200
    assert server.client.get("/v1/jobs").json()["jobs"] == []
    ballast.unlink()
    taken = server.client.post("/v1/jobs", **request)
    assert taken.status_code == 201
    assert_completed(server, tomogram, hear_to_the_end(server, taken.json()["job_id"]))


def test_jobs_that_fill_the_disk_fail_with_the_reason_and_work_when_there_is_room(
    start_server, tomogram, small_disk, gate
):
    server = start_server()
    requests = [request_of(tomogram, gate=str(gate)), request_of(tomogram)]
    jobs = [server.client.post("/v1/jobs", json=request).json()["job_id"] for request in requests]
    wait_for_preview(server, jobs[0])
    ballast = fill(small_disk, leave=MIB)  # the first has its labels and lacks an artifact; the second lacks both
    open_gate(gate, *range(SHAPE[0]))
    for job_id in jobs:
        record = hear_to_the_end(server, job_id)
        assert (record["state"], record["artifacts"]) == ("failed", [])
        assert (record["error"]["code"], record["error"]["retryable"]) == ("storage/full", True)
        assert not list((server.data_dir / "jobs" / job_id / "artifacts").iterdir())
    assert server.client.get("/v1/healthz").status_code == 200
    ballast.unlink()
    for job_id in jobs:
        assert server.client.post(f"/v1/jobs/{job_id}/retry").status_code == 200
        assert_completed(server, tomogram, hear_to_the_end(server, job_id))


def test_a_job_goes_on_while_its_progress_cannot_be_recorded(start_server, tomogram, small_disk, gate):
    server = start_server()
    job_id = server.client.post("/v1/jobs", json=request_of(tomogram, gate=str(gate))).json()["job_id"]
    wait_for_preview(server, job_id)
    ballast = fill(small_disk)
    refused = server.client.delete(f"/v1/jobs/{job_id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage/full")
    assert server.client.get(f"/v1/jobs/{job_id}").json()["state"] in ("running", "previewing")
    ballast.unlink()
    open_gate(gate, *range(SHAPE[0]))
    assert_completed(server, tomogram, hear_to_the_end(server, job_id))


@pytest.mark.parametrize("without", ["", "thread for the log"], ids=["as it is", "control"])
def test_requests_are_answered_while_the_log_cannot_be_written_and_it_is_written_again_when_there_is_room(
    start_server, small_disk, without
):
    server = start_server(without=without)
    ballast = fill(small_disk)
    if without:  # whoever logs meets the full disk
        with pytest.raises((httpx.TransportError, AssertionError)):
            answer_often(server)
        return
    answer_often(server)
    full = server.log.stat().st_size
    lost = lost_lines(server)
    assert lost > 0
    ballast.unlink()
    assert server.client.get("/v1/jobs").status_code == 200
    while server.log.stat().st_size == full:
        assert server.process.poll() is None
    lines = server.log.read_bytes()[full:].splitlines()
    assert any(json.loads(line)["event"] for line in lines[1:] or lines)


def begin(server, data):
    return server.client.post("/v1/uploads/init", json={"filename": "a.mrc", "size": len(data), "fingerprint": "f"})


def put(server, upload, index, data):
    part = split(data)[index]
    address = f"/v1/uploads/{upload['upload_id']}/part/{index}"
    return server.client.put(address, content=part, headers={"Content-Digest": digest(part)})


def complete(server, upload):
    return server.client.post(f"/v1/uploads/{upload['upload_id']}/complete")


def assert_full(server, answer):
    """It says that the disk is full, and lives."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage/full"), answer.text
    assert answer.json()["error"]["retryable"]
    assert answer.headers["Retry-After"]
    assert server.client.get("/v1/healthz").status_code == 200


def assert_whole(server, upload, data):
    """The upload becomes the file that was sent."""
    for index in set(range(len(split(data)))) - set(upload["received"]):
        assert put(server, upload, index, data).status_code == 200
    answer = complete(server, upload)
    assert (answer.status_code, answer.json()["sha256"]) == (200, sha256(data))
    assert data in [path.read_bytes() for path in (server.data_dir / "raw").glob("*.mrc")]


@pytest.mark.parametrize("pages", [0, 4, 11], ids=["none at all", "for no bytes", "for no record"])
def test_an_upload_for_which_there_is_no_room_is_refused_and_taken_when_there_is(start_server, small_disk, pages):
    server, data = start_server(), mrc_bytes()
    ballast = fill(small_disk, leave=pages * os.sysconf("SC_PAGESIZE"))
    for _ in range(2):
        assert_full(server, begin(server, data))
    assert not [path for path in (server.data_dir / "raw").rglob("*") if path.is_file()], "what was set aside is left"
    ballast.unlink()
    assert_whole(server, begin(server, data).json(), data)


@pytest.mark.parametrize("restarted", [False, True], ids=["same server", "server that was started since"])
def test_a_part_that_cannot_be_recorded_is_refused_and_taken_when_there_is_room(start_server, small_disk, restarted):
    """Its bytes have their room since the upload began; the record needs some more."""
    server, data = start_server(), mrc_bytes()
    upload = begin(server, data).json()
    for index in (0, 1):
        assert put(server, upload, index, data).status_code == 200
    if restarted:
        server.kill()
        server.restart()
    ballast = fill(small_disk)
    for _ in range(2):
        assert_full(server, put(server, upload, 2, data))
    for index in (0, 1):
        assert put(server, upload, index, data).status_code == 200, "what is there needs no room"
    status = server.client.get(f"/v1/uploads/{upload['upload_id']}").json()
    assert status["received"] == [0, 1]
    ballast.unlink()
    assert_whole(server, status, data)


@pytest.mark.parametrize("without", ["", "name of a full disk"], ids=["as it is", "control"])
def test_a_completion_that_cannot_be_recorded_is_made_good_by_asking_again(start_server, small_disk, without):
    server, data = start_server(without=without), mrc_bytes()
    upload = begin(server, data).json()
    for index in range(len(split(data)) - 1):
        assert put(server, upload, index, data).status_code == 200
    ballast = fill(small_disk)
    last = put(server, upload, len(split(data)) - 1, data)
    if without:
        assert (last.status_code, last.json()["error"]["code"]) == (500, "internal/fault")
        return
    assert_full(server, last)
    ballast.unlink()
    assert put(server, upload, len(split(data)) - 1, data).status_code == 200
    ballast = fill(small_disk)
    for _ in range(2):
        assert_full(server, complete(server, upload))
    ballast.unlink()
    assert_whole(server, begin(server, data).json(), data)

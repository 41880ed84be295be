"""The log: one JSON object a line, nothing secret in it, and nothing that it meets harms the server."""

import base64
import hashlib
import http.client
import json
import logging
import os
import sys
import threading
import time
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import engines
import httpx
import numpy as np
import pytest
import servers

from cryomamba_server.http.logs import CLOSE_SECONDS, WAITING_LINES, logging_to

log = logging.getLogger("cryomamba_server.tests")


@pytest.fixture
def lines(tmp_path):
    """Runs a block with a log, and gives its lines."""
    path = tmp_path / "log"

    @contextmanager
    def logging_lines(style="json"):
        found = []
        with path.open("wb") as stream, logging_to(stream.fileno(), style=style):
            yield found
        found += path.read_text().splitlines()

    return logging_lines


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_was_done_by_whom_in_which_request_and_for_which_job(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    with servers.ServerProcess(tmp_path / "data", "--allow-root", tmp_path) as server:
        with httpx.Client(base_url=server.url, headers=server.headers(), timeout=engines.DEADLINE) as client:
            body = {"source": {"path": str(tomogram)}, "model": "steps"}
            answer = client.post("/v1/jobs", json=body, headers={"X-Request-ID": "my-own.1"})
            assert answer.headers["x-request-id"] == "my-own.1"
            job_id = answer.json()["job_id"]
            client.get(f"/v1/jobs/{job_id}/events?after=0")
            missing = client.get("/v1/jobs/none", headers={"X-Request-ID": 'a"b\\n{}'})
        assert server.terminate() == 0
    found = read(server.log)
    assert all({"time", "level", "event", "logger"} <= set(line) for line in found)
    requests = [line for line in found if line["event"] == "request"]
    submitted = next(line for line in requests if line.get("request_id") == "my-own.1")
    assert submitted.pop("seconds") >= 0
    assert submitted.pop("time").endswith("Z")
    assert submitted == {
        "level": "info",
        "event": "request",
        "logger": "cryomamba_server.access",
        "request_id": "my-own.1",
        "job_id": job_id,
        "method": "POST",
        "path": "/v1/jobs",
        "status": 201,
        "bytes": len(answer.content),
        "subject": "ada",
    }
    job_lines = [line for line in found if line["event"] == "job"]
    assert [line["state"] for line in job_lines][::3] == ["queued", "completed"]
    assert {(line["job_id"], line["owner"], line["logger"]) for line in job_lines} == {
        (job_id, "ada", "cryomamba_server.jobs")
    }
    assert job_lines[-1]["seconds"] >= 0
    streamed = next(line for line in requests if line["path"].endswith("/events"))
    assert (streamed["job_id"], streamed["status"]) == (job_id, 200)
    refused = next(line for line in requests if line["status"] == 404)
    assert refused["request_id"] == missing.headers["x-request-id"] != 'a"b\\n{}'


def test_nothing_secret_is_in_the_log(tmp_path, monkeypatch):
    """Tokens in headers, addresses and forms, signatures, bodies and voxels."""
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    part = tomogram.read_bytes()
    digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
    with servers.ServerProcess(tmp_path / "data", "--log-format", "json") as server:
        token = server.token()
        with httpx.Client(base_url=server.url, timeout=engines.DEADLINE) as client:
            mine = {"Authorization": f"Bearer {token}"}
            sent = {"filename": "secret-name.npy", "size": len(part)}
            upload = client.post("/v1/uploads/init", json=sent, headers=mine).json()
            place = f"/v1/uploads/{upload['upload_id']}"
            headers = {**mine, "Content-Digest": f"sha-256=:{digest}:"}
            assert client.put(f"{place}/part/0", content=part, headers=headers).status_code == 200
            file_id = client.post(f"{place}/complete", headers=mine).json()["file_id"]
            body = {"source": {"file_id": file_id}, "model": "steps"}
            job = client.post("/v1/jobs", json=body, headers=mine).json()
            client.get(f"/v1/jobs/{job['job_id']}/events", headers=mine)
            address = client.get(f"/v1/jobs/{job['job_id']}", headers=mine).json()["artifacts"][0]["url"]
            assert client.get(address).status_code == 200
            client.get(f"{address}x")
            client.get(f"/v1/jobs?token={token}")
            client.get(f"/v1/jobs/{token}", headers=mine)
            client.get("/v1/jobs", headers={"Authorization": f"Bearer {token[:-9]}A"})
            client.post("/pages/login", data={"token": token})
            client.post("/v1/jobs", content=b"{secret-body", headers={**mine, "Content-Type": "application/json"})
        assert server.terminate() == 0
    text = server.log.read_text()
    assert len(text.splitlines()) > 10
    claims, signature = token.split(".")[1:]
    query = urlsplit(address).query
    secrets = [claims, signature, query, query.rpartition("=")[2], "secret-name", "secret-body", digest]
    assert not [secret for secret in secrets if secret in text]


@pytest.mark.parametrize(
    "words",
    [
        "Authorization: Bearer abc.def-ghi",
        "GET /v1/files/x?expires=1&signature=abcdef0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "CRYOMAMBA_TOKEN=hunter2",
    ],
)
def test_secrets_in_messages_errors_and_values_are_hidden(lines, words):
    with lines() as found:
        log.warning("it said %s", words)
        try:
            raise ValueError(words)
        except ValueError:
            log.exception("it failed", extra={"detail": words})
    assert len(found) == 2
    for secret in ("abc.def-ghi", "abcdef0123456789", "eyJzdWIiOiJhZGEifQ", "c2lnbmF0dXJl", "hunter2"):
        assert not any(secret in line for line in found)


def test_values_that_are_no_text_are_named_by_their_type_only(lines):
    with lines() as found:
        log.warning("voxels", extra={"voxels": np.arange(9), "body": b"\x93NUMPY", "count": 3, "none": None})
    line = json.loads(found[0])
    assert (line["voxels"], line["body"], line["count"], line["none"]) == ("<ndarray>", "<bytes>", 3, None)


def test_an_error_is_one_field_of_one_line(lines):
    with lines() as found:
        try:
            raise ArithmeticError("first\nsecond")
        except ArithmeticError:
            logging.getLogger("somebody.else").exception("a\nb")
    (line,) = found
    plain = json.loads(line)
    assert plain["event"] == "a\nb"
    assert plain["exception"].startswith("Traceback")
    assert "ArithmeticError: first\nsecond" in plain["exception"]


def test_what_cannot_be_worded_is_said_and_harms_nobody(lines):
    with lines() as found:
        log.warning("%d apples", "no number")
        log.warning("half a pair: \ud800")
        log.warning("x" * 1_000_000)
    first, second, third = (json.loads(line) for line in found)
    assert "cannot be worded" in first["event"]
    assert second["event"] == "half a pair: \ud800"
    assert len(third["event"]) < 10_000


def test_people_get_lines_that_cannot_drive_their_terminal(lines):
    with lines("console") as found:
        log.warning("a file called %s", "\x1b]0;owned\x07.mrc", extra={"path": "\x1b[2J"})
    assert "a file called" in found[0]
    assert "\x1b" not in found[0]
    assert not found[0].startswith("{")


def test_a_terminal_gets_lines_for_people_and_anything_else_json(tmp_path):
    ours, theirs = os.openpty()
    path = tmp_path / "log"
    try:
        with logging_to(theirs):
            log.warning("hello")
        assert b"{" not in os.read(ours, 4096)
        with path.open("wb") as stream, logging_to(stream.fileno()):
            log.warning("hello")
        assert json.loads(path.read_text())["event"] == "hello"
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_log_before_is_there_again_after(tmp_path, caplog):
    before = logging.getLogger().handlers[:]
    with (tmp_path / "log").open("wb") as stream, logging_to(stream.fileno()):
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize("protected", [True, False])
def test_a_reader_that_does_not_read_holds_up_nobody(protected):
    """The standard library's handler waits for it for ever."""
    reading, writing = os.pipe()
    ended = threading.Event()

    def log_much():
        for _ in range(2 * WAITING_LINES):
            log.warning("a line of some length, so that a pipe takes a few thousand of them")
        ended.set()

    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        if protected:
            begun = time.monotonic()
            with logging_to(writer.fileno()) as handler:
                log_much()
                assert handler.lost >= WAITING_LINES // 2
            assert time.monotonic() - begun < engines.DEADLINE
            return
        stock = logging.StreamHandler(os.fdopen(os.dup(writer.fileno()), "w"))
        log.addHandler(stock)
        try:
            thread = threading.Thread(target=log_much, daemon=True)
            thread.start()
            assert not ended.wait(CLOSE_SECONDS)
        finally:
            drain = threading.Thread(target=reader.read, daemon=True)
            drain.start()
            thread.join(engines.DEADLINE)
            log.removeHandler(stock)
            stock.stream.close()
            writer.close()
            drain.join(engines.DEADLINE)


@pytest.mark.parametrize(
    "command",
    ['exec "$@" 2> /dev/full', 'exec 3>&1; { exec "$@" 2>&1 >&3; } | true'],
    ids=["a full disk", "a closed pipe"],
)
def test_a_server_whose_log_goes_nowhere_serves_and_leaves_well(tmp_path, command, monkeypatch):
    monkeypatch.setattr(servers.sys, "executable", _wrapper(tmp_path, command))
    with servers.ServerProcess(tmp_path / "data", wait=False) as server:
        note = _note(server)
        place = urlsplit(note["url"])
        for _ in range(50):
            with closing(http.client.HTTPConnection(place.hostname, place.port, timeout=engines.DEADLINE)) as client:
                client.request("GET", "/v1/healthz")
                assert client.getresponse().status == 200
        headers = servers.make_token(server.data_dir, scopes=("metrics:read",))
        with closing(http.client.HTTPConnection(place.hostname, place.port, timeout=engines.DEADLINE)) as client:
            client.request("GET", "/metrics", headers={"Authorization": f"Bearer {headers}"})
            text = client.getresponse().read().decode()
        lost = next(line for line in text.splitlines() if line.startswith("cryomamba_log_lines_lost "))
        assert float(lost.split()[1]) > 0
        os.kill(note["pid"], servers.signal.SIGTERM)
        status = server.process.wait(engines.DEADLINE)
        assert status == 0
    assert not (server.data_dir / "server.json").exists()


def _wrapper(tmp_path, command):
    """Python, but with another standard error."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/bash\nset -o pipefail\nset -- {sys.executable} "$@"\n{command}\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def _note(server):
    deadline = time.monotonic() + engines.DEADLINE
    while (note := server.note()) is None:
        assert server.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return note

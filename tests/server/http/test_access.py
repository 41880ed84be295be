"""For how long one is let in: sessions of the status page, listeners, and that tokens leave no trace."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import engines
import httpx
import pytest
import servers
import trio
import websocket
from quart import Response

from cryomamba_core.errors import Forbidden, StorageError, Unauthenticated
from cryomamba_server.http.access import authentication, gate, sessions
from cryomamba_server.http.access.authentication import Authenticator
from cryomamba_server.http.access.sessions import COOKIE, Sessions
from cryomamba_server.http.access.tokens import open_issuer
from cryomamba_server.http.audience import Audience
from cryomamba_server.http.settings import ServeSettings

STATUS = "/pages/status"


@pytest.fixture(autouse=True)
def workers_find_the_strangers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


def make(data_dir, **values):
    with open_issuer(data_dir) as (issuer, _):
        return issuer.create(**{"subject": "ada", **values})


def revoke(data_dir, issued):
    with open_issuer(data_dir) as (_, store):
        store.revoke([issued.record.id])


@pytest.fixture
async def server(tmp_path):
    async with servers.open_test_server(tmp_path / "data", allow_roots=(tmp_path,)) as server:
        yield server


@pytest.fixture
async def client(server):
    async with httpx.AsyncClient(base_url=server.url) as client:
        yield client


async def log_in(client, token):
    return await client.post("/pages/login", data={"token": token}, headers={"Origin": str(client.base_url)})


async def test_a_session_lasts_until_its_token_is_taken_back(server, client):
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    assert (await client.get(STATUS)).status_code == 401
    answer = await log_in(client, issued.token)
    assert answer.status_code == 303
    [cookie] = answer.headers.get_list("Set-Cookie")
    assert issued.token not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert (await client.get(STATUS)).status_code == 200
    assert (await client.get("/v1/models")).status_code == 401  # a cookie is for pages only
    await trio.to_thread.run_sync(revoke, server.settings.data_dir, issued)
    assert (await client.get(STATUS)).status_code == 401


async def test_whoever_logs_out_is_out_also_for_a_thief_of_the_cookie(server, client):
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    await log_in(client, issued.token)
    value = client.cookies[COOKIE]
    assert (await client.get(STATUS)).status_code == 200
    await client.post("/pages/logout", headers={"Origin": str(client.base_url)})
    assert COOKIE not in client.cookies
    client.cookies.set(COOKIE, value)
    assert (await client.get(STATUS)).status_code == 401


async def test_a_token_of_another_kind_opens_no_session(server, client):
    issued = await trio.to_thread.run_sync(lambda: make(server.settings.data_dir, scopes=["metrics:read"]))
    with pytest.raises(Forbidden, match="jobs:read"):
        await server.services.gate.sessions.open(issued.token)
    with pytest.raises(Unauthenticated):
        await server.services.gate.sessions.open("nonsense")
    assert (await log_in(client, "nonsense")).status_code == 401


async def test_a_session_ends_with_its_token_and_after_half_a_day_at_the_latest(server, monkeypatch):
    gate = server.services.gate
    at = datetime.now(UTC)
    lasts = {}
    for ttl in (timedelta(hours=1), timedelta(days=7)):
        issued = await trio.to_thread.run_sync(lambda ttl=ttl: make(server.settings.data_dir, ttl=ttl))
        cookie = await gate.sessions.open(issued.token)
        for hours in (0.9, 1.1, 11.9, 12.1):
            with monkeypatch.context() as patch:
                patch.setattr(sessions, "now", lambda hours=hours: at + timedelta(hours=hours))
                if await gate.sessions.caller(cookie):
                    lasts[ttl] = hours
    assert list(lasts.values()) == [0.9, 11.9]


async def test_only_so_many_sessions_are_remembered(server, monkeypatch):
    monkeypatch.setattr(sessions, "MOST", 3)
    gate = server.services.gate
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    cookies = [await gate.sessions.open(issued.token) for _ in range(5)]
    assert len(set(cookies)) == 5
    known = [await gate.sessions.caller(cookie) is not None for cookie in cookies]
    assert known == [False, False, True, True, True]
    for cookie in (None, "", "\udcff", "x" * 10_000):
        assert await gate.sessions.caller(cookie) is None


@pytest.mark.parametrize(
    ("serving", "secure"),
    [
        ({}, False),
        ({"self_signed": True}, True),
        ({"certificate": Path("a.pem")}, True),
        ({"public_url": "https://tomo.example.org"}, True),
        ({"public_url": "http://tomo.example.org"}, False),
    ],
)
def test_the_cookie_is_for_tls_wherever_browsers_come_by_it(serving, secure):
    assert gate._is_reached_securely(ServeSettings(**serving)) is secure


@pytest.mark.parametrize("secure", [True, False])
def test_under_tls_the_cookie_travels_over_tls_only(secure):
    logged = Sessions(None, secure=secure)
    for act in (lambda answer: logged.give(answer, "x"), logged.take):
        answer = Response("")
        act(answer)
        assert ("Secure" in answer.headers["Set-Cookie"].split("; ")) is secure


async def a_running_job(server, tmp_path):
    """A job that waits at a gate."""
    (tmp_path / "gate").mkdir()
    config = engines.steps(engines.make_tomogram(tmp_path / "a.npy"), gate=str(tmp_path / "gate"))
    return await server.services.engine.submit(config, owner="ada")


def close_code(socket):
    """Read until the server says goodbye."""
    while True:
        opcode, data = socket.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            socket.shutdown()
            return int.from_bytes(data[:2], "big")


async def test_a_look_at_tokens_that_is_not_possible_ends_nothing(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(authentication, "RECHECK_INTERVAL", 0.02)
    job = await a_running_job(server, tmp_path)
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    url = f"{server.url.replace('http', 'ws', 1)}/v1/ws/jobs/{job.id}"
    headers = [f"Authorization: Bearer {issued.token}"]
    connect = partial(websocket.create_connection, url, header=headers, timeout=engines.DEADLINE)
    socket = await trio.to_thread.run_sync(connect)
    assert json.loads(await trio.to_thread.run_sync(socket.recv))["type"] == "state"

    async def fail(*_, **__):
        raise StorageError("the job store is locked", hint="wait")

    with monkeypatch.context() as broken, trio.fail_after(engines.DEADLINE):
        broken.setattr(Authenticator, "counts", fail)
        while "whether a listener's token still counts cannot be told" not in caplog.text:
            await trio.sleep(0.01)
    engines.open_gate(tmp_path / "gate")
    assert await trio.to_thread.run_sync(close_code, socket) == 1000


@pytest.mark.parametrize("watched", [True, False])
async def test_a_listener_is_sent_away_when_its_token_is_taken_back(server, tmp_path, monkeypatch, watched):
    monkeypatch.setattr(authentication, "RECHECK_INTERVAL", 0.02)
    if not watched:  # the control: without the look at the token, one listens to the end
        monkeypatch.setattr(Audience, "_look_at_tokens", lambda self: trio.sleep_forever())
    job = await a_running_job(server, tmp_path)
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    url = f"{server.url.replace('http', 'ws', 1)}/v1/ws/jobs/{job.id}"
    connect = partial(
        websocket.create_connection,
        url,
        header=[f"Authorization: Bearer {issued.token}"],
        timeout=engines.DEADLINE,
    )
    socket = await trio.to_thread.run_sync(connect)
    assert json.loads(await trio.to_thread.run_sync(socket.recv))["type"] == "state"
    await trio.to_thread.run_sync(revoke, server.settings.data_dir, issued)
    if not watched:
        engines.open_gate(tmp_path / "gate")
    assert await trio.to_thread.run_sync(close_code, socket) == (1008 if watched else 1000)
    engines.open_gate(tmp_path / "gate")


async def test_a_stream_of_events_ends_when_its_token_is_taken_back(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr("cryomamba_server.http.event_stream.COMMENT_INTERVAL", 0.02)
    job = await a_running_job(server, tmp_path)
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    headers = {"Authorization": f"Bearer {issued.token}"}
    with trio.fail_after(engines.DEADLINE):
        async with client.stream("GET", f"/v1/jobs/{job.id}/events", headers=headers, timeout=60) as answer:
            pieces = answer.aiter_text()
            assert "retry" in await anext(pieces)
            await trio.to_thread.run_sync(revoke, server.settings.data_dir, issued)
            heard = [piece async for piece in pieces]
    assert "completed" not in "".join(heard)
    engines.open_gate(tmp_path / "gate")


async def test_many_listeners_with_one_token_cost_one_look_at_a_time(server, monkeypatch):
    looks = []
    check = Authenticator._is_kept
    monkeypatch.setattr(Authenticator, "_is_kept", lambda self, token: looks.append(token) or check(self, token))
    issued = await trio.to_thread.run_sync(make, server.settings.data_dir)
    authenticator = server.services.gate.authenticator
    caller = await authenticator.caller(issued.token, peer=None)
    assert all([await authenticator.counts(caller, within=60) for _ in range(500)])
    assert len(looks) == 1
    assert await authenticator.counts(caller)
    assert len(looks) == 2


def test_tokens_and_signatures_leave_no_trace_in_logs_and_files(tmp_path):
    tomogram = tmp_path / "a.mrc"
    write_tomogram(tomogram)
    with servers.ServerProcess(tmp_path / "data", "--allow-root", tmp_path) as process:
        token = process.token()
        first = (tmp_path / "data" / "first-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=process.url, timeout=60) as client:
            data = tomogram.read_bytes()
            begun = client.post("/v1/uploads/init", json={"filename": "a.mrc", "size": len(data)}, headers=headers)
            upload = begun.json()["upload_id"]
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            sent = client.put(
                f"/v1/uploads/{upload}/part/0",
                content=data,
                headers={**headers, "Content-Digest": f"sha-256=:{digest}:"},
            )
            assert sent.status_code in (200, 201, 204), sent.text
            file_id = client.post(f"/v1/uploads/{upload}/complete", headers=headers).json()["file_id"]
            config = {"source": {"file_id": file_id}, "runner": "threshold"}
            job = client.post("/v1/jobs", json=config, headers=headers).json()
            with client.stream("GET", f"/v1/jobs/{job['job_id']}/events", headers=headers) as events:
                assert "completed" in "".join(events.iter_text())
            shown = client.get(f"/v1/jobs/{job['job_id']}", headers=headers).json()
            url = shown["artifacts"][0]["url"]
            assert client.get(url).status_code == 200
            refused = client.get(f"{url}&x=1")
            assert refused.status_code == 401, refused.text
            assert (
                client.get(f"/v1/jobs?token={token}", headers={"Authorization": f"Bearer x{token}"}).status_code == 401
            )
            assert client.get(f"/v1/{token}").status_code == 404
            client.post("/pages/login", data={"token": token}, headers={"Origin": process.url})
            cookie = client.cookies[COOKIE]
            assert client.get(STATUS).status_code == 200
        assert process.terminate() == 0
    secrets = {
        "the token": token,
        "its signature": token.rpartition(".")[2],
        "the first token": first,
        "the cookie": cookie,
        "the address": url.rpartition("=")[2],
    }
    kept = process.log.read_bytes() + process.out.read_bytes()
    assert job["job_id"].encode() in kept  # the control: what was asked for is in the log
    found = {name for name, secret in secrets.items() if secret.encode() in kept}
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file() and path.name != "first-token" and path.parent.name != "access":
            content = path.read_bytes()
            found |= {f"{what} in {path}" for what, secret in secrets.items() if secret.encode() in content}
    assert not found


def write_tomogram(path):
    """A tomogram that every installed reader takes."""
    import mrcfile
    import numpy as np

    values = np.random.default_rng(1).normal(size=(8, 8, 8)).astype(np.float32)
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = 10.0

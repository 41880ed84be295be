"""Clients that get out by a proxy only, and proxies that let no WebSocket through."""

import logging
from contextlib import asynccontextmanager

import numpy as np
import pytest
import servers
from hearing import hear, states, submit
from proxies import open_forward_proxy, open_proxy

from cryomamba_backends.http_transport import connection, live
from cryomamba_backends.http_transport.patience import Patience
from cryomamba_core.errors import InvalidParameter, ServerUnreachable
from cryomamba_core.events import Completed
from cryomamba_core.protocol.addresses import ServerAddress

pytestmark = pytest.mark.once

#: A name that no name server has.
NAME = "gpu.lab.invalid"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
SOON = Patience(first=1, control=1, long=1, silence=20, connect=5)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy but the test's own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def behind_a_proxy(tmp_path, scheme="https"):
    """A server, its address as clients know it, what they need to talk to it, and the proxy that is the only way."""
    secure = scheme == "https"
    async with (
        servers.open_test_server(tmp_path / "data", self_signed=secure) as server,
        open_forward_proxy({NAME: "127.0.0.1"}) as proxy,
    ):
        port = server.url.rpartition(":")[2]
        options = {"fingerprint": server.fingerprint} if secure else {"allow_plain_http": True}
        yield server, f"{scheme}://{NAME}:{port}", options, proxy


def count_websockets(monkeypatch):
    """How often a WebSocket is tried."""
    tried, hear_websocket = [], live.hear_websocket

    async def counted(*words):
        tried.append(words)
        return await hear_websocket(*words)

    monkeypatch.setattr(live, "hear_websocket", counted)
    return tried


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [("https", "HTTPS_PROXY"), ("https", "ALL_PROXY"), ("https", "https_proxy"), ("http", "HTTP_PROXY")],
)
async def test_the_main_job_runs_where_a_proxy_is_the_only_way(
    tmp_path, session_with, write_npy, monkeypatch, scheme, variable
):
    path, tried = write_npy(100_000), count_websockets(monkeypatch)
    async with behind_a_proxy(tmp_path, scheme) as (server, url, options, proxy):
        monkeypatch.setenv(variable, proxy.url)
        async with session_with(url, server.token(), **options) as session:
            job = await submit(session, path)
            events = await hear(session, job.id)
            assert isinstance(events[-1], Completed)
            assert await hear(session, job.id, after=events[-1].seq) == []
            await session.download(job.id, "mask.npy", tmp_path / "mask.npy")
        assert all(NAME in line for line in proxy.asked)
        async with session_with(server.url, server.token(), fingerprint=server.fingerprint) as session:
            assert states(await hear(session, job.id)) == states(events)
            assert len(tried) == 1, "a WebSocket is for the way without the proxy"
    assert (np.load(tmp_path / "mask.npy") == (np.load(path) > 0)).all()


@pytest.mark.parametrize("environment", [{}, {"HTTPS_PROXY": "{proxy}", "NO_PROXY": NAME}, {"HTTP_PROXY": "{proxy}"}])
async def test_there_is_no_other_way_than_the_proxy(tmp_path, session_with, monkeypatch, environment):
    """The control of all others: nobody else knows where the name leads, and NO_PROXY counts."""
    async with behind_a_proxy(tmp_path) as (server, url, options, proxy):
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(proxy=proxy.url))
        async with session_with(url, server.token(), patience=SOON, **options) as session:
            with pytest.raises(ServerUnreachable, match=NAME):
                await session.server_info()
            with pytest.raises(ServerUnreachable, match=NAME):
                await hear(session, "00000000-0000-7000-8000-000000000000")
        assert proxy.asked == []


async def test_where_only_requests_find_the_proxy_events_come_as_answers_to_requests(
    tmp_path, session_with, write_npy, monkeypatch, caplog
):
    """As where the library of the requests reads NO_PROXY otherwise than we do."""
    caplog.set_level(logging.DEBUG, "cryomamba_backends")
    monkeypatch.setattr(connection, "_proxied", lambda address: False)
    tried = count_websockets(monkeypatch)
    async with behind_a_proxy(tmp_path) as (server, url, options, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with session_with(url, server.token(), **options) as session:
            job = await submit(session, write_npy(4096))
            assert isinstance((await hear(session, job.id))[-1], Completed)
            assert "Server-Sent Events" in caplog.text
            assert len(tried) == 1
            await hear(session, job.id)
            assert len(tried) == 1, "the choice is remembered"
        async with session_with(url, server.token(), **options) as session:
            await hear(session, job.id)
            assert len(tried) == 2, "for this session"


async def test_without_the_second_way_they_would_not_come(tmp_path, session_with, write_npy, monkeypatch):
    async def refuse(*_):
        raise ServerUnreachable("there is no second way")

    monkeypatch.setattr(connection, "_proxied", lambda address: False)
    async with behind_a_proxy(tmp_path) as (server, url, options, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with session_with(url, server.token(), patience=SOON, **options) as session:
            job = await submit(session, write_npy(4096))
            monkeypatch.setattr(live, "hear_event_stream", refuse)
            with pytest.raises(ServerUnreachable, match="no second way"):
                await hear(session, job.id)


@pytest.mark.parametrize("proxied", [True, False])
async def test_a_proxy_that_cuts_its_lines_leaves_no_gap_and_no_repeat(
    tmp_path, session_with, write_npy, monkeypatch, gate, proxied
):
    if not proxied:
        monkeypatch.setattr(connection, "_proxied", lambda address: False)
    async with behind_a_proxy(tmp_path) as (server, url, options, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with session_with(url, server.token(), **options) as session:
            job = await submit(session, write_npy(1 << 20), gate=str(gate))

            def cut(event):
                proxy.cut_all()
                for section in range(2):
                    (gate / str(section)).touch()

            events = await hear(session, job.id, on_event=cut)
        numbers = [event.seq for event in events]
        assert numbers == sorted(set(numbers))
        assert proxy.connections > 3
        async with session_with(server.url, server.token(), fingerprint=server.fingerprint) as session:
            assert states(await hear(session, job.id)) == states(events)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 3600\r\n\r\n",
        b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"",
    ],
)
async def test_a_proxy_that_refuses_websockets_in_any_way_is_passed(
    tmp_path, session_with, write_npy, monkeypatch, said
):
    tried = count_websockets(monkeypatch)
    async with servers.open_test_server(tmp_path / "data") as server, open_proxy(server.url) as proxy:
        proxy.upgrade_answer = said
        async with session_with(proxy.url, server.token(), patience=SOON) as session:
            job = await submit(session, write_npy(4096))
            assert isinstance((await hear(session, job.id))[-1], Completed)
            await hear(session, job.id)
    assert len(tried) == 1


async def test_a_proxy_that_never_answers_the_wish_for_a_websocket_is_passed(tmp_path, session_with, write_npy, caplog):
    caplog.set_level(logging.DEBUG, "cryomamba_backends")
    patience = Patience(first=5, control=5, long=60, silence=20, connect=0.3)
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        open_proxy(server.url) as proxy,
        session_with(proxy.url, server.token(), patience=patience) as session,
    ):
        job = await submit(session, write_npy(4096))
        fault = proxy.fail("stall", after=1)
        assert isinstance((await hear(session, job.id))[-1], Completed)
        assert fault.struck
    assert "does not answer" in caplog.text


@pytest.mark.parametrize(
    ("environment", "url", "proxied"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, "https://gpu7", True),
        ({"HTTPS_PROXY": "http://p:1"}, "http://gpu7", False),
        ({"HTTP_PROXY": "p:1"}, "http://gpu7", True),
        ({"ALL_PROXY": "http://p:1"}, "https://gpu7:8765", True),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "gpu7"}, "https://gpu7:8765", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "other,lab.example"}, "https://gpu7.lab.example", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://gpu7", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "gpu8"}, "https://gpu7", True),
        ({"ALL_PROXY": "http://p:1"}, "https://localhost:1", False),
        ({"ALL_PROXY": "http://p:1"}, "https://127.0.0.1:1", False),
        ({"ALL_PROXY": ""}, "https://gpu7", False),
        ({}, "https://gpu7", False),
    ],
)
def test_the_environment_says_whether_a_proxy_is_on_the_way(monkeypatch, environment, url, proxied):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert connection._proxied(ServerAddress.parse(url)) is proxied


@pytest.mark.parametrize("proxy", ["socks5://u:secret@p:1080", "gopher://u:secret@p", "http://u:secret@p:port"])
async def test_a_proxy_that_cannot_be_used_is_said_so_without_its_password(session_with, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidParameter, match="proxy that the environment names") as caught:
        async with session_with("https://gpu7"):
            pass
    assert "NO_PROXY" in caught.value.hint
    assert "secret" not in f"{caught.value!r} {caught.value.hint}"

"""Listeners that stop reading: they cost nothing, slow nobody, and get what is newest when they wake."""

import gc
import math
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import engines
import httpx
import pytest
import trio
from engines import ExecutorPlugin, ScriptedExecutor, steps
from servers import open_test_server
from sockets import hear, open_socket
from trio.socket import SO_RCVBUF, SOL_SOCKET
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request

from cryomamba_core.events import PreviewReady
from cryomamba_core.protocol.live import BINARY_PROTOCOL, event_of
from cryomamba_core.wire import to_plain
from cryomamba_server.engine import following
from cryomamba_server.engine.following import Message

#: Previews that are made while a listener is stalled, of 256 KiB each, which do not compress.
MADE = 100
EDGE = 64

#: Workers make previews until there is the file ``enough``, each when the last one has been heard of.
SHOW = f"""
import numpy
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.previews import Preview
grid = VoxelGrid(shape=({EDGE}, {EDGE}, {EDGE}), voxel_size=(10, 10, 10))
random = numpy.random.default_rng(5)
sequence = 0
def show():
    global sequence
    sequence += 1
    labels = random.integers(0, 256, grid.shape, numpy.uint8)
    log.preview(Preview.pack(labels, sequence=sequence, factor=1, grid=grid, covered=grid.whole, provisional=True))
while not (directory.path / 'enough').exists():
    show()
    while not any((directory.path / name).exists() for name in ('enough', f'heard-{{sequence}}')): time.sleep(0.002)
show()
"""
END = "log.completed((make('stats.json', '{}'),))"


class StalledListener:
    """A WebSocket client that reads nothing before it is woken."""

    def __init__(self, socket, protocol):
        self._socket = socket
        self._protocol = protocol

    async def wake(self):
        """Every event that it gets until the end, and the close code."""
        events, data = [], bytearray()
        while True:
            for event in self._protocol.events():
                if isinstance(event, BytesMessage):
                    data += event.data
                    if event.message_finished:
                        events.append(event_of(bytes(data)))
                        data.clear()
                elif isinstance(event, Ping):
                    await self._socket.send(self._protocol.send(event.response()))
                elif isinstance(event, CloseConnection):
                    return events, event.code
            received = await self._socket.recv(1 << 20)
            if not received:
                return events, None
            self._protocol.receive_data(received)


@asynccontextmanager
async def stalled(server, job_id):
    """A stalled listener, with small buffers on its side of the line."""
    address = urlsplit(server.url)
    protocol = WSConnection(ConnectionType.CLIENT)
    token = server.headers()["Authorization"].encode()
    with trio.socket.socket() as socket:
        socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        await socket.connect((address.hostname, address.port))
        request = Request(
            host=address.netloc,
            target=f"/v1/ws/jobs/{job_id}",
            subprotocols=[BINARY_PROTOCOL],
            extra_headers=[(b"Authorization", token)],
        )
        await socket.send(protocol.send(request))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await socket.recv(1)
        protocol.receive_data(answer)
        assert isinstance(next(protocol.events()), AcceptConnection)
        yield StalledListener(socket, protocol)


@asynccontextmanager
async def showing(tmp_path, tomogram, **serving):
    """A server with a job that shows previews, and the job's id."""
    executor = ScriptedExecutor(SHOW + END)
    try:
        async with (
            open_test_server(tmp_path / "data", ExecutorPlugin(executor), allow_roots=(tmp_path,), **serving) as server,
            httpx.AsyncClient(base_url=server.url, headers=server.headers()) as client,
        ):
            job_id = (await client.post("/v1/jobs", json=to_plain(steps(tomogram)))).json()["job_id"]
            yield server, job_id
    finally:
        executor.stop()


async def watch(server, job_id, previews):
    """Listen as one should until so many previews were made; each lets the worker make the next."""
    folder = server.settings.jobs_dir / job_id
    newest = []

    def enough(message):
        event = event_of(message)
        if isinstance(event, PreviewReady):
            newest.append(event.preview.sequence)
            (folder / f"heard-{event.preview.sequence}").touch()
        return len(newest) == previews

    url = server.url + f"/v1/ws/jobs/{job_id}"
    async with open_socket(url, server.headers(), subprotocols=[BINARY_PROTOCOL]) as connection:
        await hear(connection, until=enough)
        held = previews_held()
        (folder / "enough").touch()
        messages, code = await hear(connection)
    assert code == 1000
    assert event_of(messages[-1]).type == "completed"
    return held


def previews_held():
    """How many previews the server has in memory."""
    gc.collect()
    return sum(isinstance(each, Message) and isinstance(each.event, PreviewReady) for each in gc.get_objects())


def keep_everything(follower, event):
    """Take out the mailbox: an event takes the place of none."""
    follower._seen = event.seq
    follower._previews += isinstance(event, PreviewReady)
    follower._kept.append(Message(event, previews=follower._previews))


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "without a mailbox"])
async def test_a_listener_that_stops_reading_gets_what_is_newest_when_it_wakes(
    tmp_path, tomogram, monkeypatch, protected
):
    if not protected:
        monkeypatch.setattr(following._Follower, "_keep", keep_everything)
    async with (
        showing(tmp_path, tomogram, idle_seconds=engines.DEADLINE) as (server, job_id),
        stalled(server, job_id) as listener,
    ):
        held = await watch(server, job_id, MADE)
        assert (await server.services.engine.job(job_id, owner=None)).state == "completed"
        events, code = await listener.wake()
    got = [event.preview.sequence for event in events if isinstance(event, PreviewReady)]
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    assert (events[-1].type, code) == ("completed", 1000)
    assert got[-1] >= MADE
    states = [event.state for event in events if event.type == "state"]
    assert states == ["queued", "running", "previewing"]
    if protected:
        assert held <= 3
        assert len(got) < MADE / 2
    else:
        assert held >= MADE
        assert len(got) >= MADE


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "without a limit"])
async def test_a_listener_that_never_wakes_is_sent_away(tmp_path, tomogram, protected):
    async with showing(tmp_path, tomogram, idle_seconds=1 if protected else math.inf) as (server, job_id):
        engine = server.services.engine
        async with stalled(server, job_id):
            await watch(server, job_id, MADE)
            if protected:
                with trio.fail_after(engines.DEADLINE):
                    while engine.following.listeners:
                        await trio.sleep(0.01)
            else:
                with trio.move_on_after(3):
                    while engine.following.listeners:
                        await trio.sleep(0.01)
                assert engine.following.listeners == 1

"""How many parts and artifacts may be under way at the same time, and what those cost that wait."""

from contextlib import AsyncExitStack

import httpx
import psutil
import pytest
import servers
import trio
from sockets import connected
from uploading import PART, digest, mrc_bytes

from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_core.errors import RateLimited
from cryomamba_server.http.access import gate
from cryomamba_server.http.access.limits import UnderWay

DATA = mrc_bytes()


def test_each_has_a_limit_and_all_have_one_together():
    limit = UnderWay(each=2, together=3)
    with limit.entered("ada"), limit.entered("ada"):
        with pytest.raises(RateLimited, match="yours"), limit.entered("ada"):
            pytest.fail("there are too many")
        with limit.entered("bob"), pytest.raises(RateLimited, match="clients"), limit.entered("eve"):
            pytest.fail("there are too many")
        with limit.entered("eve"):
            pass
    assert not limit._entered


async def begin(server):
    """An upload, and the head of a request that sends its first part."""
    headers = await trio.to_thread.run_sync(server.headers)
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        request = {"filename": "a.mrc", "size": len(DATA)}
        upload_id = (await client.post("/v1/uploads/init", json=request)).json()["upload_id"]
    lines = [
        f"PUT /v1/uploads/{upload_id}/part/0 HTTP/1.1",
        "Host: here",
        f"Authorization: {headers['Authorization']}",
        f"Content-Digest: {digest(DATA[:PART])}",
        f"Content-Length: {PART}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_parts_beyond_the_limit_are_told_to_come_again_and_then_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "DATA_OF_EACH", 3)
    async with servers.open_test_server(tmp_path / "data", mrc, part_size=PART) as server:
        head = await begin(server)
        async with AsyncExitStack() as waiting:
            streams = [await waiting.enter_async_context(connected(server)) for _ in range(3)]
            for stream in streams:
                await stream.send_all(head)
            while len(server.services.traffic) < 3:
                await trio.sleep(0.01)
            async with connected(server) as stream:
                await stream.send_all(head + DATA[:PART])
                answer = await stream.receive_some(1 << 16)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"retry-after: 1" in answer.lower()
        async with connected(server) as stream:
            await stream.send_all(head + DATA[:PART])
            assert (await stream.receive_some(1 << 16)).startswith(b"HTTP/1.1 200")


async def test_bodies_that_nobody_reads_yet_take_little_memory(tmp_path):
    """Half a megabyte each, where it was three: those of one owner are bounded by their number."""
    count, size = 100, 8 << 20
    with servers.ServerProcess(tmp_path / "data", program="probes.py") as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        async with AsyncExitStack() as waiting:
            for _ in range(count):
                stream = await waiting.enter_async_context(connected(server))
                await stream.send_all(b"PUT /probe/ignore HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % size)
                with trio.move_on_after(0.05):
                    await stream.send_all(bytes(size))
            grown = process.memory_info().rss - before
    assert grown < count * (512 << 10) + (16 << 20)

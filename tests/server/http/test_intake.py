"""Bodies on their short way into memory: every byte once, and nothing in memory that was let go of."""

import hashlib
import os

import pytest
import servers
import trio
from probes import ROUTES
from quart import Response
from sockets import connected

from cryomamba_server.http import app, bodies
from cryomamba_server.http.routes import route_tables
from cryomamba_server.http.routing import Guard, RouteTable

SIZE = 5 << 20
BODY = os.urandom(SIZE)


@pytest.fixture
def ways(monkeypatch):
    """How many bytes went the short way, each time; routes read bodies into memory and tell their digest."""
    table, poured = RouteTable(), []
    pour = bodies.PatientBody._pour

    async def counted(self, *arguments):
        count = await pour(self, *arguments)
        poured.append(count)
        return count

    monkeypatch.setattr(bodies.PatientBody, "_pour", counted)

    @table.add("PUT", "/probe/into/<int:pieces>", access=Guard.OPEN, takes=bytes)
    async def read_into(call, pieces):
        body, digest = call.request.body, hashlib.sha256()
        buffer = bytearray(-(-SIZE // pieces))
        with memoryview(buffer) as view:
            while count := await body.read_into(view):
                digest.update(view[:count])
        return {"sha256": digest.hexdigest()}

    @table.add("PUT", "/probe/impatient", access=Guard.OPEN, takes=bytes)
    async def give_up(call):
        buffer = bytearray(SIZE)
        with trio.move_on_after(0.2), memoryview(buffer) as view:
            await call.request.body.read_into(view)
        before = bytes(buffer)
        await trio.sleep(0.3)
        return Response(b"untouched" if bytes(buffer) == before else b"touched")

    monkeypatch.setattr(app, "route_tables", lambda: [*route_tables(), ROUTES, table])
    return poured


async def answered(stream):
    received = b""
    while b"\r\n\r\n" not in received or b"}" not in received.partition(b"\r\n\r\n")[2]:
        piece = await stream.receive_some(1 << 16)
        assert piece, received
        received += piece
    return received


def put(address, size=SIZE):
    return f"PUT {address} HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_body_comes_whole_and_most_of_it_the_short_way(tmp_path, ways, pieces):
    expected = hashlib.sha256(BODY).hexdigest().encode()
    async with servers.open_test_server(tmp_path / "data") as server, connected(server) as stream:
        for _ in range(3):  # on one connection: the next request is read as usual
            await stream.send_all(put(f"/probe/into/{pieces}") + BODY)
            assert expected in await answered(stream)
    assert sum(ways) > 3 * SIZE // 2


async def test_requests_in_advance_stay_their_own(tmp_path, ways):
    expected = hashlib.sha256(BODY).hexdigest().encode()
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        connected(server) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream.send_all, 4 * (put("/probe/into/1") + BODY))
        received = b""
        while received.count(expected) < 4:
            received += await stream.receive_some(1 << 16)
    assert received.count(b"HTTP/1.1 200") == 4


@pytest.mark.parametrize("step", [1000, 70_000, 1 << 20])
async def test_a_body_that_comes_bit_by_bit_comes_whole(tmp_path, ways, step):
    body = BODY[: 200 * step] if step < 10_000 else BODY
    async with servers.open_test_server(tmp_path / "data") as server, connected(server) as stream:
        await stream.send_all(put("/probe/into/1", len(body)))
        for start in range(0, len(body), step):
            await stream.send_all(body[start : start + step])
            await trio.lowlevel.checkpoint()
        assert hashlib.sha256(body).hexdigest().encode() in await answered(stream)
    assert sum(ways)


async def test_little_that_comes_and_stays_alone_is_taken_before_it_fills_the_socket(tmp_path, ways):
    """The system wakes us for much at a time; a client that sends little is heard all the same."""
    body = BODY[: 3 << 20]
    async with servers.open_test_server(tmp_path / "data", idle_seconds=2) as server, connected(server) as stream:
        await stream.send_all(put("/probe/into/1", len(body)) + body[:-6000])
        for start in range(len(body) - 6000, len(body), 1000):  # for longer than the server bears silence
            await trio.sleep(0.5)
            await stream.send_all(body[start : start + 1000])
        assert hashlib.sha256(body).hexdigest().encode() in await answered(stream)
    assert sum(ways)


async def test_a_body_in_chunks_comes_on_the_usual_way(tmp_path, ways):
    async with servers.open_test_server(tmp_path / "data") as server, connected(server) as stream:
        await stream.send_all(put("/probe/into/1").replace(b"Content-Length: %d" % SIZE, b"Transfer-Encoding: chunked"))
        await stream.send_all(b"%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n")
        assert hashlib.sha256(BODY).hexdigest().encode() in await answered(stream)
    assert not ways


async def test_under_tls_a_body_comes_on_the_usual_way(tmp_path, ways):
    import httpx

    async with (
        servers.open_test_server(tmp_path / "data", self_signed=True) as server,
        httpx.AsyncClient(base_url=server.url, verify=False, timeout=60) as client,  # it is ours
    ):
        answer = await client.put("/probe/into/1", content=BODY)
    assert answer.json() == {"sha256": hashlib.sha256(BODY).hexdigest()}
    assert not ways


async def test_memory_that_was_let_go_of_is_not_written_to(tmp_path, ways):
    async with servers.open_test_server(tmp_path / "data") as server, connected(server) as stream:
        await stream.send_all(put("/probe/impatient") + BODY[: SIZE // 2])
        await trio.sleep(0.3)
        await stream.send_all(BODY[SIZE // 2 : SIZE // 2 + (1 << 20)])
        received = b""
        while b"touched" not in received:
            received += await stream.receive_some(1 << 16)
        assert b"untouched" in received


@pytest.mark.parametrize(("size", "status"), [(SIZE // 2, b"408"), (0, b"408")])
async def test_a_body_that_stops_coming_is_given_up(tmp_path, ways, size, status):
    async with (
        servers.open_test_server(tmp_path / "data", idle_seconds=0.3) as server,
        connected(server) as stream,
    ):
        await stream.send_all(put("/probe/into/1") + BODY[:size])
        assert (await stream.receive_some(1 << 16)).startswith(b"HTTP/1.1 " + status)


async def test_a_client_that_leaves_in_a_body_leaves_nothing_behind(tmp_path, ways, caplog):
    async with servers.open_test_server(tmp_path / "data") as server:
        for _ in range(5):
            async with connected(server) as stream:
                await stream.send_all(put("/probe/into/1") + BODY[: SIZE // 2])
        with trio.fail_after(servers.engines.DEADLINE):
            await server.services.traffic.settled()
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_the_private_parts_are_where_they_were():
    from h11 import SERVER, Connection
    from h11._readers import ContentLengthReader
    from hypercorn.protocol.h11 import H11Protocol

    assert hasattr(Connection(SERVER), "_reader")
    assert ContentLengthReader(5)._remaining == 5
    assert hasattr(H11Protocol, "_handle_events")

"""What arrives on a connection is read in one way only, answered in one form, and never waited for for ever."""

import json
import socket
from contextlib import AsyncExitStack, suppress

import probes
import pytest
import servers
import trio
from h11._receivebuffer import ReceiveBuffer
from sockets import connected

from cryomamba_server.http import app as app_module
from cryomamba_server.http import bodies, connection, protocol, serving

GOOD = b"GET /v1/healthz HTTP/1.1\r\nHost: here\r\n"
BODY = b"POST /probe/json HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def probe_routes(monkeypatch):
    probes.add_routes(monkeypatch)


class Reply:
    """An answer as it came over the line."""

    def __init__(self, data):
        self.data = data
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1]) if first else None
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def error(self):
        return json.loads(self.body)["error"]


async def told(server, data):
    """What a server says to bytes, to the end of the connection."""
    async with connected(server) as stream:
        await stream.send_all(data)
        return await whole(stream)


async def whole(stream):
    received = b""
    while piece := await stream.receive_some(1 << 16):
        received += piece
    return Reply(received)


async def settled(server):
    """Wait until no request is in progress."""
    with trio.fail_after(60):
        await server.services.traffic.settled()


AMBIGUOUS = {
    "a length and an encoding": BODY + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "an encoding and a length": BODY + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "the same length twice": BODY + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": BODY + b"Content-Length: 2, 2\r\n\r\n{}",
    "an encoding in HTTP/1.0": BODY.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a folded header": GOOD + b"X-One: 1\r\n 2\r\n\r\n",
    "a line feed alone": GOOD + b"X-One: 1\nX-Two: 2\r\n\r\n",
    "an end of line feeds alone": GOOD + b"X-One: 1\n\n",
    "an end of one line feed": GOOD + b"\n",
    "another version": GOOD.replace(b"1.1", b"1.2") + b"\r\n",
    "an address that is no path": GOOD.replace(b"/v1", b"?") + b"\r\n",
    "large headers": GOOD + b"X-Large: " + b"a" * 20_000 + b"\r\n\r\n",
    "too many headers": GOOD + b"".join(b"X-%d: 1\r\n" % number for number in range(101)) + b"\r\n",
}
MALFORMED = {
    "two lengths": BODY + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a signed length": BODY + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": BODY + b"Content-Length: -2\r\n\r\n{}",
    "a hexadecimal length": BODY + b"Content-Length: 0x2\r\n\r\n{}",
    "an enormous length": BODY + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "an encoding twice": BODY + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": BODY + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": BODY + b"Content-Length : 2\r\n\r\n{}",
    "a carriage return alone": GOOD + b"X-One: 1\rX-Two: 2\r\n\r\n",
    "a zero byte": GOOD + b"X-One: \x00\r\n\r\n",
    "no host": b"GET /v1/healthz HTTP/1.1\r\n\r\n",
    "two hosts": GOOD + b"Host: there\r\n\r\n",
    "a header without a name": GOOD + b": 1\r\n\r\n",
    "a chunk of no number": BODY + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": BODY + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "HTTP/2 without having been asked": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an endless line": b"GET /" + b"a" * 200_000,
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64,
    "noise": b"\r\n\xff\xfe" * 20,
}
STATUSES = {
    "an unknown encoding": 501,
    "an encoding twice": 501,
    "another version": 505,
    "HTTP/2 without having been asked": 505,
    "large headers": 431,
    "too many headers": 431,
    "an endless line": 431,
}


async def test_a_request_that_could_be_read_in_two_ways_or_in_none_is_refused_in_our_envelope(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        for name, request in (AMBIGUOUS | MALFORMED).items():
            # what follows is what a proxy that read the first request in another way would have let through
            reply = await told(server, request + GOOD + b"\r\n")
            assert reply.status == STATUSES.get(name, 400), (name, reply.data)
            assert reply.data.count(b"HTTP/1.1 ") == 1, name
            assert reply.error.keys() == {"code", "message", "hint", "retryable"}, name
            assert reply.headers["content-type"] == "application/json", name
            assert reply.headers["connection"] == "close", name
            assert reply.headers["x-request-id"], name
            assert reply.headers["x-content-type-options"] == "nosniff", name
        assert (await told(server, GOOD + b"Connection: close\r\n\r\n")).status == 200


async def test_without_the_strict_buffer_ambiguous_requests_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "StrictBuffer", ReceiveBuffer)
    taken = []
    async with servers.open_test_server(tmp_path / "data", idle_seconds=1) as server:
        for name, request in AMBIGUOUS.items():
            reply = await told(server, request.replace(b"Host: here", b"Host: here\r\nConnection: close"))
            if reply.status not in (400, 431, 501, 505):
                taken.append(name)
    assert set(AMBIGUOUS) == set(taken)


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        (b"GET /nothing/here HTTP/1.1", 404, "request/unknown-address"),
        (b"GET http://here/v1/healthz HTTP/1.1", 200, None),
        (b"GET http://here HTTP/1.1", 200, None),
        (b"GET https://[::1]/v1/healthz?a=%00 HTTP/1.1", 200, None),
        (b"GET http://[::1 HTTP/1.1", 400, "request/malformed"),
        (b"OPTIONS * HTTP/1.1", 404, "request/unknown-address"),
        (b"OPTIONS /v1/healthz HTTP/1.1", 405, "request/method"),
        (b"DELETE /v1/healthz HTTP/1.1", 405, "request/method"),
        (b"BREW /v1/healthz HTTP/1.1", 405, "request/method"),
        (b"CONNECT here:443 HTTP/1.1", 400, "request/malformed"),
        (b"GET /v1/%00 HTTP/1.1", 404, "request/unknown-address"),
        (b"GET /v1/%ff%fe%2e%2e%2f HTTP/1.1", 404, "request/unknown-address"),
        (b"GET /v1/healthz/ HTTP/1.1", 404, "request/unknown-address"),
        (b"GET //v1//healthz HTTP/1.1", 404, "request/unknown-address"),
        (b"GET /v1/../v1/healthz HTTP/1.1", 404, "request/unknown-address"),
        (b"GET /probe/listen HTTP/1.1", 400, "request/malformed"),
        (b"GET /probe/stream/99999999999999999999999999 HTTP/1.1", 200, None),
        (b"GET /probe/raise HTTP/1.1", 500, "internal/fault"),
    ],
)
async def test_every_address_and_method_gets_an_answer_in_one_form(tmp_path, request_line, status, code):
    request_line = request_line.replace(b"99999999999999999999999999", b"0")
    async with servers.open_test_server(tmp_path / "data") as server:
        reply = await told(server, request_line + b"\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert reply.status == status, reply.data
        if code is not None:
            assert reply.error["code"] == code
            assert reply.headers["content-type"] == "application/json"
        if status == 405:
            assert "GET" in reply.headers["allow"]
        assert reply.headers["x-request-id"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert b"secret" not in reply.data


async def test_bad_bodies_are_said_to_be_bad(tmp_path):
    cases = {
        b"not json": (400, "request/malformed"),
        b"[1, 2]": (400, "request/malformed"),
        b"[" * 100_000: (400, "request/malformed"),
        b'{"a": "text"}': (422, "input/invalid-parameter"),
        b'{"a": "' + b"a" * app_module.MAX_JSON + b'"}': (413, "request/too-large"),
        b"\xff\xfe\x00": (400, "request/malformed"),
        b'{"a": 1e999}': (422, "input/invalid-parameter"),
    }
    async with servers.open_test_server(tmp_path / "data") as server:
        for body, (status, code) in cases.items():
            request = BODY + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            reply = await told(server, request + body)
            assert (reply.status, reply.error["code"]) == (status, code), body[:20]
        html = BODY.replace(b"application/json", b"text/html") + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
        assert (await told(server, html)).status == 400


async def test_addresses_of_random_bytes_never_fail(tmp_path):
    import random

    chance = random.Random(3)
    async with servers.open_test_server(tmp_path / "data") as server:
        for _ in range(200):
            target = b"/v1/" + bytes(chance.choices(b"%/.?&=;:@[]{}<>~*0123456789abcdefF", k=chance.randrange(40)))
            reply = await told(server, b"GET " + target + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            assert reply.status in (400, 401, 404), (target, reply.data)
            assert reply.error["code"]


async def test_head_is_get_without_the_body(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        for target in (b"/v1/healthz", b"/v1/nothing", b"/probe/stream/3", b"/v1/jobs", b"/probe/raise"):
            request = target + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
            plain, head = await told(server, b"GET " + request), await told(server, b"HEAD " + request)
            assert head.body == b""
            assert (head.status, head.headers["content-length"]) == (plain.status, plain.headers["content-length"])
            assert head.headers.keys() == plain.headers.keys()
            assert len(plain.body) == int(plain.headers["content-length"])


async def test_a_connection_is_kept_for_the_next_request_and_for_requests_in_advance(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server, connected(server) as stream:
        count = b"PUT /probe/count HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nabcde"
        await stream.send_all((GOOD + b"\r\n" + count) * 3 + GOOD + b"Connection: close\r\n\r\n")
        assert (await whole(stream)).data.count(b" 200 \r\n") == 7


async def test_a_client_that_only_connects_or_stops_in_its_headers_is_let_go(tmp_path):
    async with servers.open_test_server(tmp_path / "data", idle_seconds=0.2) as server:
        for start in (b"", b"GET", GOOD, b"PUT /probe/count HTTP/1.1\r\nHost: here\r\nContent-Length: 5"):
            assert (await told(server, start)).data == b""
        async with connected(server) as stream:
            await stream.send_all(GOOD + b"\r\n")
            assert (await whole(stream)).status == 200  # and the kept connection ends, too


async def test_a_body_that_stops_coming_is_given_up(tmp_path):
    async with servers.open_test_server(tmp_path / "data", idle_seconds=0.2) as server:
        reply = await told(server, b"PUT /probe/count HTTP/1.1\r\nHost: here\r\nContent-Length: 500\r\n\r\nabc")
        assert (reply.status, reply.error["code"]) == (408, "request/too-slow")


@pytest.mark.parametrize(("least_rate", "length", "status"), [(10_000, 10_000, 408), (1, 20, 200)])
async def test_a_body_that_only_drips_is_given_up_unless_any_rate_will_do(tmp_path, least_rate, length, status):
    async with (
        servers.open_test_server(tmp_path / "data", idle_seconds=0.5, least_rate=least_rate) as server,
        connected(server) as stream,
        trio.open_nursery() as nursery,
    ):
        head = b"PUT /probe/count HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
        await stream.send_all(head + b"Content-Length: %d\r\n\r\n" % length)

        async def drip():
            for _ in range(length):
                try:
                    await stream.send_all(b"a")
                except trio.BrokenResourceError:
                    return
                await trio.sleep(0.05)

        nursery.start_soon(drip)
        assert (await whole(stream)).status == status


async def test_an_answer_reaches_a_client_that_is_still_sending(tmp_path, monkeypatch):
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.1)
    async with servers.open_test_server(tmp_path / "data") as server:
        head = b"PUT /probe/refuse HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (1 << 40)
        for _ in range(5):
            async with connected(server) as stream, trio.open_nursery() as nursery:

                async def send(stream=stream):
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(head)
                        while True:
                            await stream.send_all(bytes(1 << 20))

                nursery.start_soon(send)
                reply = await whole(stream)
                assert (reply.status, json.loads(reply.body)) == (200, {"refused": True})
                nursery.cancel_scope.cancel()


async def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(tmp_path, caplog):
    upload = b"PUT /probe/%s HTTP/1.1\r\nHost: here\r\nContent-Length: 50000000\r\n\r\n"
    moments = [
        b"",
        GOOD,
        upload % b"count",
        upload % b"count" + bytes(100_000),
        upload % b"ignore",
        upload % b"ignore" + bytes(100_000),  # more would hide the end of the line from the server
        upload % b"count" + bytes(20 << 20),
        upload % b"refuse" + bytes(100_000),
        b"GET /probe/stream/100 HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /probe/stream/100?pause=0.1 HTTP/1.1\r\nHost: here\r\n\r\n",
        b"POST /probe/json HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ]
    async with servers.open_test_server(tmp_path / "data") as server:
        for data in moments:
            for reset in (False, True):
                async with connected(server) as stream:
                    with trio.move_on_after(0.5):  # a body that nobody reads stays in the client
                        await stream.send_all(data)
                    if reset:
                        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await settled(server)
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_a_websocket_hears_why_it_ends_and_is_not_compressed(tmp_path):
    import websocket

    async with servers.open_test_server(tmp_path / "data") as server:
        url = server.url.replace("http", "ws") + "/probe/listen"
        asking = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        client = await trio.to_thread.run_sync(lambda: websocket.create_connection(url, timeout=60, header=asking))
        assert await trio.to_thread.run_sync(client.recv) == "hello"
        assert client.getheaders()["x-request-id"]
        assert "sec-websocket-extensions" not in client.getheaders()
        server.services.stopping.set()
        opcode, reason = await trio.to_thread.run_sync(client.recv_data)
        assert (opcode, reason) == (websocket.ABNF.OPCODE_CLOSE, (1012).to_bytes(2, "big") + b"the server stops")
        client.shutdown()


async def test_a_websocket_where_there_is_none_is_refused_in_our_envelope(tmp_path, caplog):
    upgrade = b"Host: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    upgrade += b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    version = b"Sec-WebSocket-Version: 13\r\n"
    async with servers.open_test_server(tmp_path / "data") as server:
        for target, headers, status in [
            (b"/nothing", upgrade + version, 404),
            (b"/v1/healthz", upgrade + version, 400),
            (b"/probe/listen", upgrade, 400),
            (b"/probe/listen", upgrade + b"Sec-WebSocket-Version: 12\r\n", 400),
            (b"/probe/listen", upgrade + b"Content-Length: 5\r\n\r\nhello", 400),
        ]:
            # read to the end: a connection that nobody talks on is not kept
            reply = await told(server, b"GET " + target + b" HTTP/1.1\r\n" + headers + b"\r\n")
            assert reply.status == status, reply.data
            assert reply.error["code"].startswith("request/")
        await settled(server)
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


@pytest.mark.parametrize("protected", [True, False])
async def test_connections_that_say_nothing_make_room_for_those_that_do(tmp_path, monkeypatch, protected):
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 20)
    if not protected:
        monkeypatch.setattr(connection.House, "make_room", lambda _: True)
    async with servers.open_test_server(tmp_path / "data") as server, AsyncExitStack() as silent:
        streams = [await silent.enter_async_context(connected(server)) for _ in range(30)]
        for _ in range(3):
            assert (await told(server, GOOD + b"Connection: close\r\n\r\n")).status == 200
        closed = 0
        for stream in streams:
            with trio.move_on_after(0.02):
                closed += await stream.receive_some(1) == b""
        assert (closed >= 10) is protected


async def test_where_every_connection_is_busy_another_one_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 2)
    busy = b"PUT /probe/ignore HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n"
    async with servers.open_test_server(tmp_path / "data") as server:
        async with connected(server) as first, connected(server) as second:
            for stream in (first, second):
                await stream.send_all(busy)
            while len(server.services.traffic) < 2:
                await trio.sleep(0.01)
            async with connected(server) as third:
                assert await third.receive_some(1) == b""
        await settled(server)
        assert (await told(server, GOOD + b"Connection: close\r\n\r\n")).status == 200

"""Artifacts as curl gets them from a real server: whole, in ranges, resumed, and not again."""

import errno
import hashlib
import os
import shutil
from contextlib import asynccontextmanager
from functools import partial
from socket import SO_RCVBUF, SOL_SOCKET
from subprocess import PIPE, run
from urllib.parse import urlsplit

import engines
import httpx
import psutil
import pytest
import trio
import trio.testing
from engines import ExecutorPlugin, ScriptedExecutor, steps
from servers import open_test_server
from sockets import connected

from cryomamba_core.wire import to_plain
from cryomamba_server.http import streaming
from cryomamba_server.http.access import gate
from cryomamba_server.http.routes.artifacts import disposition

SIZE = (3 << 20) + 12345
CONTENT = bytes(byte ^ (byte >> 3) for byte in range(251)) * (SIZE // 251) + bytes(SIZE % 251)

MAKE = """
content = bytes(byte ^ (byte >> 3) for byte in range(251)) * (SIZE // 251) + bytes(SIZE % 251)
def write(name, data):
    path = directory.artifacts_path / name
    path.write_bytes(data)
    return Artifact(name=name, media_type="application/x-mrc", size=len(data), sha256=sha256_of(path))
log.completed((write("mask.mrc", content), write("empty.txt", b"")))
""".replace("SIZE", str(SIZE))

#: How a body comes from its file to the client: sent by the system, copied where the file system forbids that, or read.
WAYS = ["sent", "copied", "read"]

pytestmark = [pytest.mark.once, pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")]


@pytest.fixture
def way(request, monkeypatch):
    """Sees to it that bodies go one of the `WAYS`."""
    if request.param == "copied":

        def refuse(*_):
            raise OSError(errno.EINVAL, "as a file system says that cannot do it")

        monkeypatch.setattr(os, "sendfile", refuse)
    elif request.param == "read":
        monkeypatch.delattr(os, "sendfile")
        monkeypatch.setattr(streaming, "CHUNK", 1 << 20)  # the file has several pieces
    return request.param


class Shop:
    """A server with one completed job."""

    def __init__(self, server, job):
        self.server = server
        self.job = job
        self.urls = {artifact["name"]: artifact["url"] for artifact in job["artifacts"]}
        self.url = self.urls["mask.mrc"]
        self.stored = server.settings.data_dir / "artifacts" / job["job_id"] / "mask.mrc"

    async def curl(self, *words, url=None):
        """What curl prints, and its exit status."""
        words = ["curl", "--silent", "--show-error", *map(str, words), url or self.url]
        done = await trio.to_thread.run_sync(partial(run, words, stdout=PIPE, stderr=PIPE, timeout=engines.DEADLINE))
        return done.stdout, done.returncode

    async def status_of(self, *words, url=None):
        out, _ = await self.curl("--output", "/dev/null", "--write-out", "%{http_code}", *words, url=url)
        return int(out)


@pytest.fixture
async def shop(tmp_path, tomogram):
    async with opened(tmp_path, tomogram) as shop:
        yield shop


@asynccontextmanager
async def opened(tmp_path, tomogram, **serving):
    plugin = ExecutorPlugin(ScriptedExecutor(MAKE))
    async with (
        open_test_server(tmp_path / "data", plugin, allow_roots=(tmp_path,), **serving) as server,
        httpx.AsyncClient(base_url=server.url, headers=server.headers()) as client,
    ):
        job_id = (await client.post("/v1/jobs", json=to_plain(steps(tomogram)))).json()["job_id"]
        await engines.heard(server.services.engine, job_id)
        yield Shop(server, (await client.get(f"/v1/jobs/{job_id}")).json())


def headers_of(text):
    """Status and headers (lower case) of the last answer that curl printed."""
    first, *lines = text.decode().strip().split("\r\n\r\n")[-1].split("\r\n")
    return int(first.split()[1]), {line.partition(":")[0].lower(): line.partition(": ")[2] for line in lines}


async def test_a_signed_address_is_all_that_curl_needs(shop):
    out, code = await shop.curl()
    assert (hashlib.sha256(out).hexdigest(), code) == (hashlib.sha256(CONTENT).hexdigest(), 0)
    out, code = await shop.curl(url=shop.urls["empty.txt"])
    assert (out, code) == (b"", 0)


async def test_the_headers_say_what_it_is(shop):
    out, _ = await shop.curl("--head")
    status, headers = headers_of(out)
    digest = shop.job["artifacts"][0]["sha256"]
    assert status == 200
    assert headers["content-length"] == str(SIZE)
    assert headers["content-type"] == "application/x-mrc"
    assert headers["etag"] == f'"sha256-{digest}"'
    assert headers["accept-ranges"] == "bytes"
    assert headers["cache-control"] == "private, no-store"
    assert headers["content-disposition"] == 'attachment; filename="mask.mrc"'
    assert headers["repr-digest"].startswith("sha-256=:")
    got, _ = await shop.curl("--include", "--range", "0-0")
    status, headers = headers_of(got.partition(b"\r\n\r\n")[0])
    assert (status, headers["content-range"], headers["content-length"]) == (206, f"bytes 0-0/{SIZE}", "1")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("0-0", slice(0, 1)),
        ("0-", slice(0, None)),
        ("100-199", slice(100, 200)),
        (f"{(1 << 20) - 5}-{(1 << 20) + 4}", slice((1 << 20) - 5, (1 << 20) + 5)),
        (f"{SIZE - 1}-", slice(SIZE - 1, None)),
        (f"{SIZE - 10}-{SIZE + 10}", slice(SIZE - 10, None)),
        ("-10", slice(SIZE - 10, None)),
        (f"-{SIZE + 10}", slice(0, None)),
    ],
)
async def test_curl_gets_the_range_that_it_asks_for(shop, asked, expected):
    out, code = await shop.curl("--fail", "--range", asked)
    assert code == 0
    assert out == CONTENT[expected]
    assert await shop.status_of("--range", asked) == 206


@pytest.mark.parametrize("header", ["bytes=5-4", "bytes=x", "bytes=0-1,5-6", "sections=0-1", "bytes=-"])
async def test_what_is_no_single_range_is_answered_by_the_whole(shop, header):
    out, code = await shop.curl("--header", f"Range: {header}")
    assert (out == CONTENT, code) == (True, 0)
    assert await shop.status_of("--header", f"Range: {header}") == 200


async def test_a_range_behind_the_end_is_refused_with_the_size(shop):
    out, _ = await shop.curl("--include", "--range", f"{SIZE}-")
    status, headers = headers_of(out.partition(b"\r\n\r\n")[0])
    assert (status, headers["content-range"]) == (416, f"bytes */{SIZE}")
    assert b'"request/range"' in out


async def test_curl_resumes_a_download_that_was_cut(shop, tmp_path):
    target = tmp_path / "mask.mrc"
    target.write_bytes(CONTENT[:1234567])
    out, code = await shop.curl(
        "--continue-at", "-", "--output", target, "--write-out", "%{http_code} %{size_download}"
    )
    assert (out, code) == (f"206 {SIZE - 1234567}".encode(), 0)
    assert target.read_bytes() == CONTENT


async def test_a_resumed_download_of_something_else_begins_again(shop):
    etag = f'"sha256-{shop.job["artifacts"][0]["sha256"]}"'
    for header, status in [
        (etag, 206),
        ('"sha256-other"', 200),
        (f"W/{etag}", 200),
        ("Wed, 25 Nov 2026 04:48:20 GMT", 200),
    ]:
        assert await shop.status_of("--range", "5-", "--header", f"If-Range: {header}") == status


async def test_what_the_client_has_is_not_sent_again(shop, tmp_path):
    known = tmp_path / "etag"
    assert await shop.status_of("--etag-save", known) == 200
    assert await shop.status_of("--etag-compare", known) == 304
    known.write_text('"sha256-other"')
    assert await shop.status_of("--etag-compare", known) == 200


async def test_curl_saves_it_under_its_name(shop, tmp_path):
    _, code = await shop.curl("--output-dir", tmp_path, "--remote-name", "--remote-header-name")
    assert code == 0
    assert (tmp_path / "mask.mrc").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("mask.mrc", 'attachment; filename="mask.mrc"'),
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ('x"; filename="y', "attachment; filename=\"x_; filename=_y\"; filename*=UTF-8''x%22%3B%20filename%3D%22y"),
        ("../etc", "attachment; filename=\".._etc\"; filename*=UTF-8''..%2Fetc"),
        ("Zähne\r\n.mrc", "attachment; filename=\"Z_hne__.mrc\"; filename*=UTF-8''Z%C3%A4hne%0D%0A.mrc"),
    ],
)
def test_no_name_breaks_out_of_its_header(name, header):
    assert disposition(name) == header


async def test_a_token_does_as_well_as_a_signature(shop):
    plain = shop.url.partition("?")[0]
    bearer = f"Authorization: {shop.server.headers()['Authorization']}"
    assert await shop.status_of("--header", bearer, url=plain) == 200
    assert await shop.status_of(url=plain) == 401
    assert await shop.status_of("--header", bearer, url=plain.replace("mask.mrc", "mask.xyz")) == 404


async def test_what_was_removed_from_the_storage_is_an_error_and_not_an_empty_file(shop):
    shop.stored.unlink()
    assert await shop.status_of() == 404


@pytest.mark.parametrize("way", WAYS, indirect=True)
async def test_a_file_that_became_shorter_meanwhile_cuts_the_connection(shop, way):
    address = shop.url.removeprefix(shop.server.url)
    async with connected(shop.server, room=4096) as stream:
        await stream.send_all(f"GET {address} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        received = await stream.receive_some(100)
        with shop.stored.open("r+b") as file:
            file.truncate(SIZE - 1000)
        while piece := await stream.receive_some(1 << 20):
            received += piece
    assert received.startswith(b"HTTP/1.1 200")
    assert len(received) < SIZE


@pytest.mark.parametrize("words", [(), ("--range", "-10")])
async def test_a_file_that_was_too_short_from_the_beginning_is_an_error(shop, words):
    with shop.stored.open("r+b") as stream:
        stream.truncate(2 << 20)
    assert await shop.status_of(*words) == 500


@pytest.mark.parametrize("way", WAYS, indirect=True)
async def test_bytes_are_the_same_on_each_way_and_counted(shop, way):
    sent = 0
    for start, stop in [(0, SIZE), (1, 2), (SIZE - 70_000, SIZE), (4096, 3 << 20)]:
        out, code = await shop.curl("--range", f"{start}-{stop - 1}")
        assert (out, code) == (CONTENT[start:stop], 0)
        sent += stop - start
    await shop.server.services.traffic.settled()
    bearer = f"Authorization: {shop.server.headers(scopes=('metrics:read',))['Authorization']}"
    text = (await shop.curl("--header", bearer, url=f"{shop.server.url}/metrics"))[0].decode()
    [counted] = [line for line in text.splitlines() if line.startswith("cryomamba_download_bytes_total ")]
    assert float(counted.split()[1]) == sent


@pytest.mark.parametrize("way", WAYS, indirect=True)
async def test_one_connection_gives_one_answer_after_another(shop, way):
    address = shop.url.removeprefix(shop.server.url)
    request = f"GET {address} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
    async with connected(shop.server) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, 3 * request)
        received = b""
        while received.count(CONTENT) < 3:
            piece = await stream.receive_some(1 << 20)
            assert piece, len(received)
            received += piece
    assert received.count(b"HTTP/1.1 200") == 3


async def test_files_that_were_not_sent_are_closed(shop):
    before = psutil.Process().num_fds()
    for _ in range(20):
        await shop.curl("--range", "0-9")
        await shop.curl("--header", 'If-Range: "another"', "--max-filesize", "1")  # it leaves at once
    with trio.fail_after(engines.DEADLINE):
        await shop.server.services.traffic.settled()
    assert psutil.Process().num_fds() < before + 5


async def test_a_client_that_leaves_midway_leaves_nothing_behind(shop):
    address = urlsplit(shop.url)
    for _ in range(5):
        with trio.socket.socket() as client:
            client.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
            await client.connect((address.hostname, address.port))
            await client.send(f"GET {address.path}?{address.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await client.recv(100)).startswith(b"HTTP/1.1 200")
            assert len(shop.server.services.traffic) == 1
        with trio.fail_after(engines.DEADLINE):
            while len(shop.server.services.traffic):
                await trio.sleep(0.01)


async def test_at_most_two_pieces_are_in_memory(shop, monkeypatch):
    """The next piece is read while one is being sent, and none before that."""
    reads = []
    storage = shop.server.services.engine.storage
    monkeypatch.setattr(streaming, "CHUNK", 1 << 16)
    body = streaming.StoredBody(
        _Counting(storage, reads), f"artifacts/{shop.job['job_id']}/mask.mrc", 0, SIZE, on_sent=lambda _: None
    )
    await body.prepare()
    async with body as pieces:
        got = b""
        async for piece in pieces:
            got += piece
            await trio.testing.wait_all_tasks_blocked(0.001)
            assert sum(reads) - len(got) <= 2 << 16
    assert got == CONTENT


class _Counting:
    def __init__(self, storage, reads):
        self._storage = storage
        self._reads = reads

    def read(self, key, start, stop):
        data = self._storage.read(key, start, stop)
        self._reads.append(len(data))
        return data


@pytest.mark.parametrize(
    ("serving", "header", "origin"),
    [
        ({}, "Accept: */*", "{url}"),
        ({}, "Host: gpu7:8765", "http://gpu7:8765"),
        ({}, "Host: [::1]:80", "http://[::1]:80"),
        ({}, "X-Forwarded-Proto: https", ""),
        ({}, "Via: 1.1 proxy", ""),
        ({"public_url": "https://tomo.example.org/"}, "Via: 1.1 proxy", "https://tomo.example.org"),
    ],
)
async def test_addresses_begin_where_the_client_found_the_server(tmp_path, tomogram, serving, header, origin):
    async with opened(tmp_path, tomogram, **serving) as shop:
        bearer = f"Authorization: {shop.server.headers()['Authorization']}"
        address = f"{shop.server.url}/v1/jobs/{shop.job['job_id']}"
        out, _ = await shop.curl("--header", bearer, "--header", header, url=address)
        found = httpx.Response(200, content=out).json()["artifacts"][0]["url"]
        assert found.startswith(origin.format(url=shop.server.url) + "/v1/files/")


async def test_an_artifact_is_under_way_until_it_has_left(tmp_path, tomogram, monkeypatch):
    monkeypatch.setattr(gate, "DATA_OF_EACH", 1)
    async with opened(tmp_path, tomogram) as shop:
        address = shop.url.removeprefix(shop.server.url)
        request = f"GET {address} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
        async with connected(shop.server, room=4096) as stream:
            await stream.send_all(request)
            assert (await stream.receive_some(12)).endswith(b"200")
            async with connected(shop.server) as other:
                await other.send_all(request)
                assert (await other.receive_some(12)).endswith(b"429")
        with trio.fail_after(engines.DEADLINE):
            await shop.server.services.traffic.settled()
        async with connected(shop.server) as other:
            await other.send_all(request)
            assert (await other.receive_some(12)).endswith(b"200")

"""Clients that stall while a server is to stop, and bodies that come faster than they are read."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager

import engines
import psutil
import pytest
import servers
import trio
from sockets import connected, open_socket

MIB = 1 << 20
GRACEFUL = 2
#: Seconds beyond its patience in which a server promises to be gone.
GRACE = 5


@contextmanager
def probing(tmp_path, *, without="", **settings):
    """A server in a process of its own that has the probes' routes and lacks some protections."""
    variables = {f"CRYOMAMBA_SERVE_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {**variables, "PROBES_WITHOUT": without}
    with servers.ServerProcess(tmp_path / "data", environment=environment, program="probes.py") as server:
        yield server


@asynccontextmanager
async def asking(server, request_line, *, room=None):
    """A connection on which a request was begun."""
    async with connected(server, room=room) as line:
        await line.send_all(request_line + b"\r\nHost: here\r\n\r\n")
        yield line


@asynccontextmanager
async def stalled(server):
    """Clients that stop amid an answer, stop amid a body, and listen quietly."""
    async with (
        asking(server, b"GET /probe/stream/64 HTTP/1.1", room=4096) as reader,
        asking(server, b"PUT /probe/count HTTP/1.1\r\nContent-Length: 1000000") as writer,
        open_socket(f"{server.url}/probe/listen", server.headers()) as listener,
    ):
        assert (await reader.receive_some(12)).endswith(b"200")
        await writer.send_all(bytes(1000))
        assert await listener.get_message() == "hello"
        yield


def left_in_time(server):
    """Whether a server that is asked to stop is gone when it said it would be."""
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(GRACEFUL + GRACE)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize(
    ("without", "code"),
    [
        ("", 0),
        ("last-resort", 0),
        ("timed-writes last-resort", 0),
        ("timed-writes cuts", 128 + signal.SIGTERM),
        ("timed-writes cuts last-resort", None),
    ],
    ids=["as it is", "cuts alone", "cuts whatever writes", "the last resort alone", "control"],
)
async def test_a_server_stops_in_time_though_a_reader_and_a_writer_stall_and_somebody_listens(tmp_path, without, code):
    with probing(tmp_path, without=without, graceful_seconds=GRACEFUL) as server:
        async with stalled(server):
            left = await trio.to_thread.run_sync(left_in_time, server)
        assert left is (code is not None)
        assert server.process.poll() == code


@pytest.mark.parametrize("without", ["", "timed-writes"], ids=["as it is", "control"])
async def test_a_client_that_stops_reading_is_cut_off(tmp_path, without):
    with probing(tmp_path, without=without, idle_seconds=1) as server:
        process = psutil.Process(server.process.pid)
        async with asking(server, b"GET /probe/stream/64 HTTP/1.1", room=4096) as reader:
            assert (await reader.receive_some(12)).endswith(b"200")
            with trio.move_on_after(10 if without else engines.DEADLINE) as waiting:
                while connections(process):
                    await trio.sleep(0.05)
        assert waiting.cancelled_caught is bool(without)


def connections(process):
    """Connections of a server with its clients."""
    return [each for each in process.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED]


@pytest.mark.parametrize("without", ["", "bodies"], ids=["as it is", "control"])
async def test_a_body_that_nobody_reads_waits_in_the_client(tmp_path, without):
    """Stock Quart takes all of it into memory."""
    size = 256 * MIB
    with probing(tmp_path, without=without) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        async with asking(server, b"PUT /probe/ignore HTTP/1.1\r\nContent-Length: %d" % size) as client:
            sent = 0
            while sent < size:
                with trio.move_on_after(2) as patience:
                    await client.send_all(bytes(MIB))
                    sent += MIB
                if patience.cancelled_caught:
                    break
            grown = process.memory_info().rss - before
    assert (sent == size) is bool(without)
    # 2 MiB in the body, 0.5 MiB for each of two messages in the queue, one in h11; the rest is the allocator's
    assert (grown < 32 * MIB) is not bool(without)


def test_slow_clients_do_not_keep_others_out(tmp_path, slow):
    """By slowhttptest: slow headers, slow bodies, slow reading, each with 200 connections."""
    with probing(tmp_path, idle_seconds=2, least_rate=1024) as server:
        process = psutil.Process(server.process.pid)
        for mode in (
            ["-H", "-u", f"{server.url}/v1/healthz"],
            ["-B", "-t", "PUT", "-s", "100000", "-u", f"{server.url}/probe/count"],
            ["-X", "-w", "1", "-y", "8", "-n", "1", "-z", "1", "-u", f"{server.url}/probe/stream/8"],
        ):
            attack = slow(mode)
            served = 0
            while attack.poll() is None:
                with urllib.request.urlopen(f"{server.url}/v1/healthz", timeout=GRACE) as answer:
                    assert json.load(answer)
                served += 1
                time.sleep(0.1)
            assert served > 10
            said = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", attack.stdout.read())
            assert re.findall(r"service available:\s+(\w+)", said)[-1] == "YES", said
        deadline = time.monotonic() + engines.DEADLINE
        while connections(process):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.terminate() == 0


@pytest.fixture
def slow():
    """Starts slowhttptest; it opens 200 connections a second and goes on until all are closed, 12 s at most."""
    started = []

    def start(mode):
        command = ["slowhttptest", "-c", "200", "-r", "200", "-i", "1", "-x", "8", "-l", "12", "-p", str(GRACE), *mode]
        environment = {**os.environ, "TERM": "dumb"}
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            )
        except FileNotFoundError:
            pytest.skip("slowhttptest is not installed")
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()

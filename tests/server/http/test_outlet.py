"""Pieces of files on their way into a real socket: as fast as it is taken, and to nobody else."""

import errno
import os
import threading

import pytest
import trio
import trio.testing
from engines import DEADLINE

from cryomamba_core.errors import StorageDamaged
from cryomamba_server.http.outlet import FilePiece, pour

SIZE = (5 << 20) + 321
CONTENT = os.urandom(SIZE)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb") as stream:
        yield stream


@pytest.fixture
async def ends():
    """Two streams that are connected, with little room between them."""
    near, far = trio.socket.socketpair()
    near.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 32 << 10)
    async with trio.SocketStream(near) as near, trio.SocketStream(far) as far:
        with trio.fail_after(DEADLINE):
            yield near, far


def piece_of(file, start=0, stop=SIZE, on_sent=lambda _: None):
    return FilePiece(descriptor=file.fileno(), start=start, stop=stop, on_sent=on_sent)


async def taken(stream):
    received = b""
    while piece := await stream.receive_some(1 << 20):
        received += piece
    return received


@pytest.mark.parametrize(("start", "stop"), [(0, SIZE), (77, 5 << 20), (10, 10)])
async def test_every_byte_comes_once_and_is_counted(file, ends, start, stop):
    near, far = ends
    counted = []

    async def send():
        await pour(piece_of(file, start, stop, counted.append), near, idle_seconds=DEADLINE)
        await near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await taken(far) == CONTENT[start:stop]
    assert sum(counted) == stop - start


async def test_who_takes_nothing_is_not_waited_for(file, ends):
    near, _ = ends
    with pytest.raises(trio.TooSlowError):
        await pour(piece_of(file), near, idle_seconds=0.2)


async def test_who_takes_a_little_now_and_then_is(file, ends):
    near, far = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: pour(piece_of(file, 0, 400_000), near, idle_seconds=3))
        for _ in range(4):  # longer than `idle_seconds` in all
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            left = 80_000
            while left:
                left -= len(await far.receive_some(left))
        left = 80_000
        while left:
            left -= len(await far.receive_some(left))


async def test_who_has_left_is_a_broken_connection(file, ends):
    near, far = ends
    await far.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await pour(piece_of(file), near, idle_seconds=DEADLINE)


async def test_another_task_may_close_the_connection(file, ends):
    near, _ = ends
    async with trio.open_nursery() as nursery:

        async def send():
            with pytest.raises(trio.ClosedResourceError):
                await pour(piece_of(file), near, idle_seconds=DEADLINE)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await trio.aclose_forcefully(near)
    with pytest.raises(trio.ClosedResourceError):
        await pour(piece_of(file), near, idle_seconds=DEADLINE)


async def test_another_task_may_close_the_connection_while_a_thread_sends(file, ends, monkeypatch):
    near, _ = ends
    began, closed, send = trio.Event(), threading.Event(), os.sendfile

    def wait_for_the_end(*arguments):
        trio.from_thread.run_sync(began.set)
        assert closed.wait(DEADLINE)
        return send(*arguments)

    monkeypatch.setattr(os, "sendfile", wait_for_the_end)
    async with trio.open_nursery() as nursery:

        async def cut():
            await began.wait()
            await trio.aclose_forcefully(near)
            closed.set()

        nursery.start_soon(cut)
        with pytest.raises(trio.ClosedResourceError):
            await pour(piece_of(file), near, idle_seconds=DEADLINE)


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETDOWN])
async def test_a_way_that_is_gone_is_a_broken_connection(file, ends, monkeypatch, number):
    def lose(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", lose)
    with pytest.raises(trio.BrokenResourceError):
        await pour(piece_of(file), ends[0], idle_seconds=DEADLINE)


@pytest.mark.parametrize("sendable", [True, False])
async def test_a_file_that_ends_too_early_is_damaged(file, ends, monkeypatch, sendable):
    if not sendable:
        monkeypatch.setattr(os, "sendfile", _refuse)
    near, far = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taken, far)
        with pytest.raises(StorageDamaged):
            await pour(piece_of(file, SIZE - 100_000, SIZE + 1), near, idle_seconds=DEADLINE)
        await near.aclose()


def _refuse(*_):
    raise OSError(errno.EINVAL, "as a file system says that cannot do it")

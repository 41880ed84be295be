"""Events over lines that fail: WebSockets, and Server-Sent Events where there are none."""

import logging
from contextlib import aclosing

import engines
import pytest
import servers
import trio
from hearing import hear, states, submit
from proxies import open_proxy

from cryomamba_backends.http_transport.event_stream import EventParser
from cryomamba_backends.http_transport.live import Listener
from cryomamba_backends.http_transport.mailbox import Mailbox
from cryomamba_backends.http_transport.patience import Patience
from cryomamba_core.errors import BrokenProtocol, UnknownJob
from cryomamba_core.events import Completed, PreviewReady, Progress, StateChanged
from cryomamba_core.jobs import JobProgress, JobState
from cryomamba_server.engine.records import now


@pytest.fixture
async def server(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        yield server


async def test_where_no_websocket_gets_through_events_come_all_the_same(server, session_with, write_npy, caplog):
    caplog.set_level(logging.DEBUG, "cryomamba_backends")
    async with open_proxy(server.url) as proxy, session_with(proxy.url, server.token()) as session:
        proxy.websockets = False
        job = await submit(session, write_npy(4096))
        events = await hear(session, job.id)
        assert isinstance(events[-1], Completed)
        assert "Server-Sent Events" in caplog.text
        assert any(isinstance(event, PreviewReady) and event.preview is not None for event in events)
        assert await hear(session, job.id, after=events[-1].seq) == []
        with pytest.raises(UnknownJob):
            await hear(session, "00000000-0000-7000-8000-000000000000")
    async with session_with(server.url, server.token()) as session:
        assert states(await hear(session, job.id)) == states(events)


@pytest.mark.parametrize("websockets", [True, False])
async def test_a_line_that_is_cut_leaves_no_gap_and_no_repeat(server, session_with, write_npy, gate, websockets):
    async with open_proxy(server.url) as proxy, session_with(proxy.url, server.token()) as session:
        proxy.websockets = websockets
        job = await submit(session, write_npy(1 << 20), gate=str(gate))

        def cut(event):
            proxy.cut_all()
            for section in range(2):
                (gate / str(section)).touch()

        events = await hear(session, job.id, on_event=cut)
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    async with session_with(server.url, server.token()) as session:
        assert states(await hear(session, job.id)) == states(events)
    assert proxy.connections > 4


async def test_a_line_on_which_nothing_comes_is_given_up(server, session_with, write_npy, gate):
    """The server's pings are what a good line has; the proxy lets none through."""
    async with open_proxy(server.url) as proxy:
        async with session_with(server.url, server.token()) as session:
            job = await submit(session, write_npy(4096), gate=str(gate))
        async with session_with(
            proxy.url, server.token(), patience=Patience(first=2, control=5, long=60, silence=0.5)
        ) as session:
            fault = proxy.fail("stall", up=False, after=10)
            engines.open_gate(gate)
            assert isinstance((await hear(session, job.id))[-1], Completed)
        assert fault.struck
        assert proxy.connections > 1


async def test_a_server_that_stops_and_comes_back_is_listened_to_again(tmp_path, session_with, write_npy, gate):
    with servers.ServerProcess(tmp_path / "data") as server:
        async with session_with(server.url, server.token()) as session:
            job = await submit(session, write_npy(4096), gate=str(gate))
            heard = []

            async def restart():
                await trio.to_thread.run_sync(server.terminate)
                await trio.to_thread.run_sync(server.restart)
                engines.open_gate(gate)

            async with trio.open_nursery() as nursery:

                def on_event(event):
                    if not heard and isinstance(event, StateChanged) and event.state is JobState.RUNNING:
                        heard.append(event)
                        nursery.start_soon(restart)

                events = await hear(session, job.id, on_event=on_event)
            assert isinstance(events[-1], Completed)
            numbers = [event.seq for event in events]
            assert numbers == sorted(set(numbers))
            assert states(await hear(session, job.id)) == states(events)


async def test_a_listener_that_is_left_early_leaves_no_line_open(server, session_with, write_npy, gate):
    async with open_proxy(server.url) as proxy:
        async with session_with(server.url, server.token()) as session:
            job = await submit(session, write_npy(4096), gate=str(gate))
        async with session_with(proxy.url, server.token()) as session:
            async with aclosing(session.events(job.id)) as events:
                await anext(events)
            with trio.fail_after(engines.DEADLINE):
                await proxy.until_idle()
            await session.cancel(job.id)


async def test_an_error_inside_a_session_leaves_it_as_it_is(server, session_with):
    with pytest.raises(UnknownJob):
        async with session_with(server.url, server.token()) as session:
            await session.job("00000000-0000-7000-8000-000000000000")


def progress(seq):
    return Progress(
        seq=seq, at=now(), progress=JobProgress(stage="segmenting", done=seq, total=9, unit="tiles", fraction=0.1)
    )


def state(seq):
    return StateChanged(seq=seq, at=now(), state=JobState.RUNNING, attempt=1)


async def test_a_slow_reader_gets_every_state_and_the_newest_of_the_rest():
    mailbox = Mailbox()
    for event in (state(1), progress(2), state(3), progress(4), PreviewReady(seq=5, at=now()), progress(6)):
        mailbox.put(event)
    mailbox.put(PreviewReady(seq=7, at=now()))
    mailbox.close()
    assert [event.seq async for event in mailbox] == [1, 3, 6, 7]


async def test_a_reader_meets_an_error_after_what_came_before_it():
    mailbox = Mailbox()
    mailbox.put(state(1))
    mailbox.close(UnknownJob("gone"))
    assert (await anext(mailbox)).seq == 1
    with pytest.raises(UnknownJob):
        await anext(mailbox)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_found_in_a_stream_however_it_is_cut(size):
    stream = (
        b'retry: 2000\n\n: comment\n\nid: 1\nevent: state\ndata: {"a": 1}\n\n'
        b"data: one\r\ndata: two\r\n\r\nid: 3\n\ndata:x\n\ndata: \xc3\xa5\n\ndata: unfinished"
    )
    parser = EventParser()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [data for piece in pieces for data in parser.feed(piece)] == ['{"a": 1}', "one\ntwo", "x", "å"]


def test_an_event_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr("cryomamba_backends.http_transport.event_stream.MAX_EVENT", 1000)
    with pytest.raises(BrokenProtocol):
        list(EventParser().feed(b"data: " + b"x" * 1000))
    with pytest.raises(BrokenProtocol):
        list(EventParser().feed(b"data: \xff\n\n"))


def test_what_was_heard_before_is_not_handed_on_again():
    listener = Listener(None, "job", 2)
    for event in (state(1), state(2), state(3), state(3), state(4)):
        listener._take(event)
    assert [event.seq for event in listener.mailbox._events] == [3, 4]

"""A server that is away, or wants fewer questions: whoever shows the session hears of it, and of its end."""

import httpx
import pytest
import servers
import trio
from proxies import open_proxy
from scripted import good, refused, scripted

from cryomamba_core.jobs import JobConfig, Source

pytestmark = pytest.mark.once


@pytest.fixture
async def server(tmp_path):
    async with servers.open_test_server(tmp_path / "data", part_size=1 << 20) as server:
        yield server


class Waits:
    """What a session has said, as codes; None for the end of a wait."""

    def __init__(self, session):
        self.codes = []
        self._news = trio.Event()
        session.on_waiting = self._take

    def _take(self, why):
        self.codes.append(None if why is None else why.code)
        self._news.set()
        self._news = trio.Event()

    async def until(self, code):
        with trio.fail_after(60):
            while not self.codes or self.codes[-1] != code:
                await self._news.wait()


async def test_a_question_tells_of_silence_and_of_its_end(server, session_with):
    async with open_proxy(server.url) as proxy, session_with(proxy.url, server.token()) as session:
        await session.jobs()
        waits = Waits(session)
        proxy.refusing = True
        proxy.cut_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.jobs)
            await waits.until("server/unreachable")
            proxy.refusing = False
        assert waits.codes == ["server/unreachable", None]


async def test_an_upload_tells_of_silence_and_of_its_end(server, session_with, write_npy):
    async with open_proxy(server.url) as proxy, session_with(proxy.url, server.token()) as session:
        waits = Waits(session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.upload, write_npy(16 << 20))
            await proxy.until(lambda: proxy.sent > 3 << 20)
            proxy.refusing = True
            proxy.cut_all()
            await waits.until("server/unreachable")
            proxy.refusing = False
        assert waits.codes[-1] is None


@pytest.mark.parametrize("websockets", [True, False])
async def test_a_listener_tells_of_silence_and_of_its_end(server, session_with, write_npy, tmp_path, websockets):
    gate = tmp_path / "gate"
    gate.mkdir()
    heard = []
    async with open_proxy(server.url) as proxy, session_with(proxy.url, server.token()) as session:
        proxy.websockets = websockets
        sent = await session.upload(write_npy(10_000))
        source = Source(file_id=sent.id)
        job = await session.submit(JobConfig(source=source, params={"gate": str(gate)}, runner="steps"))
        waits = Waits(session)

        async def listen():
            async for event in session.events(job.id):
                heard.append(event)  # noqa: PERF401  # others look at it meanwhile

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await proxy.until(lambda: bool(heard))
            proxy.refusing = True
            proxy.cut_all()
            await waits.until("server/unreachable")
            proxy.refusing = False
            await waits.until(None)
            for section in range(2):
                (gate / str(section)).touch()
    assert type(heard[-1]).__name__ == "Completed"


async def test_a_download_tells_of_silence_and_of_its_end(server, session_with, write_npy, tmp_path):
    async with open_proxy(server.url) as proxy, session_with(proxy.url, server.token()) as session:
        sent = await session.upload(write_npy(4 << 20))
        job = await session.submit(JobConfig(source=Source(file_id=sent.id), runner="steps"))
        async for _ in session.events(job.id):
            pass
        waits = Waits(session)
        before = proxy.received
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.download, job.id, "mask.npy", tmp_path / "mask.npy")
            await proxy.until(lambda: proxy.received > before + (1 << 20))
            proxy.refusing = True
            proxy.cut_all()
            await waits.until("server/unreachable")
            proxy.refusing = False
        assert waits.codes == ["server/unreachable", None]


async def test_a_server_that_wants_fewer_questions_is_not_taken_for_a_silent_one(session_with):
    first = refused(429, "access/rate-limited", retryable=True, Retry_After="3")
    async with scripted(first, good()) as (url, _), session_with(url) as session:
        waits = Waits(session)
        await session.jobs()
    assert waits.codes in (["access/rate-limited", None], [])


async def test_questions_of_many_tasks_wait_together(tmp_path, session_with):
    async with servers.open_test_server(tmp_path / "data", requests_per_minute=20) as server:
        statuses = []
        async with session_with(server.url, server.token()) as session:
            client = session._connection.client
            client.event_hooks["response"].append(lambda answer: note(statuses, answer))
            async with trio.open_nursery() as nursery:
                for _ in range(24):
                    nursery.start_soon(session.jobs)
    assert statuses.count(httpx.codes.OK) == 24
    assert statuses.count(httpx.codes.TOO_MANY_REQUESTS) <= 5


async def note(statuses, answer):
    statuses.append(answer.status_code)

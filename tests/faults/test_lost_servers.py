"""Servers and workers that are killed mid-inference: the job goes on, ends once, and its listener misses nothing."""

import signal
import threading

import httpx
import numpy as np
import pytest
import trio
import unprotected
import websocket
from engines import DEADLINE, make_settings, open_gate, steps, workers_of
from servers import ServerProcess

from cryomamba_backends.http_transport.transport import HttpTransport
from cryomamba_core.events import Completed, Failed, PreviewReady, StateChanged
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobState
from cryomamba_core.protocol.live import event_of


@pytest.fixture
def start_server(tmp_path, settings):
    """Starts ``cryomamba serve`` in a process of its own; ``without`` names a protection that is taken out."""
    started = []
    unprotected.install(tmp_path / "site")

    def start(*, without="", **environment):
        environment = {"UNPROTECTED": without, **environment}
        started.append(ServerProcess(settings.data_dir, "--allow-root", tmp_path, environment=environment))
        return started[-1]

    yield start
    for server in started:
        server.kill()


class Hearing:
    """Our client listening to one job in the background, over as many lines as it takes."""

    def __init__(self, session, job_id):
        self.session, self.job_id = session, job_id
        self.events = []
        self.over = trio.Event()
        self._news = trio.Event()

    async def run(self):
        async for event in self.session.events(self.job_id):
            self.events.append(event)
            self._news.set()
            self._news = trio.Event()
        self.over.set()

    async def until(self, condition):
        """Wait for an event."""
        with trio.fail_after(DEADLINE):
            while not any(condition(event) for event in self.events):
                await self._news.wait()

    async def end(self):
        with trio.fail_after(DEADLINE):
            await self.over.wait()
        return self.events


class StockListener(threading.Thread):
    """Someone else's WebSocket client, which knows nothing of reconnecting."""

    def __init__(self, server, job_id):
        super().__init__(daemon=True)
        self.events, self.code = [], None
        self._socket = websocket.create_connection(
            f"{server.url.replace('http', 'ws', 1)}/v1/ws/jobs/{job_id}",
            header=[f"{name}: {value}" for name, value in server.headers().items()],
        )
        self.start()

    def run(self):
        try:
            while self.code is None:
                code, data = self._socket.recv_data()
                if code == websocket.ABNF.OPCODE_CLOSE:
                    self.code = int.from_bytes(data[:2])
                else:
                    self.events.append(event_of(data.decode()))
        except (OSError, websocket.WebSocketException):
            return
        finally:
            self._socket.shutdown()

    def end(self):
        """Its events, once its line is cut."""
        self.join(DEADLINE)
        assert not self.is_alive()
        return self.events


def is_preview(event):
    return isinstance(event, PreviewReady)


def restart_count(events):
    return sum(isinstance(event, StateChanged) and bool(event.reason) for event in events)


def open_session(server):
    settings = make_settings(server.data_dir / "client")
    return HttpTransport(settings).open(server.url, Credentials(token=server.token()))


async def artifact(session, job_id, folder):
    target = folder / f"{job_id}.npy"
    await session.download(job_id, "mask.npy", target)
    return target.read_bytes()


def assert_no_gap(events, server, job_id):
    """What was heard in pieces is what is recorded: every state once, in order, and the end."""
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    recorded = StockListener(server, job_id).end()
    assert changes_of(events) == changes_of(recorded)
    assert isinstance(recorded[-1], Completed | Failed)


def changes_of(events):
    """Numbers, kinds and states of the events that are never left out."""
    kept = [event for event in events if isinstance(event, StateChanged | Completed | Failed)]
    return [(event.seq, event.type, getattr(event, "state", None)) for event in kept]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_goes_on_without_its_server_and_the_job_ends_once(
    start_server, settings, tomogram, gate, tmp_path, no_worker, end
):
    server = start_server()
    async with open_session(server) as session, trio.open_nursery() as nursery:
        job = await session.submit(steps(tomogram, gate=str(gate)))
        hearing, stock = Hearing(session, job.id), StockListener(server, job.id)
        nursery.start_soon(hearing.run)
        await hearing.until(is_preview)
        [worker] = workers_of(settings.data_dir)
        server.signal(end)
        cut_off = await trio.to_thread.run_sync(stock.end)
        assert not any(isinstance(event, Completed) for event in cut_off)  # the line was cut, as ours was
        assert stock.code == (1012 if end == signal.SIGTERM else None)
        assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
        await trio.to_thread.run_sync(server.restart)
        assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
        open_gate(gate)
        events = await hearing.end()
        record = await session.job(job.id)
        await no_worker()
        assert_no_gap(events, server, job.id)
        assert (record.state, record.attempt, restart_count(events)) == (JobState.COMPLETED, 1, 0)
        np.testing.assert_array_equal(
            np.load(settings.data_dir / "artifacts" / job.id / "mask.npy"), np.load(tomogram) > 0
        )


async def test_a_job_that_was_completed_while_no_server_was_there_is_completed_once_when_one_is(
    start_server, settings, tomogram, gate, until, no_worker
):
    server = start_server()
    async with open_session(server) as session, trio.open_nursery() as nursery:
        job = await session.submit(steps(tomogram, gate=str(gate)))
        hearing = Hearing(session, job.id)
        nursery.start_soon(hearing.run)
        await hearing.until(is_preview)
        server.kill()
        open_gate(gate)
        await until(job.id, lambda event: isinstance(event, Completed))
        await no_worker()
        assert not (settings.data_dir / "artifacts").exists()  # without a server nobody has taken them in
        await trio.to_thread.run_sync(server.restart)
        events = await hearing.end()
        assert_no_gap(events, server, job.id)
        assert (await session.job(job.id)).attempt == 1


async def test_a_server_that_did_not_look_for_the_worker_would_run_the_job_twice(
    start_server, settings, tomogram, gate, until
):
    server = start_server(without="search for workers")
    async with open_session(server) as session:
        job = await session.submit(steps(tomogram, gate=str(gate)))
        await until(job.id, is_preview)
        server.kill()
        await trio.to_thread.run_sync(server.restart)
        with trio.fail_after(DEADLINE):
            while len(workers_of(settings.data_dir)) != 2:
                await trio.sleep(0.01)


@pytest.mark.parametrize("lost", ["worker", "server and worker"])
@pytest.mark.parametrize("most", [1, 2])
async def test_a_killed_worker_is_replaced_and_the_labels_are_the_same_to_the_byte(
    start_server, settings, tomogram, gate, tmp_path, lost, most
):
    server = start_server(CRYOMAMBA_MAX_ATTEMPTS=str(most))
    async with open_session(server) as session, trio.open_nursery() as nursery:
        job = await session.submit(steps(tomogram, gate=str(gate)))
        hearing = Hearing(session, job.id)
        nursery.start_soon(hearing.run)
        await hearing.until(is_preview)
        [worker] = workers_of(settings.data_dir)
        if lost == "worker":
            worker.kill()
        else:
            server.kill()
            worker.kill()
            await trio.to_thread.run_sync(server.restart)
        open_gate(gate)
        events = await hearing.end()
        record = await session.job(job.id)
        assert_no_gap(events, server, job.id)
        if most == 1:  # the worker was lost indeed: with no second one the job is lost too
            assert (record.state, record.error.code) == (JobState.FAILED, "job/worker-died")
            return
        assert (record.state, record.attempt, restart_count(events)) == (JobState.COMPLETED, 2, 1)
        undisturbed = await session.submit(steps(tomogram))
        [*_, last] = [event async for event in session.events(undisturbed.id)]
        assert isinstance(last, Completed)
        labels = await artifact(session, job.id, tmp_path)
        assert labels == await artifact(session, undisturbed.id, tmp_path)
        with httpx.Client(base_url=server.url, headers=server.headers(), trust_env=False) as client:
            shown = client.get(f"/v1/jobs/{job.id}").json()
        assert (shown["state"], shown["attempt"]) == ("completed", 2)

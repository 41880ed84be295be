"""What one window works with: tasks that end in troubles, and an end that leaves nothing behind."""

import logging
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import engines
import pytest
import trio

from cryomamba_core.errors import StorageFull
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_gui.desk.desk import Desk


def raising(error):
    async def work():
        raise error

    return work


async def test_what_a_task_raises_becomes_a_trouble_and_the_others_go_on(open_desk, until):
    errors = [
        StorageFull("no space is left", hint="free some"),
        OSError(5, "bad disk"),
        ZeroDivisionError("one by nought"),
        ExceptionGroup("", [OSError("a"), ExceptionGroup("", [KeyError("b")])]),
    ]
    async with open_desk() as desk:
        ended = trio.Event()
        desk.soon(ended.wait, name="waiting")
        for error in errors:
            desk.soon(raising(error), name="saving a.mrc")
        await until(desk.troubles.changed, lambda: len(desk.troubles.items) == 5)
        ended.set()
        await until(desk.journal.added, lambda: _last_words(desk) == "waiting")
    assert {trouble.what for trouble in desk.troubles.items} == {"saving a.mrc"}
    assert {trouble.error.code for trouble in desk.troubles.items} == {"storage/full", "internal/fault"}
    assert sum("Traceback" in trouble.details for trouble in desk.troubles.items) == 3  # those that were raised


def _last_words(desk):
    return desk.journal.entries[-1].text if desk.journal.entries else ""


async def test_a_task_is_cancelled_by_its_scope_and_says_nothing_but_that(open_desk, until):
    async with open_desk() as desk:
        scope = desk.soon(trio.sleep_forever, name="waiting")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await until(desk.journal.added, lambda: _last_words(desk) == "waiting: cancelled")
        assert desk.journal.entries[-1].kind == "task"
        assert desk.journal.entries[-1].seconds >= 0
    assert desk.troubles.items == ()


async def test_what_is_asked_before_the_start_is_done_then(host):
    desk, done = Desk(host), trio.Event()

    async def work():
        done.set()

    desk.soon(work, name="early")
    never = desk.soon(raising(OSError("it was cancelled before")), name="early and given up")
    never.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        with trio.fail_after(engines.DEADLINE):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert desk.troubles.items == ()


async def test_what_is_asked_after_the_end_does_not_begin(open_desk):
    async with open_desk() as desk:
        pass
    assert desk.soon(raising(AssertionError("it began")), name="late").cancel_called
    assert desk.troubles.items == ()


async def test_the_end_takes_down_what_happens_at_the_end(open_desk, host):
    async with open_desk() as desk:

        async def work():
            try:
                await trio.sleep_forever()
            finally:
                desk.history.remember_file(Path("/data/last.mrc"))

        desk.soon(work, name="working")
        await trio.testing.wait_all_tasks_blocked()
    assert any(entry.text == "working: cancelled" for entry in desk.journal.entries)
    assert Desk(host).history.recent == (Path("/data/last.mrc"),)


async def test_the_next_window_knows_the_engine_and_is_let_in(open_desk, open_server, host, until):
    async with open_server() as server:
        async with open_desk() as desk:
            desk.link.connect(server.url, Credentials(token=server.token()))
            await until(desk.journal.added, lambda: any("is kept in" in entry.text for entry in desk.journal.entries))
        async with open_desk() as desk:
            assert desk.history.engine == server.url
            desk.link.connect(desk.history.engine)
            await until(desk.link.changed, lambda: desk.link.connected)
    assert desk.troubles.items == ()


async def test_closing_in_the_middle_of_everything_is_quiet(open_desk, open_server, until, gate, tomogram, caplog):
    async with open_server() as server, open_desk() as desk:
        desk.link.connect(server.url, Credentials(token=server.token()))
        await until(desk.link.changed, lambda: desk.link.connected)
        session = desk.link.session
        sent = await session.upload(tomogram)
        config = JobConfig(source=Source(file_id=sent.id), runner="steps", params={"gate": str(gate)})
        job = await session.submit(config)

        async def listen():
            async with aclosing(session.events(job.id)) as events:
                async for _ in events:
                    pass

        desk.soon(listen, name="listening")
        for _ in range(20):
            desk.soon(session.jobs, name="asking")
        await until(desk.jobs.added, lambda: desk.jobs.items)
    assert desk.troubles.items == ()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


#: A window that queues a job on this computer, waits until it runs, and is closed.
WINDOW = """
import sys
import engines, trio
from pathlib import Path
from cryomamba_core.plugins import PluginHost
from cryomamba_gui.desk.attendance import next_news
from cryomamba_gui.desk.desk import Desk

data_dir, tomogram, gate, count = sys.argv[1:]

async def main():
    desk = Desk(PluginHost.discover(engines.make_settings(data_dir)))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: desk.run(task_status=task_status))
        desk.link.connect("local:")
        while not desk.link.connected:
            await next_news(desk.link.changed)
        for _ in range(int(count)):
            job = await desk.link.session.submit(engines.steps(tomogram, gate=gate))
            print(job.id, flush=True)
        desk.jobs.refresh()
        while not any(item.progress for item in desk.jobs.items):
            await next_news(desk.jobs.changed)
        nursery.cancel_scope.cancel()
    assert not desk.troubles.items, desk.troubles.items

trio.run(main)
"""


@pytest.fixture
def closed_window(settings, tomogram, gate):
    """A window in a process of its own that was closed with a job running, and others queued."""

    def run(count=1):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", WINDOW, str(settings.data_dir), str(tomogram), str(gate), str(count)],
            capture_output=True,
            text=True,
            timeout=engines.DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    yield run
    for process in engines.workers_of(settings.data_dir):
        process.kill()


async def test_a_window_that_is_closed_says_nothing_and_its_job_goes_on(
    closed_window, settings, gate, open_desk, until
):
    [job_id], said = await trio.to_thread.run_sync(closed_window)
    assert said == ""
    [worker] = engines.workers_of(settings.data_dir)
    async with open_desk() as desk:
        desk.link.connect("local:")
        await until(desk.jobs.changed, lambda: desk.jobs.find("local:", job_id) is not None)
        item = desk.jobs.find("local:", job_id)
        assert item.state.active
        assert engines.workers_of(settings.data_dir) == [worker]
        engines.open_gate(gate)
        await until(desk.jobs.ended, lambda: item.state.ended)
        assert item.state is JobState.COMPLETED
        assert item.record.attempt == 1
    assert engines.workers_of(settings.data_dir) == []
    assert desk.troubles.items == ()


async def test_a_job_that_ended_while_no_window_was_open_has_its_results(
    closed_window, settings, gate, open_desk, until, tmp_path
):
    [job_id], _ = await trio.to_thread.run_sync(closed_window)
    [worker] = engines.workers_of(settings.data_dir)
    engines.open_gate(gate)
    await trio.to_thread.run_sync(worker.wait)
    async with open_desk() as desk:
        desk.link.connect("local:")
        await until(desk.link.changed, lambda: desk.link.connected)
        assert (await desk.link.session.job(job_id)).state is JobState.COMPLETED
        await desk.link.session.download(job_id, "mask.npy", tmp_path / "mask.npy")


async def test_a_worker_that_died_while_no_window_was_open_is_replaced(closed_window, settings, gate, open_desk, until):
    [job_id], _ = await trio.to_thread.run_sync(closed_window)
    [worker] = engines.workers_of(settings.data_dir)
    worker.kill()
    worker.wait()
    engines.open_gate(gate)
    async with open_desk() as desk:
        desk.link.connect("local:")
        await until(desk.jobs.changed, lambda: _completed(desk, job_id))
        item = desk.jobs.find("local:", job_id)
        assert (item.state, item.record.attempt) == (JobState.COMPLETED, 2)


async def test_queued_jobs_wait_for_the_next_window(closed_window, settings, gate, open_desk, until):
    job_ids, said = await trio.to_thread.run_sync(closed_window, 2)
    assert said == ""
    engines.open_gate(gate)
    [worker] = engines.workers_of(settings.data_dir)
    await trio.to_thread.run_sync(worker.wait)
    assert engines.workers_of(settings.data_dir) == []
    async with open_desk() as desk:
        desk.link.connect("local:")
        await until(desk.link.changed, lambda: desk.link.connected)
        for job_id in job_ids:
            await until(desk.jobs.changed, lambda job_id=job_id: _completed(desk, job_id))


def _completed(desk, job_id):
    item = desk.jobs.find("local:", job_id)
    return item is not None and item.state is JobState.COMPLETED

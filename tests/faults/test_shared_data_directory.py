"""Two processes on one data directory: one schedules, both serve."""

import pytest
import trio
from engines import OWNER, heard, make_host, open_gate, steps, workers_of

from cryomamba_core.errors import UnknownJob
from cryomamba_core.events import Completed, PreviewReady
from cryomamba_core.jobs import JobState
from cryomamba_server.engine.engine import open_engine


def is_preview(event):
    return isinstance(event, PreviewReady)


async def test_one_process_segments_while_another_lists_listens_and_cancels(settings, tomogram, gate, engine_process):
    first = engine_process()
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    async with open_engine(make_host(settings), settings) as engine:
        events = await heard(engine, job_id, until=is_preview)
        assert events[-1].preview is not None
        assert (first.ask("leads"), engine.scheduler.leads) == ("True", False)
        [record] = await engine.jobs(owner=OWNER)
        assert (record.id, record.state) == (job_id, JobState.PREVIEWING)
        assert (await engine.cancel(job_id, owner=OWNER)).state is JobState.CANCELED
        assert first.ask("list") == f"{job_id}=canceled"
        assert not workers_of(settings.data_dir)


async def test_a_job_that_is_submitted_beside_the_scheduler_is_run_by_it(settings, tomogram, engine_process):
    first = engine_process()
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        assert isinstance((await heard(engine, job.id))[-1], Completed)
        assert not engine.scheduler.leads
        assert first.ask("list") == f"{job.id}=completed"


@pytest.mark.parametrize("end", ["kill", "leave"])
async def test_when_the_scheduler_is_gone_another_process_takes_over(settings, tomogram, gate, engine_process, end):
    first = engine_process()
    running = first.submit(steps(tomogram, gate=str(gate)))
    waiting = first.submit(steps(tomogram))
    async with open_engine(make_host(settings), settings) as engine:
        await heard(engine, running, until=is_preview)
        assert not engine.scheduler.leads
        [worker] = workers_of(settings.data_dir)
        getattr(first, end)()
        while not engine.scheduler.leads:
            await trio.sleep(0.01)
        assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
        open_gate(gate)
        for job_id in (running, waiting):
            assert isinstance((await heard(engine, job_id))[-1], Completed)
            assert (await engine.job(job_id, owner=OWNER)).attempt == 1


async def test_processes_that_submit_and_cancel_at_once_lose_nothing(settings, tomogram, engine_process):
    processes = [engine_process() for _ in range(3)]
    ids = []

    async def use(process):
        ids.extend([await trio.to_thread.run_sync(process.submit, steps(tomogram)) for _ in range(5)])
        assert await trio.to_thread.run_sync(process.ask, "cancel", ids[-1]) in ("canceled", "completed")

    async with trio.open_nursery() as nursery:
        for process in processes:
            nursery.start_soon(use, process)
    async with open_engine(make_host(settings), settings) as engine:
        assert {job.id for job in await engine.jobs(owner=OWNER)} == set(ids)
        assert len(set(ids)) == 15
        for job_id in ids:
            events = await heard(engine, job_id, until=lambda event: event.seq >= 1)
            assert events[0].seq == 1
            await engine.cancel(job_id, owner=OWNER)
        with pytest.raises(UnknownJob):
            await engine.cancel("none", owner=OWNER)

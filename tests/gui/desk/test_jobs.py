"""The list of jobs: what is followed, what is remembered, and what happens while engines come and go."""

import shutil

import engines
import pytest
import servers
import trio
from desks import connect, hearing, item_until, open_desk, submitted, until
from engines import open_gate

from cryomamba_backends.http_transport.transport import HttpTransport
from cryomamba_core.errors import IllegalTransition, ServerUnreachable
from cryomamba_core.events import StateChanged
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobState, Source
from cryomamba_gui.desk import following
from cryomamba_gui.desk.link import LinkState


@pytest.fixture
async def server(tmp_path):
    settings = engines.make_settings(tmp_path / "server", devices=("cpu", "cpu"))
    async with servers.open_test_server(tmp_path / "server", settings=settings) as server:
        yield server


@pytest.fixture
async def desk(server, tmp_path):
    async with open_desk(tmp_path / "mine", url=server.url, token=server.token()) as desk:
        yield desk


@pytest.fixture
def process(tmp_path):
    """A server that can be killed."""
    with servers.ServerProcess(tmp_path / "server") as process:
        yield process
        for worker in engines.workers_of(process.data_dir):
            worker.kill()


def open_session(server):
    """Another client of the same user's."""
    settings = engines.make_settings("/nowhere")
    return HttpTransport(settings).open(server.url, Credentials(token=server.token()))


def running(item):
    return item.state.active


def ended(item):
    return item.state.ended


async def test_two_jobs_run_at_the_same_time_and_each_has_its_previews(desk, tmp_path):
    gates, items = [], []
    for name in ("a", "b"):
        gates.append(tmp_path / f"gate-{name}")
        gates[-1].mkdir()
        (gates[-1] / "0").touch()
        path = engines.make_tomogram(tmp_path / f"{name}.npy", seed=len(gates))
        items.append(await submitted(desk, path, gate=str(gates[-1])))
    for item in items:
        await item_until(desk, item, lambda item: item.state is JobState.PREVIEWING and item.preview is not None)
    assert all(item.state.active for item in items)
    assert desk.jobs.items == (items[1], items[0])
    assert [item.path.name for item in items] == ["a.npy", "b.npy"]
    heard = []
    desk.jobs.ended.connect(heard.append)
    open_gate(gates[1])
    await item_until(desk, items[1], ended)
    assert items[0].state.active
    assert items[1].record.artifacts
    assert items[1].fraction == 1
    open_gate(gates[0])
    await item_until(desk, items[0], ended)
    assert heard == [items[1], items[0]]
    assert {item.state for item in items} == {JobState.COMPLETED}


async def test_progress_and_previews_are_told_and_only_the_newest_is_kept(desk, tomogram, gate):
    seen = []
    desk.jobs.previewed.connect(lambda item: seen.append(item.preview.sequence))
    item = await submitted(desk, tomogram, gate=str(gate))
    await item_until(desk, item, lambda item: item.preview is not None and item.progress is not None)
    assert 0 < item.fraction < 1
    (gate / "1").touch()
    await item_until(desk, item, lambda item: item.preview.covered.stop[0] == 2)
    open_gate(gate)
    await item_until(desk, item, ended)
    assert seen == sorted(set(seen))
    assert item.preview.sequence == seen[-1]


async def test_a_job_is_canceled_and_runs_again(desk, tomogram, gate):
    item = await submitted(desk, tomogram, gate=str(gate))
    await item_until(desk, item, lambda item: item.preview is not None)
    with pytest.raises(IllegalTransition):
        await desk.jobs.retry(item)
    await desk.jobs.cancel(item)
    assert item.state is JobState.CANCELED
    assert not item.stopping
    open_gate(gate)
    await desk.jobs.retry(item)
    assert item.state in (JobState.QUEUED, JobState.RUNNING)
    assert item.preview is None
    await item_until(desk, item, ended)
    assert item.state is JobState.COMPLETED
    assert item.record.attempt == 2
    assert desk.jobs.items == (item,)


async def test_a_failed_job_says_why(desk, tomogram):
    item = await submitted(desk, tomogram, fault="raises")
    await item_until(desk, item, ended)
    assert item.state is JobState.FAILED
    assert "the stranger cannot go on" in item.record.error.message


async def test_jobs_of_another_client_appear_and_are_followed(desk, server, tomogram, gate, monkeypatch):
    monkeypatch.setattr(following, "INTERVAL", 0.2)
    desk.jobs.refresh()
    async with open_session(server) as session:
        sent = await session.upload(tomogram)
        config = engines.steps(tomogram, gate=str(gate))
        config = engines.JobConfig(source=Source(file_id=sent.id), runner="steps", params=config.params)
        job = await session.submit(config)
    await until(lambda: desk.jobs.items, desk.jobs.added)
    [item] = desk.jobs.items
    assert (item.id, item.path, item.started_here) == (job.id, None, False)
    open_gate(gate)
    await item_until(desk, item, ended)
    assert item.record.artifacts


@pytest.mark.parametrize("page", [20, 1])
async def test_a_queued_job_says_how_many_run_first(tmp_path, gate, monkeypatch, page):
    monkeypatch.setattr(following, "INTERVAL", 0.2)
    monkeypatch.setattr(following, "PAGE", page)
    async with (
        servers.open_test_server(tmp_path / "server") as server,
        open_desk(tmp_path / "mine", url=server.url, token=server.token()) as desk,
    ):
        items = []
        for name in "abc":
            path = engines.make_tomogram(tmp_path / f"{name}.npy", seed=ord(name))
            items.append(await submitted(desk, path, gate=str(gate)))
        await item_until(desk, items[2], lambda item: item.queue_position == 1)
        await desk.jobs.cancel(items[1])
        await item_until(desk, items[2], lambda item: item.queue_position == 0)
        assert items[0].queue_position is None
        open_gate(gate)
        await item_until(desk, items[2], ended)


async def test_more_jobs_than_fit_in_one_answer_are_all_there(desk, server, tmp_path, monkeypatch):
    monkeypatch.setattr(following, "FIRST_PAGE", 2)
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    for _ in range(5):
        await item_until(desk, await submitted(desk, tomogram), ended)
    async with open_desk(tmp_path / "yours", url=server.url, token=server.token()) as other:
        await until(lambda: len(other.jobs.items) == 5, other.jobs.added)
        assert [item.id for item in other.jobs.items] == [item.id for item in desk.jobs.items]


async def test_a_server_that_is_killed_and_started_again_is_waited_for(process, tmp_path, tomogram, gate):
    async with open_desk(tmp_path / "mine", url=process.url, token=process.token()) as desk:
        item = await submitted(desk, tomogram, gate=str(gate))
        await item_until(desk, item, lambda item: item.preview is not None)
        preview = item.preview
        process.kill()
        await item_until(desk, item, lambda item: item.stale)
        assert (item.state, item.preview) == (JobState.PREVIEWING, preview)
        assert item.reachable
        await trio.to_thread.run_sync(process.restart)
        await item_until(desk, item, lambda item: not item.stale)
        open_gate(gate)
        await item_until(desk, item, ended)
        assert item.state is JobState.COMPLETED
        assert item.record.attempt == 1
        assert desk.jobs.items == (item,)
        assert desk.link.state is LinkState.CONNECTED
        assert not desk.troubles.items


async def test_a_desktop_that_is_opened_again_finds_its_jobs_and_follows_them(server, tmp_path, tomogram, gate):
    async with open_desk(tmp_path / "mine", url=server.url, token=server.token()) as desk:
        before = await submitted(desk, tomogram, gate=str(gate))
        await item_until(desk, before, lambda item: item.preview is not None)
    async with open_desk(tmp_path / "mine") as desk:
        await until(lambda: desk.jobs.items, desk.jobs.added)
        [item] = desk.jobs.items
        assert (item.id, item.path, item.started_here) == (before.id, tomogram, True)
        assert not item.reachable
        with pytest.raises(ServerUnreachable, match="not connected"):
            await desk.jobs.cancel(item)
        states, heard = [], []
        desk.jobs.changed.connect(lambda item: states.append(item.state))
        desk.jobs.ended.connect(heard.append)
        await connect(desk, server.url, server.token())
        await item_until(desk, item, lambda item: item.reachable and item.preview is not None)
        open_gate(gate)
        await item_until(desk, item, ended)
        assert item.state is JobState.COMPLETED
        assert desk.jobs.items == (item,)
        assert heard == [item]
        assert states == sorted(states, key=["previewing", "completed"].index)  # what is heard again sets nothing back


async def test_jobs_that_ended_while_no_desktop_was_open_are_told_as_ended(server, tmp_path, tomogram, gate):
    async with open_desk(tmp_path / "mine", url=server.url, token=server.token()) as desk:
        await submitted(desk, tomogram, gate=str(gate))
    open_gate(gate)
    async with open_desk(tmp_path / "yours", url=server.url, token=server.token()) as desk:
        await until(lambda: desk.jobs.items and ended(desk.jobs.items[0]), desk.jobs.added, desk.jobs.changed)
    async with open_desk(tmp_path / "mine") as desk:
        heard = []
        desk.jobs.ended.connect(heard.append)
        await connect(desk, server.url, server.token())
        await until(lambda: heard, desk.jobs.ended)
        assert heard[0].record.artifacts


async def test_jobs_of_another_engine_stay_in_the_list_and_are_out_of_reach(desk, server, tmp_path, tomogram):
    item = await submitted(desk, tomogram)
    await item_until(desk, item, ended)
    async with servers.open_test_server(tmp_path / "other") as other:
        await connect(desk, other.url, other.token())
        mine = await submitted(desk, tomogram)
        assert (item.reachable, mine.reachable) == (False, True)
        assert set(desk.jobs.items) == {item, mine}
        assert item.folder.parent != mine.folder.parent
        await connect(desk, server.url, server.token())
        assert (item.reachable, mine.reachable) == (True, False)
        await desk.jobs.delete_local(mine)
        assert desk.jobs.items == (item,)


async def test_a_job_that_the_engine_has_lost_is_out_of_reach(process, tmp_path, tomogram, gate, monkeypatch):
    monkeypatch.setattr(following, "INTERVAL", 0.2)
    async with open_desk(tmp_path / "mine", url=process.url, token=process.token()) as desk:
        item = await submitted(desk, tomogram)
        await item_until(desk, item, ended)
        process.kill()
        (process.data_dir / "cryomamba.sqlite").unlink()
        shutil.rmtree(process.data_dir / "jobs")
        await trio.to_thread.run_sync(process.restart)
        await connect(desk, process.url, process.token())
        await item_until(desk, item, lambda item: item.gone)
        assert not item.reachable
        await desk.jobs.delete_local(item)
        assert desk.jobs.items == ()


async def test_this_computer_is_an_engine_like_any_other(tmp_path, tomogram, gate):
    async with open_desk(tmp_path / "mine", url="local:") as desk:
        item = await submitted(desk, tomogram, gate=str(gate))
        await item_until(desk, item, lambda item: item.preview is not None)
        assert item.record.config.source == Source(path=str(tomogram))
    async with open_desk(tmp_path / "mine", url="local:") as desk:
        await until(lambda: desk.jobs.items, desk.jobs.added)
        [again] = desk.jobs.items
        await item_until(desk, again, lambda item: item.reachable and running(item))
        assert (again.id, again.path) == (item.id, tomogram)
        open_gate(gate)
        await item_until(desk, again, ended)
        assert (await desk.jobs.fetch(again)).is_file()


async def test_a_listener_that_fails_hinders_nobody(desk, tomogram):
    def fail(_):
        raise RuntimeError("a slot is broken")

    desk.jobs.changed.connect(fail)
    with hearing(desk.jobs.ended) as heard:
        item = await submitted(desk, tomogram)
        with trio.fail_after(engines.DEADLINE):
            await heard()
    assert item.state is JobState.COMPLETED
    assert any("a slot is broken" in entry.text for entry in desk.journal.entries)


async def test_a_state_that_is_heard_again_sets_nothing_back(desk, tomogram):
    item = await submitted(desk, tomogram)
    await item_until(desk, item, ended)
    created = item.record.created_at
    desk.jobs.hear(item, StateChanged(seq=1, at=created, state=JobState.QUEUED, attempt=0))
    assert item.state is JobState.COMPLETED

"""Files on their way to a job: sent, planned, paused, cut off, and never twice."""

import engines
import httpx
import pytest
import servers
import trio
from attrs import evolve
from desks import connect, item_until, open_desk, steps, until
from proxies import open_proxy

from cryomamba_core.errors import ServerUnreachable
from cryomamba_core.jobs import JobState, Source
from cryomamba_gui.desk.submission import SubmissionState

MIB = 1 << 20
PART = MIB
#: Headers, control requests and questions of the link.
OVERHEAD = 96 << 10


@pytest.fixture
async def server(tmp_path):
    async with servers.open_test_server(tmp_path / "server", part_size=PART) as server:
        yield server


@pytest.fixture
async def desk(server, tmp_path):
    async with open_desk(tmp_path / "mine", url=server.url, token=server.token()) as desk:
        yield desk


def prepare(desk, path, *, auto=False, **params):
    return desk.jobs.outbox.prepare(path, steps(**params), auto=auto)


async def state_of(submission, *states):
    """Wait until a submission is in one of some states."""
    await until(lambda: submission.state in states or submission.state is SubmissionState.FAILED, submission.changed)
    assert submission.state in states, submission.error


async def uploads_of(server):
    """What the server's store knows of uploads that are not complete."""
    from cryomamba_server.engine.schema import uploads

    def look(database):
        with database.reading() as connection:
            return [row for row in connection.execute(uploads.select()).mappings() if row["file_id"] is None]

    engine = server.services.engine
    return await engine.ledger.call(look, engine.database)


async def received(server):
    """Numbers of the parts that the server has of its only upload."""
    [upload] = await uploads_of(server)
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers()) as client:
        return (await client.get(f"/v1/uploads/{upload['id']}")).json()["received"]


async def jobs_on(server):
    return await server.services.engine.jobs(owner="ada")


async def test_a_file_is_sent_and_planned_and_waits_for_a_word(desk, server, tomogram):
    submission = prepare(desk, tomogram)
    assert desk.jobs.outbox.items == [submission]
    await state_of(submission, SubmissionState.READY)
    assert submission.plan.run.tiles == engines.SHAPE[0]
    assert submission.sent == submission.total == tomogram.stat().st_size
    assert not await jobs_on(server)
    submission.submit()
    await state_of(submission, SubmissionState.SUBMITTED)
    assert desk.jobs.items == (submission.item,)
    assert submission.item.path == tomogram
    assert submission.item.name == "a.npy"
    assert desk.jobs.outbox.items == []
    assert desk.history.job_path(submission.item.id) == tomogram
    assert not desk.history.submissions
    assert len(await jobs_on(server)) == 1


async def test_a_word_that_comes_early_is_heard(desk, tomogram):
    submission = prepare(desk, tomogram)
    submission.submit()
    await state_of(submission, SubmissionState.SUBMITTED)


async def test_several_files_are_on_their_way_at_once(desk, tmp_path):
    paths = [engines.make_tomogram(tmp_path / f"{number}.npy", seed=number) for number in range(5)]
    submissions = [prepare(desk, path, auto=True) for path in paths]
    for submission in submissions:
        await state_of(submission, SubmissionState.SUBMITTED)
    assert {submission.item.path for submission in submissions} == set(paths)
    assert len(desk.jobs.items) == 5


async def test_what_is_asked_for_can_be_changed_without_sending_the_file_again(server, tmp_path, write_npy):
    path = write_npy(3 * PART)
    async with (
        open_proxy(server.url) as proxy,
        open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk,
    ):
        submission = prepare(desk, path)
        await state_of(submission, SubmissionState.READY)
        before, key = proxy.sent, submission.key
        submission.revise(evolve(steps(depth=2), voxel_size=(5.0, 5.0, 5.0)))
        assert submission.plan is None
        await state_of(submission, SubmissionState.READY)
        assert proxy.sent - before < OVERHEAD
        assert submission.key != key
        submission.submit()
        await state_of(submission, SubmissionState.SUBMITTED)
        assert submission.item.record.config.params["depth"] == 2
        assert submission.item.record.config.label == path.name


async def test_an_upload_is_paused_and_goes_on_without_sending_anything_twice(server, tmp_path, write_npy):
    path = write_npy(8 * PART)
    async with (
        open_proxy(server.url) as proxy,
        open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk,
    ):
        submission = prepare(desk, path, auto=True)
        await until(lambda: submission.sent > 4 * PART, submission.changed)
        assert submission.total == 8 * PART
        submission.pause()
        assert submission.state is SubmissionState.PAUSED
        assert submission.rate is None
        there = await received(server)
        assert len(there) >= 2
        before = proxy.sent
        submission.resume()
        await state_of(submission, SubmissionState.SUBMITTED)
        assert proxy.sent - before <= (8 - len(there)) * PART + OVERHEAD
        assert submission.known >= len(there) * PART


async def test_the_rate_and_the_time_that_is_left_are_known(server, tmp_path, write_npy):
    path = write_npy(8 * PART)
    async with (
        open_proxy(server.url) as proxy,
        open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk,
    ):
        proxy.rate = 4 * MIB
        submission = prepare(desk, path)
        await until(lambda: submission.eta_seconds, submission.changed)
        assert submission.eta_seconds == pytest.approx((submission.total - submission.sent) / submission.rate)
        proxy.rate = None
        await state_of(submission, SubmissionState.READY)
        assert submission.rate is None


async def test_an_upload_that_is_given_up_leaves_nothing_to_do(server, tmp_path, write_npy):
    path = write_npy(8 * PART)
    async with (
        open_proxy(server.url) as proxy,
        open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk,
    ):
        submission = prepare(desk, path, auto=True)
        await until(lambda: submission.sent > 2 * PART, submission.changed)
        assert desk.history.submissions
        submission.cancel()
        assert submission.state is SubmissionState.CANCELED
        assert desk.jobs.outbox.items == []
        assert not desk.history.submissions
        submission.resume()
        submission.submit()
        assert submission.state is SubmissionState.CANCELED
    assert not await jobs_on(server)


async def test_an_answer_that_is_lost_makes_no_second_job(server, tmp_path, tomogram):
    async with (
        open_proxy(server.url) as proxy,
        open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk,
    ):
        submission = prepare(desk, tomogram)
        await state_of(submission, SubmissionState.READY)
        submission.submit()
        fault = proxy.fail("cut", up=False)
        await state_of(submission, SubmissionState.SUBMITTED)
        assert fault.struck
        assert len(await jobs_on(server)) == 1
        assert desk.jobs.items == (submission.item,)


async def test_a_desktop_that_is_closed_before_the_answer_finds_the_job_by_its_key(server, tmp_path, tomogram):
    async with open_proxy(server.url) as proxy:
        async with open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk:
            submission = prepare(desk, tomogram)
            await state_of(submission, SubmissionState.READY)
            submission.submit()
            proxy.fail("cut", up=False)
            proxy.refusing = True
            with trio.fail_after(engines.DEADLINE):
                while not await jobs_on(server):
                    await trio.sleep(0.01)
            assert submission.state is SubmissionState.SUBMITTING
        proxy.refusing = False
        async with open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk:
            [again] = desk.jobs.outbox.items
            assert (again.state, again.path, again.asked) == (SubmissionState.PAUSED, tomogram, True)
            await until(lambda: desk.jobs.items, desk.jobs.added)
            again.resume()
            await state_of(again, SubmissionState.SUBMITTED)
            [job] = await jobs_on(server)
            assert again.item.id == job.id
            assert desk.jobs.items == (again.item,)
            assert again.item.path == tomogram


async def test_a_desktop_that_is_closed_during_an_upload_offers_to_go_on(server, tmp_path, write_npy):
    path = write_npy(8 * PART)
    async with open_proxy(server.url) as proxy:
        async with open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk:
            submission = prepare(desk, path, auto=True)
            await until(lambda: submission.sent > 4 * PART, submission.changed)
        await proxy.until_idle()
        there, before = len(await received(server)), proxy.sent
        async with open_desk(tmp_path / "mine") as desk:
            [again] = desk.jobs.outbox.items
            assert (again.state, again.path, again.auto) == (SubmissionState.PAUSED, path, True)
            again.resume()
            assert again.waiting
            await connect(desk, proxy.url, server.token())
            await state_of(again, SubmissionState.SUBMITTED)
        assert proxy.sent - before <= (8 - there) * PART + OVERHEAD
        assert len(await jobs_on(server)) == 1


async def test_a_server_that_is_lost_during_an_upload_is_waited_for(tmp_path, write_npy):
    path = write_npy(12 * PART)
    arguments = {"environment": {"CRYOMAMBA_SERVE_PART_SIZE": str(PART)}}
    with servers.ServerProcess(tmp_path / "server", **arguments) as process:
        async with (
            open_proxy(process.url) as proxy,
            open_desk(tmp_path / "mine", url=proxy.url, token=process.token()) as desk,
        ):
            proxy.rate = 4 * MIB
            submission = prepare(desk, path, auto=True)
            await until(lambda: submission.sent > 4 * PART, submission.changed)
            process.kill()
            await until(lambda: submission.waiting, submission.changed)
            assert submission.state is SubmissionState.UPLOADING
            assert submission.rate is None
            await trio.to_thread.run_sync(process.restart)
            proxy.rate = None
            await state_of(submission, SubmissionState.SUBMITTED)
            await item_until(desk, submission.item, lambda item: item.state.ended)
            assert submission.item.state is JobState.COMPLETED
            assert proxy.sent < 12 * PART + 6 * PART


async def test_another_engine_does_not_get_what_is_on_its_way_to_this_one(desk, server, tmp_path, write_npy):
    path = write_npy(6 * PART)
    async with servers.open_test_server(tmp_path / "other", part_size=PART) as other, open_proxy(server.url) as proxy:
        await connect(desk, proxy.url, server.token())
        proxy.rate = MIB
        submission = prepare(desk, path, auto=True)
        await until(lambda: submission.sent > PART, submission.changed)
        await connect(desk, other.url, other.token())
        assert submission.waiting
        proxy.rate = None
        await connect(desk, proxy.url, server.token())
        await state_of(submission, SubmissionState.SUBMITTED)
        assert not await jobs_on(other)
        assert len(await jobs_on(server)) == 1


async def test_a_file_that_no_reader_takes_fails_with_a_reason_and_is_forgotten(desk, server, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY")
    submission = prepare(desk, path, auto=True)
    await state_of(submission, SubmissionState.FAILED)
    assert submission.error.code == "input/truncated-file"
    assert submission.error.hint
    assert not desk.history.submissions
    engines.make_tomogram(path)
    submission.resume()
    await state_of(submission, SubmissionState.SUBMITTED)
    assert submission.error is None


async def test_a_file_that_is_gone_fails_with_a_reason(desk, tmp_path):
    submission = prepare(desk, tmp_path / "gone.npy")
    await state_of(submission, SubmissionState.FAILED)
    assert submission.error.code.startswith("input/")
    assert "gone.npy" in submission.error.message
    assert submission.error.hint


async def test_a_refused_plan_says_why_and_another_one_is_made(desk, tomogram):
    submission = prepare(desk, tomogram)
    submission.revise(evolve(steps(), params={"no_such": 1}))
    await state_of(submission, SubmissionState.FAILED)
    assert submission.error.code == "input/invalid-parameter"
    submission.revise(steps())
    await state_of(submission, SubmissionState.READY)
    assert submission.error is None


async def test_the_engine_of_this_computer_opens_the_file_where_it_lies(tmp_path, tomogram):
    async with open_desk(tmp_path / "mine", url="local:") as desk:
        submission = prepare(desk, tomogram)
        await state_of(submission, SubmissionState.READY)
        assert submission.plan.run.tiles == engines.SHAPE[0]
        assert submission.config.source == Source(path=str(tomogram))
        assert submission.sent == 0
        submission.submit()
        await state_of(submission, SubmissionState.SUBMITTED)
        await item_until(desk, submission.item, lambda item: item.state.ended)


async def test_the_command_of_this_computer_names_a_data_directory_that_is_not_the_usual_one(tmp_path, tomogram):
    async with open_desk(tmp_path / "mine", url="local:") as desk:
        submission = prepare(desk, tomogram)
        beginning = f"cryomamba --data-dir {tmp_path / 'mine'} segment {tomogram} "
        assert submission.command.startswith(beginning)
        await state_of(submission, SubmissionState.READY)
        submission.submit()
        await state_of(submission, SubmissionState.SUBMITTED)
        assert submission.item.command.startswith(beginning)


async def test_without_an_engine_nothing_can_be_prepared(tmp_path, tomogram):
    async with open_desk(tmp_path / "mine") as desk:
        with pytest.raises(ServerUnreachable, match="no engine"):
            prepare(desk, tomogram)

"""Where queued jobs stand, as their owners see it."""

import time
from datetime import UTC, datetime

import engines
import pytest
import servers
import trio
from attrs import evolve
from rich.console import Console
from terminals import wait_for_line

from cryomamba_backends.http_transport.transport import HttpTransport
from cryomamba_core import wording
from cryomamba_core.cli import places
from cryomamba_core.cli.boards import LineBoard, LiveBoard
from cryomamba_core.cli.places import keep_places
from cryomamba_core.cli.rows import Row
from cryomamba_core.errors import ServerUnreachable
from cryomamba_core.events import StateChanged
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.settings import Settings
from cryomamba_server.http.access.gate import Gate


@pytest.mark.parametrize(
    ("position", "seconds", "words"),
    [
        (None, None, ""),
        (None, 5.0, ""),
        (0, None, "next"),
        (0, 146.0, "next, in about 2:26"),
        (1, None, "after 1 job"),
        (3, 20.4, "after 3 jobs, in about 20 s"),
        (0, 0.0, "next"),
    ],
)
def test_a_place_in_the_queue_is_said_in_words(position, seconds, words):
    assert wording.place(position, seconds) == words


def queued(position, starts_in):
    row = Row(name="a.mrc", state="queued", job_id="1")
    row.position, row.starts_in, row.placed_at = position, starts_in, time.monotonic()
    return row


def test_the_expected_start_is_counted_down_and_ends_at_nought():
    row = queued(0, 146.0)
    row.placed_at -= 100
    assert row.stage == "next, in about 46 s"
    row.placed_at -= 100
    assert row.stage == "next"


def test_the_place_outlives_the_event_that_says_that_a_job_is_queued_and_ends_with_a_lost_worker():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    row = queued(2, 30.0)
    row.take_event(StateChanged(seq=1, at=at, state=JobState.QUEUED, attempt=0))
    assert row.stage == "after 2 jobs, in about 30 s"
    row.take_event(StateChanged(seq=2, at=at, state=JobState.RUNNING, attempt=1))
    assert row.place == ""
    row.take_event(StateChanged(seq=3, at=at, state=JobState.QUEUED, attempt=1))
    assert row.place == ""


def test_a_live_table_shows_the_place_and_lines_show_it_when_it_is_known_and_when_it_is_the_next():
    row = queued(2, 30.0)
    console = Console(width=100, height=30, force_terminal=True)
    with console.capture() as capture:
        console.print(LiveBoard(console, [row])._table())
    assert "after 2 jobs, in about 30 s" in capture.get()
    console = Console(width=100)
    with console.capture() as capture:
        board = LineBoard(console)
        for position in (2, 2, 1, 0, 0):
            row.position = position
            board.changed(row)
    lines = capture.get().splitlines()
    assert lines == ["a.mrc: queued as job 1", "a.mrc: after 2 jobs, in about 30 s", "a.mrc: next, in about 30 s"]


def test_lines_say_nothing_of_the_place_of_a_job_that_is_about_to_run():
    console = Console(width=100)
    with console.capture() as capture:
        LineBoard(console).changed(queued(0, None))
    assert capture.get().splitlines() == ["a.mrc: queued as job 1"]


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


@pytest.mark.trio
async def test_one_request_tells_all_rows_where_they_stand(tmp_path, monkeypatch, own_folders):
    asked, admit = [], Gate.admit

    def watch(self, route, request):
        asked.append(f"{route.method} {route.rule}")
        return admit(self, route, request)

    gate = tmp_path / "gate"
    gate.mkdir()
    changed, console = trio.Event(), Console()

    class Board(LineBoard):
        def changed(self, row):
            changed.set()

    async with servers.open_test_server(tmp_path / "data") as server:
        transport = HttpTransport(Settings())
        async with transport.open(server.url, Credentials(token=server.token())) as session:
            sent = await session.upload(engines.make_tomogram(tmp_path / "a.npy"))
            config = JobConfig(source=Source(file_id=sent.id), runner="steps", params={"gate": str(gate)})
            jobs = [await session.submit(evolve(config, label=str(number))) for number in range(4)]
            rows = [Row(name=job.config.label, state="queued", job_id=job.id) for job in jobs]
            with trio.fail_after(engines.DEADLINE):
                while (await session.job(jobs[0].id)).state is JobState.QUEUED:
                    await trio.sleep(0.05)
            rows[0].state = "running"
            monkeypatch.setattr(places, "INTERVAL", 0.01)
            monkeypatch.setattr(Gate, "admit", watch)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_places, session, rows, Board(console))
                await changed.wait()
                nursery.cancel_scope.cancel()
            assert [row.position for row in rows] == [None, 0, 1, 2]
            assert asked == ["GET /v1/jobs"]
            for job in jobs:
                await session.cancel(job.id)


@pytest.mark.trio
async def test_nobody_is_asked_while_no_job_waits_and_a_failed_question_is_asked_again(monkeypatch, autojump_clock):
    asked = []

    class Session:
        async def job(self, job_id):
            asked.append(job_id)
            raise ServerUnreachable("nobody is there")

    row = Row(name="a", state="running", job_id="1")
    with trio.move_on_after(100):
        await keep_places(Session(), [row], LineBoard(Console()))
    assert asked == []
    row.state = "queued"
    with trio.move_on_after(100):
        await keep_places(Session(), [row], LineBoard(Console()))
    assert 3 <= len(asked) <= 6


def test_show_says_where_a_job_stands(process, cryomamba, gated, tmp_path):
    words, gate = gated
    engines.make_tomogram(tmp_path / "other.npy")
    running = process("segment", "slow.npy", *words[1:], "--out", "OUT")
    wait_for_line(running.stderr, "slow.npy: running")
    second = process("segment", "other.npy", *words[1:], "--out", "OTHER")
    wait_for_line(second.stderr, "queued as job")
    jobs = cryomamba("jobs", "list", "--json").json["jobs"]
    waiting = jobs[0]["id"]
    shown = cryomamba("jobs", "show", waiting)
    assert [line.split() for line in shown.out.splitlines() if "queue " in line] == [["queue", "next"]]
    engines.open_gate(gate)
    for each in (running, second):
        each.communicate(timeout=engines.DEADLINE)
        assert each.returncode == 0

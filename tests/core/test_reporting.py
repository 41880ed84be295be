"""What a worker says of its progress, and when: by a clock that a test turns, and by a heart that beats."""

import errno
import threading

import pytest

from cryomamba_core.errors import ErrorInfo
from cryomamba_core.events import Completed, Failed, Progress, StateChanged
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.worker import reporting
from cryomamba_core.worker.reporting import PROGRESS_INTERVAL, EventLog, Heart

#: Seconds after which a test gives up waiting; nothing takes so long, even on a busy machine.
DEADLINE = 60.0
SPEC = JobSpec(
    job_id="j",
    config=JobConfig(source=Source(path="/a.mrc"), runner="threshold"),
    source="/a.mrc",
    source_name="a.mrc",
    grid=VoxelGrid(shape=(2, 3, 4), voxel_size=(10, 10, 10)),
    device="cpu",
)


class Clock:
    """Stands still until it is turned."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def go_on(self, seconds):
        self.now += seconds


class HeardDirectory(JobDirectory):
    """Lets a test wait for the next event, and refuses events while the disk is full."""

    def __init__(self, path):
        super().__init__(path)
        self.appended = threading.Semaphore(0)
        self.full = False

    def append_event(self, event):
        if self.full:
            raise OSError(28, "No space left on device")
        super().append_event(event)
        self.appended.release()


@pytest.fixture
def directory(tmp_path):
    directory = HeardDirectory(tmp_path / "job")
    directory.begin_attempt(SPEC)
    return directory


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(directory, clock):
    return EventLog(directory, attempt=1, clock=clock)


def events_of(directory):
    return [event for event, _ in directory.events()]


def said(directory):
    """Stage and done units of each report of progress."""
    reports = [event.progress for event in events_of(directory) if isinstance(event, Progress)]
    return [(report.stage, report.done) for report in reports]


def test_the_newest_report_is_said_once_the_last_word_is_old_enough(directory, log, clock):
    for done in range(4):
        log.progress("segmenting", done, 10, "tiles")
    assert said(directory) == [("segmenting", 0)]
    clock.go_on(0.9 * PROGRESS_INTERVAL)
    log.catch_up()
    assert said(directory) == [("segmenting", 0)]
    clock.go_on(0.2 * PROGRESS_INTERVAL)
    log.catch_up()
    log.catch_up()
    assert said(directory) == [("segmenting", 0), ("segmenting", 3)]


def test_time_left_is_as_it_was_when_the_report_came(directory, log, clock):
    log.expect_afterwards(7.0)
    log.progress("segmenting", 0, 10, "tiles")
    clock.go_on(0.4 * PROGRESS_INTERVAL)
    log.progress("segmenting", 1, 10, "tiles")
    clock.go_on(PROGRESS_INTERVAL)
    log.catch_up()
    eta = events_of(directory)[-1].progress.eta_seconds
    assert eta == pytest.approx(0.4 * PROGRESS_INTERVAL * 9 + 7.0)  # 9 tiles, and what follows them


def test_time_left_of_what_follows_the_labels_is_of_its_own_pace(directory, log, clock):
    log.expect_afterwards(7.0)
    log.progress("measuring", 0, 10, "sections")
    clock.go_on(2 * PROGRESS_INTERVAL)
    log.progress("measuring", 4, 10, "sections")
    eta = events_of(directory)[-1].progress.eta_seconds
    assert eta == pytest.approx(PROGRESS_INTERVAL / 2 * (6 + 10))  # 6 sections, and exporting takes as long as all 10


def test_a_report_that_was_held_back_makes_the_next_one_wait(directory, log, clock):
    log.progress("segmenting", 0, 10, "tiles")
    log.progress("segmenting", 1, 10, "tiles")
    clock.go_on(PROGRESS_INTERVAL)
    log.catch_up()
    log.progress("segmenting", 2, 10, "tiles")
    assert said(directory) == [("segmenting", 0), ("segmenting", 1)]


@pytest.mark.parametrize(("stage", "done"), [("segmenting", 10), ("measuring", 0)], ids=["the end", "another stage"])
def test_what_is_said_at_once_takes_the_place_of_what_was_held_back(directory, log, clock, stage, done):
    log.progress("segmenting", 0, 10, "tiles")
    log.progress("segmenting", 1, 10, "tiles")
    log.progress(stage, done, 10, "units")
    clock.go_on(PROGRESS_INTERVAL)
    log.catch_up()
    assert said(directory) == [("segmenting", 0), (stage, done)]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (lambda log: log.completed(()), Completed),
        (lambda log: log.failed(ErrorInfo(code="c", message="m")), Failed),
        (lambda log: log.state(JobState.CANCELED), StateChanged),
    ],
    ids=["completed", "failed", "canceled"],
)
def test_nothing_comes_after_the_end(directory, log, clock, end, kind):
    log.progress("segmenting", 0, 10, "tiles")
    log.progress("segmenting", 1, 10, "tiles")
    end(log)
    clock.go_on(PROGRESS_INTERVAL)
    log.catch_up()
    log.progress("segmenting", 2, 10, "tiles")
    assert [type(event) for event in events_of(directory)] == [Progress, kind]


def test_another_state_lets_the_report_that_was_held_back_come(directory, log, clock):
    log.progress("segmenting", 0, 10, "tiles")
    log.progress("segmenting", 1, 10, "tiles")
    log.state(JobState.PREVIEWING)
    clock.go_on(PROGRESS_INTERVAL)
    log.catch_up()
    assert [event.seq for event in events_of(directory)] == [1, 2, 3]
    assert said(directory) == [("segmenting", 0), ("segmenting", 1)]


def test_a_report_that_cannot_be_written_later_does_not_stop_the_heart(directory, log, clock, caplog):
    log.progress("segmenting", 0, 10, "tiles")
    log.progress("segmenting", 1, 10, "tiles")
    clock.go_on(PROGRESS_INTERVAL)
    directory.full = True
    log.catch_up()
    assert "progress cannot be written" in caplog.text
    directory.full = False
    log.progress("segmenting", 2, 10, "tiles")
    clock.go_on(PROGRESS_INTERVAL)
    log.catch_up()
    assert said(directory) == [("segmenting", 0), ("segmenting", 2)]


def test_a_heart_goes_on_where_a_beat_was_not_possible(directory, monkeypatch):
    monkeypatch.setattr(reporting, "BEAT_INTERVAL", 0.0)
    beat, beaten = JobDirectory.beat, threading.Semaphore(0)

    def beat_on_a_share(its):
        beaten.release()
        if len(broken) < 2:
            broken.append(its)
            raise OSError(errno.ESTALE, "Stale file handle")
        beat(its)

    with Heart(directory, EventLog(directory, attempt=1)):
        broken = []
        monkeypatch.setattr(JobDirectory, "beat", beat_on_a_share)
        for _ in range(4):
            assert beaten.acquire(timeout=DEADLINE)
    assert len(broken) == 2


def test_a_heart_says_what_was_held_back_while_the_worker_is_busy(directory):
    log = EventLog(directory, attempt=1)
    with Heart(directory, log):
        log.progress("segmenting", 0, 10, "tiles")
        log.progress("segmenting", 1, 10, "tiles")
        for _ in range(2):
            assert directory.appended.acquire(timeout=DEADLINE)
        assert said(directory) == [("segmenting", 0), ("segmenting", 1)]


def test_events_of_several_threads_are_numbered_in_the_order_in_which_they_are_written(directory, log, clock):
    def report(stage):
        for done in range(50):
            clock.go_on(PROGRESS_INTERVAL)
            log.progress(stage, done, 50, "units")
            log.catch_up()

    threads = [threading.Thread(target=report, args=[stage]) for stage in ("segmenting", "measuring")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [event.seq for event in events_of(directory)]
    assert numbers == list(range(1, len(numbers) + 1))

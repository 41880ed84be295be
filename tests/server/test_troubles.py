"""Which troubles pass, and how long they are waited for. The clock is a mock."""

import errno

import pytest
import trio

from cryomamba_core.errors import MissingFile, StorageDamaged, StorageError, StorageFull, WorkerDied
from cryomamba_server.engine.supervision import _told
from cryomamba_server.engine.troubles import LONGEST_PAUSE, PATIENCE, anything, insist, is_shortage, may_pass


def caused(error, number):
    """An error of ours that comes of one of the operating system."""
    try:
        try:
            raise OSError(number, "words of the system")
        except OSError as cause:
            raise error from cause
    except type(error) as made:
        return made


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
def test_a_shortage_is_known_through_whatever_it_caused(number):
    assert is_shortage(OSError(number, "x"))
    for error in (StorageError("x"), WorkerDied("x"), MissingFile("x"), StorageDamaged("x")):
        assert is_shortage(caused(error, number))
    assert is_shortage(ExceptionGroup("x", [ValueError(), OSError(number, "x")]))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")], ids=str)
def test_what_python_has_other_names_for_is_known_too(error):
    assert is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "x"),
        OSError(errno.ENOSPC, "x"),
        StorageFull("x"),
        StorageDamaged("x"),
        MissingFile("x"),
        RuntimeError("x"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_what_does_not_pass_is_raised_at_once(error):
    assert not may_pass(error)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), StorageError("the bucket does not answer")], ids=str)
def test_a_hitch_may_pass_and_is_no_shortage(error):
    assert may_pass(error)
    assert not is_shortage(error)


class Failing:
    """Fails for some seconds."""

    def __init__(self, error, seconds):
        self.error, self.end, self.calls = error, trio.current_time() + seconds, 0

    def __call__(self):
        self.calls += 1
        if trio.from_thread.run_sync(trio.current_time) < self.end:
            raise self.error
        return "done"


async def test_a_shortage_is_waited_for_as_long_as_it_takes(autojump_clock, caplog):
    failing, told = Failing(OSError(errno.EMFILE, "x"), 10 * PATIENCE), []
    assert await insist(failing, what="it has to wait", on_trouble=lambda: told.append(1)) == "done"
    assert len(told) == failing.calls - 1 <= 20 + 10 * PATIENCE / LONGEST_PAUSE
    assert [record.getMessage() for record in caplog.records] == ["it has to wait: [Errno 24] x; trying again"]


async def test_a_hitch_is_waited_for_and_a_broken_disk_is_not(autojump_clock):
    assert await insist(Failing(OSError(errno.EIO, "x"), PATIENCE / 2), what="") == "done"
    with pytest.raises(OSError, match="x"):
        await insist(Failing(OSError(errno.EIO, "x"), 3 * PATIENCE), what="")


async def test_what_must_be_done_is_tried_until_it_is(autojump_clock):
    assert await insist(Failing(KeyError("x"), 9 * PATIENCE), what="", worth=anything, patience=10 * PATIENCE) == "done"
    with pytest.raises(KeyError):
        await insist(Failing(KeyError("x"), 1), what="")


def test_users_are_not_told_the_servers_folders():
    info = _told(OSError(errno.EIO, "Input/output error", "/srv/cryomamba/jobs/1/events.jsonl"))
    assert (info.code, info.message) == ("storage/error", "the job's files could not be used: input/output error")
    assert _told(OSError(errno.ENOSPC, "x", "/srv")).code == "storage/full"
    assert _told(ZeroDivisionError("x")).code == "internal/fault"

"""What went wrong, as it is shown."""

from pathlib import Path

import pytest
import trio

from cryomamba_core.errors import ServerUnreachable, StorageFull
from cryomamba_gui.desk.troubles import MOST


def test_an_error_of_ours_keeps_its_code_and_its_hint(troubles, journal):
    heard = []
    troubles.raised.connect(heard.append)
    trouble = troubles.report(StorageFull("no space is left", hint="free some"), what="saving a.mrc")
    assert (trouble.error.code, trouble.error.message, trouble.error.hint) == (
        "storage/full",
        "no space is left",
        "free some",
    )
    assert trouble.what == "saving a.mrc"
    assert heard == [trouble] == list(troubles.items)
    assert journal.entries[-1].text == "saving a.mrc: [storage/full] no space is left"


def test_what_nobody_expected_has_its_traceback_in_the_details(troubles):
    with troubles.catching("dividing"):
        raise ZeroDivisionError("one by nought")
    [trouble] = troubles.items
    assert trouble.error.code == "internal/fault"
    assert "Traceback" in trouble.details
    assert "test_troubles.py" in trouble.details
    assert "Traceback" not in repr(trouble)


def test_errors_of_a_group_come_one_by_one(troubles):
    with troubles.catching("sending"):
        raise ExceptionGroup("", [OSError(5, "bad disk"), ExceptionGroup("", [ServerUnreachable("gone")])])
    assert [trouble.error.code for trouble in troubles.items] == ["internal/fault", "server/unreachable"]


def test_an_interrupt_goes_on(troubles):
    with pytest.raises(KeyboardInterrupt), troubles.catching("waiting"):
        raise KeyboardInterrupt
    assert troubles.items == ()


async def test_a_cancellation_goes_on_and_what_came_with_it_is_kept(troubles):
    async def fail():
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("cannot be closed")

    async with trio.open_nursery() as nursery:
        with troubles.catching("leaving"):
            async with trio.open_nursery() as inner:
                inner.start_soon(fail)
                inner.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                await trio.sleep_forever()
    assert nursery.cancel_scope.cancelled_caught
    assert ["cannot be closed" in trouble.error.message for trouble in troubles.items] == [True]


def test_secrets_and_the_home_folder_are_in_no_details(troubles):
    with troubles.catching("asking"):
        raise OSError(f"Bearer opaque-secret of {Path.home()}/tomograms")
    assert "opaque-secret" not in troubles.items[0].details
    assert f"{Path.home()}/tomograms" not in troubles.items[0].details
    assert "~/tomograms" in troubles.items[0].details


def test_the_newest_are_kept_and_can_be_dismissed(troubles):
    for number in range(MOST + 1):
        troubles.report(OSError(str(number)), what="x")
    assert len(troubles.items) == MOST
    last, changes = troubles.items[-1], []
    troubles.changed.connect(lambda: changes.append(len(troubles.items)))
    troubles.dismiss(last)
    troubles.dismiss(last)
    troubles.clear()
    assert changes == [MOST - 1, 0]


def test_a_listener_that_raises_harms_nobody(troubles, journal):
    def broken(_):
        raise ZeroDivisionError("one by nought")

    troubles.raised.connect(broken)
    troubles.report(OSError("x"), what="y")
    assert len(troubles.items) == 1
    assert "one by nought" in journal.entries[-1].text

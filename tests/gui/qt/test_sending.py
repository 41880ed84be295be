"""Files on their way to a server that takes them in slowly, or not at all."""

import pytest
import servers
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from cryomamba_core.jobs import JobConfig, Source
from cryomamba_gui.desk.submission import SubmissionState
from cryomamba_gui.qt.sending import OnTheirWay

#: Bytes a second of a slow line; a file of 16 MiB takes minutes.
SLOW = 800_000
#: Bytes of a part; what is in one that is not whole when the line is cut is sent again.
PART = 1 << 20


@pytest.fixture
def rows(seat, show, see):
    return look(seat, show, see)


def look(seat, show, see):
    """What stands in a window that has nothing but files on their way."""
    window, rows = QWidget(), OnTheirWay(seat.outbox)
    QVBoxLayout(window).addWidget(rows)
    show(window)
    eyes = see(rows)
    eyes.window = window  # or it is gone
    return eyes


@pytest.fixture
def server(strangers_installed, tmp_path):
    """A server that takes in small parts."""
    with servers.ServerProcess(tmp_path / "served", environment={"CRYOMAMBA_SERVE_PART_SIZE": str(PART)}) as server:
        yield server


@pytest.fixture
def large(tmp_path):
    from seats import make_large

    return make_large(tmp_path / "large.mrc")


@pytest.fixture
def proxy(seat, server, eventually):
    """What stands before the server; the seat is connected through it."""
    listening = seat.put_proxy_before(server)
    eventually(lambda: listening)
    [proxy] = listening
    seat.connect(server, url=proxy.url)
    eventually(lambda: seat.desk.link.connected)
    return proxy


def send(seat, path, *, auto=True):
    config = JobConfig(source=Source(path=str(path)), model="threshold", runner="threshold")
    return seat.outbox.prepare(path, config, auto=auto)


@pytest.fixture
def slow(seat, proxy, large, eventually):
    """A file of which a part has been sent."""
    proxy.rate = SLOW
    submission = send(seat, large)
    eventually(lambda: submission.state is SubmissionState.UPLOADING and submission.sent > 5 * PART)
    return submission


def test_nothing_is_seen_while_nothing_is_on_its_way(rows):
    assert not rows.widget.isVisible()


def test_how_fast_it_is_and_how_long_it_takes_is_said(rows, slow, eventually):
    assert rows.text("sending.name") == "large.mrc"
    eventually(lambda: rows.text("sending.words").endswith(" left"))
    sent, rate, _ = rows.text("sending.words").split(" · ")
    assert sent.startswith("sending ")
    assert sent.endswith(" of 16.8 MB")
    assert rate.endswith("B/s")
    bar = rows.child("sending.bar", QProgressBar)
    assert 0 < bar.value() < bar.maximum()


def test_it_pauses_and_goes_on_with_what_is_missing(rows, seat, slow, proxy, large, eventually):
    rows.click("sending.pause")
    assert slow.state is SubmissionState.PAUSED
    assert rows.child("sending.pause").text() == "Resume"
    assert rows.text("sending.words").startswith("paused · ")
    before = slow.sent
    assert before > 0
    proxy.rate = None
    rows.click("sending.pause")
    eventually(lambda: seat.desk.jobs.items)
    assert not rows.widget.isVisible()
    assert slow.known > 0, "what was there was not sent again"


def test_it_is_given_up(rows, seat, slow, eventually):
    rows.click("sending.cancel")
    assert slow.state is SubmissionState.CANCELED
    eventually(lambda: not rows.widget.isVisible())
    assert seat.outbox.items == []
    assert seat.desk.jobs.items == ()


def test_several_are_on_their_way_and_each_has_its_own_buttons(rows, seat, proxy, large, tmp_path, eventually):
    from seats import make_large

    proxy.rate = SLOW
    first, second = send(seat, large), send(seat, make_large(tmp_path / "second.mrc", seed=9))
    eventually(lambda: first.sent and second.sent)
    shown = {row.accessibleName(): row for row in rows.widget.findChildren(type(rows.child("sending")))}
    row = shown["second.mrc on its way"]
    rows.qtbot.mouseClick(row.findChild(object, "cryomamba.sending.pause"), Qt.MouseButton.LeftButton)
    assert (first.state, second.state) == (SubmissionState.UPLOADING, SubmissionState.PAUSED)


def test_a_file_that_is_refused_says_why_and_can_be_tried_again(rows, seat, proxy, tmp_path, eventually):
    path = tmp_path / "torn.mrc"
    path.write_bytes(b"no tomogram" * 200)
    submission = send(seat, path)
    eventually(lambda: submission.state is SubmissionState.FAILED)
    assert rows.text("sending.words") == "not submitted"
    assert rows.text("sending.error.message").startswith("✕ ")
    assert rows.text("sending.error.hint").startswith("→ ")
    assert rows.child("sending.pause").text() == "Try again"
    from seats import make_mrc

    path.unlink()
    make_mrc(path)
    rows.click("sending.pause")
    eventually(lambda: seat.desk.jobs.items)


def test_a_line_that_is_cut_is_said_and_mends_itself(rows, seat, slow, proxy, eventually):
    proxy.refusing = True
    proxy.cut_all()
    seat.desk.link.retry_now()
    eventually(lambda: "does not answer" in rows.text("sending.words"))
    assert rows.text("sending.words").endswith(" sent")
    proxy.refusing, proxy.rate = False, None
    seat.desk.link.retry_now()
    eventually(lambda: seat.desk.jobs.items)


def test_what_was_on_its_way_when_the_desktop_was_closed_waits_for_a_word(
    seat, take_seat, slow, server, show, see, eventually
):
    seat.close()
    again = take_seat()
    rows = look(again, show, see)
    assert rows.text("sending.name") == "large.mrc"
    assert rows.text("sending.words").startswith("paused · for 127.0.0.1:")
    rows.click("sending.cancel")
    eventually(lambda: not rows.widget.isVisible())
    again.close()
    assert take_seat().outbox.items == []


def test_a_plan_waits_for_a_word(rows, seat, proxy, tmp_path, eventually):
    from seats import make_mrc

    submission = send(seat, make_mrc(tmp_path / "small.mrc"), auto=False)
    eventually(lambda: submission.state is SubmissionState.READY)
    assert rows.text("sending.words") == "planned, and not submitted yet"
    assert not rows.seen("sending.bar")
    assert not rows.seen("sending.pause")
    rows.click("sending.submit")
    eventually(lambda: seat.desk.jobs.items)

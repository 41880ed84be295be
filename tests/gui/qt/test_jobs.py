"""The list of jobs, at a real server."""

import engines
import pytest
from attrs import evolve
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QMessageBox, QTableView

from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.previews import PreviewPolicy
from cryomamba_gui.qt.job_table import FRACTION
from cryomamba_gui.qt.jobs import JobsTab


@pytest.fixture
def tab(seat, show, see):
    return see(show(JobsTab(seat), height=700))


@pytest.fixture
def connected(seat, server, eventually):
    seat.connect(server)
    eventually(lambda: seat.desk.link.connected)
    return seat


@pytest.fixture
def gate(tmp_path):
    """A folder that lets the strangers' runner go on; the first section is open."""
    from seats import make_gate

    return make_gate(tmp_path / "gate", 0)


@pytest.fixture
def submit(connected, tmp_path, eventually):
    """Submit a tomogram that the strangers' runner segments; returns the job."""

    def submit(name="a.npy", **params):
        path = engines.make_tomogram(tmp_path / name)
        config = JobConfig(
            source=Source(path=str(path)),
            model="steps",
            runner="steps",
            params=params,
            preview=PreviewPolicy(interval_seconds=0),
        )
        submission = connected.outbox.prepare(path, config, auto=True)
        eventually(lambda: submission.item or submission.error)
        assert submission.error is None, submission.error
        return submission.item

    return submit


def rows(tab):
    """What stands in the table, its cells in lines."""
    model = tab.child("jobs.table", QTableView).model()
    return [(model.index(row, 0).data(), model.index(row, 1).data()) for row in range(model.rowCount())]


def state(tab, row=0):
    return rows(tab)[row][1]


def pick(tab, row=0, modifier=Qt.KeyboardModifier.NoModifier):
    """Click on a row."""
    view = tab.child("jobs.table", QTableView)
    place = view.visualRect(view.model().index(row, 0)).center()
    tab.qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, modifier, pos=place)


def answer(tab, name):
    """Press a button of the question."""
    box = tab.child("jobs.question", QMessageBox)
    [button] = [button for button in box.buttons() if button.text().replace("&", "") == name]
    tab.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_without_jobs_it_says_where_they_come_from(tab):
    assert tab.text("jobs.nothing") == "There are no jobs yet: segment a tomogram in the tab Segment."
    assert not tab.seen("jobs.table")
    for name in ("show", "cancel", "retry", "copy-command", "forget"):
        assert not tab.child(f"jobs.{name}").isEnabled()


def test_a_job_is_shown_from_the_queue_to_its_end(tab, submit, gate, eventually):
    running = submit("first.npy", gate=str(gate))
    queued = submit("second.npy")
    eventually(lambda: state(tab, 1).startswith("▶ segmenting · 1"))
    assert rows(tab)[0] == ("second.npy\nsteps", "◷ waiting\nnext")
    model = tab.child("jobs.table", QTableView).model()
    assert 0 < model.index(1, 1).data(FRACTION) < 1
    assert model.index(0, 1).data(FRACTION) is None
    engines.open_gate(gate, 1)
    eventually(lambda: state(tab, 1).endswith(" left"))
    engines.open_gate(gate)
    eventually(lambda: running.state is JobState.COMPLETED and queued.state is JobState.COMPLETED)
    eventually(lambda: all(cells[1].startswith("✓ completed\n") for cells in rows(tab)))


def test_a_running_job_is_canceled_and_run_again(tab, submit, gate, eventually):
    item = submit(gate=str(gate))
    eventually(lambda: state(tab).startswith("▶ segmenting"))
    pick(tab)
    assert not tab.child("jobs.retry").isEnabled()
    tab.click("jobs.cancel")
    eventually(lambda: state(tab).startswith("■ canceled"))
    assert not tab.child("jobs.cancel").isEnabled()
    engines.open_gate(gate)
    tab.click("jobs.retry")
    eventually(lambda: item.state is JobState.COMPLETED)
    assert item.record.attempt == 2
    eventually(lambda: state(tab).startswith("✓ completed"))


def test_several_are_canceled_at_once(tab, submit, gate, eventually):
    items = [submit(f"{number}.npy", gate=str(gate)) for number in range(3)]
    pick(tab, 0)
    pick(tab, 2, Qt.KeyboardModifier.ShiftModifier)
    assert tab.child("jobs.details").text() == "3 jobs selected"
    assert not tab.child("jobs.show").isEnabled()
    tab.click("jobs.cancel")
    eventually(lambda: all(item.state is JobState.CANCELED for item in items))


def test_a_failed_job_says_why_and_what_to_do(tab, submit, eventually):
    submit(fault="raises")
    eventually(lambda: state(tab).startswith("✕ failed"))
    pick(tab)
    assert "the stranger cannot go on" in tab.text("jobs.error.message")
    assert tab.text("jobs.error.hint").startswith("→ ")
    assert tab.child("jobs.retry").isEnabled()


def test_details_are_unfolded(tab, submit, tmp_path, eventually):
    item = submit(depth=2)
    eventually(lambda: item.state is JobState.COMPLETED)
    pick(tab)
    assert tab.text("jobs.details") is None
    tab.click("jobs.about.fold")
    said = tab.text("jobs.details")
    assert f"Tomogram: {tmp_path / 'a.npy'}" in said
    assert "depth: 2" in said
    assert "mask.npy" in said
    assert f"Job {item.id}" in said


def test_the_command_that_does_the_same_is_copied(tab, submit, server, tmp_path, eventually):
    item = submit(depth=2)
    eventually(lambda: item.state is JobState.COMPLETED)
    pick(tab)
    tab.click("jobs.copy-command")
    copied = QApplication.clipboard().text()
    assert copied == item.command
    assert copied.startswith(f"cryomamba --server {server.url} segment {tmp_path / 'a.npy'} --model steps")
    assert " --param depth=2" in copied
    assert server.token() not in copied


def test_the_list_survives_the_end_of_the_desktop(seat, take_seat, submit, gate, server, show, see, eventually):
    item = submit(gate=str(gate))
    eventually(lambda: item.progress)
    seat.close()
    again = take_seat()
    tab = see(show(JobsTab(again), height=700))
    eventually(lambda: rows(tab))
    assert rows(tab)[0][0] == "a.npy\nsteps"
    assert state(tab).endswith("\nengine not connected")
    pick(tab)
    assert not tab.child("jobs.cancel").isEnabled()
    again.connect(server)
    eventually(lambda: state(tab).startswith("▶ segmenting"))
    assert tab.child("jobs.cancel").isEnabled()
    engines.open_gate(gate)
    eventually(lambda: state(tab).startswith("✓ completed"))
    [found] = again.desk.jobs.items
    assert found.path == item.path


def test_an_engine_that_is_silent_is_said_and_heard_again(tab, seat, submit, gate, server, eventually):
    submit(gate=str(gate))
    eventually(lambda: state(tab).startswith("▶ segmenting"))
    server.kill()
    seat.desk.link.retry_now()
    eventually(lambda: state(tab).endswith("\nengine not answering"))
    server.restart()
    engines.open_gate(gate)
    seat.desk.link.retry_now()
    eventually(lambda: state(tab).startswith("✓ completed"))


def test_a_job_is_shown_on_its_tomogram(tab, seat, connected, tmp_path, eventually):
    from seats import make_mrc

    path = make_mrc(tmp_path / "cell.mrc")
    config = JobConfig(source=Source(path=str(path)), model="threshold", runner="threshold")
    connected.outbox.prepare(path, config, auto=True)
    eventually(lambda: rows(tab) and state(tab).startswith("✓ completed"))
    pick(tab)
    tab.click("jobs.show")
    eventually(lambda: seat.bench.current and seat.bench.current.mask)
    assert seat.bench.current.path == path
    assert not tab.child("jobs.forget").isEnabled(), "its mask is being edited"


def test_files_are_removed_only_after_a_question(tab, seat, submit, eventually):
    item = submit()
    eventually(lambda: item.state is JobState.COMPLETED and item.folder.exists())
    pick(tab)
    tab.click("jobs.forget")
    answer(tab, "Cancel")
    assert item.folder.exists()
    tab.click("jobs.forget")
    answer(tab, "Remove")
    eventually(lambda: not item.folder.exists())
    assert rows(tab), "the server has it"


def test_many_jobs_come_in_any_order_and_the_selection_stays(tab, seat, submit, eventually):
    item = submit()
    eventually(lambda: item.state is JobState.COMPLETED)
    pick(tab)
    for number in (*range(0, 300, 2), *range(1, 300, 2)):
        record = evolve(item.record, id=f"{number:04}", config=evolve(item.record.config, label=f"{number:04}"))
        seat.desk.jobs.take(item.url, record)
    names = [cells[0].partition("\n")[0] for cells in rows(tab)]
    assert names == [each.name for each in seat.desk.jobs.items]
    assert len(names) == 301
    assert tab.widget.selected == [item]
    for other in seat.desk.jobs.items:
        seat.desk.jobs.take(other.url, evolve(other.record, attempt=5))
    assert tab.widget.selected == [item]
    seat.desk.jobs.lose(seat.desk.jobs.find(item.url, "0100"))
    assert len(rows(tab)) == 300
    assert tab.widget.selected == [item]


def test_the_tab_fits_a_narrow_panel(tab, submit):
    submit()
    pick(tab)
    assert tab.widget.minimumSizeHint().width() <= 320
    for name in ("show", "cancel", "retry", "copy-command", "forget", "refresh"):
        button = tab.child(f"jobs.{name}")
        assert button.width() >= button.minimumSizeHint().width(), name

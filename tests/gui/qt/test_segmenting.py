"""The tab that segments, at a real server."""

import shlex

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QApplication,
    QCheckBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QListWidget,
    QMenu,
    QWidget,
)

from cryomamba_core.jobs import JobState
from cryomamba_gui.desk.submission import SubmissionState
from cryomamba_gui.qt.segmenting import SegmentTab


@pytest.fixture
def tomogram(tmp_path):
    from seats import make_mrc

    return make_mrc(tmp_path / "cell one.mrc")


@pytest.fixture
def other(tmp_path):
    from seats import make_mrc

    return make_mrc(tmp_path / "two.mrc", seed=6)


@pytest.fixture
def tab(seat, show, see):
    return see(show(SegmentTab(seat), height=800))


@pytest.fixture
def ready(tab, seat, server, tomogram, eventually):
    """The tab with a tomogram in it, connected, with the runner that segments anything."""
    add(tab, tomogram)
    seat.connect(server)
    eventually(lambda: seat.desk.link.connected)
    tab.choose("segment.model", "threshold")
    return tab


def add(tab, *paths):
    """Add files by the dialog."""
    tab.click("segment.add")
    dialog = tab.child("segment.dialog", QFileDialog)
    dialog.setDirectory(str(paths[0].parent))
    dialog.selectFile(str(paths[0]))
    dialog.filesSelected.emit([str(path) for path in paths])
    dialog.reject()


def entries(tab):
    """The tomograms, ticked or not."""
    shown = tab.child("segment.files", QListWidget)
    items = [shown.item(row) for row in range(shown.count())]
    return {item.text(): item.checkState() == Qt.CheckState.Checked for item in items}


def pick(tab, row):
    """Make an entry the current one."""
    shown = tab.child("segment.files", QListWidget)
    tab.qtbot.mouseClick(
        shown.viewport(), Qt.MouseButton.LeftButton, pos=shown.visualItemRect(shown.item(row)).center()
    )
    return shown


def jobs(seat):
    """The jobs in order of their names."""
    return sorted(seat.desk.jobs.items, key=lambda item: item.name)


def test_while_nothing_is_connected_it_says_what_to_do(tab, tomogram):
    add(tab, tomogram)
    assert tab.text("segment.advice").startswith("Connect first")
    for name in ("plan", "submit", "copy-command"):
        assert not tab.child(f"segment.{name}").isEnabled()


def test_while_nothing_is_ticked_it_says_what_to_do(ready, seat):
    shown = pick(ready, 0)
    ready.qtbot.keyClick(shown, Qt.Key.Key_Space)
    assert entries(ready) == {"cell one.mrc": False}
    assert ready.text("segment.advice") == "Open a tomogram, or add files, and tick what is to be segmented."
    assert not ready.child("segment.submit").isEnabled()
    ready.qtbot.keyClick(shown, Qt.Key.Key_Space)
    assert ready.text("segment.advice") is None
    assert ready.child("segment.submit").isEnabled()


def test_an_engine_that_refuses_is_said(tab, seat, tomogram, eventually):
    add(tab, tomogram)
    seat.desk.link.connect("lab:8765")
    eventually(lambda: tab.text("segment.advice").startswith("Not connected with lab:8765: "))
    assert not tab.child("segment.submit").isEnabled()


def test_what_it_costs_is_said_before_it_is_submitted(ready, seat, server, tomogram, eventually):
    ready.click("segment.plan")
    eventually(lambda: ready.seen("sending.plan"))
    plan = ready.text("sending.plan")
    assert "on the CPU: " in plan
    assert "of memory" in plan
    assert "on the disk" in plan
    assert "Starts next" in plan
    assert seat.desk.jobs.items == ()
    ready.click("sending.submit")
    eventually(lambda: seat.desk.jobs.items)
    assert not ready.seen("sending")
    assert ready.text("segment.done") == "✓ cell one.mrc is queued: see the tab Jobs."
    [item] = seat.desk.jobs.items
    assert item.path == tomogram
    eventually(lambda: item.state is JobState.COMPLETED)


def test_it_is_submitted_without_a_plan(ready, seat, eventually):
    ready.click("segment.submit")
    eventually(lambda: seat.desk.jobs.items)
    [item] = seat.desk.jobs.items
    assert item.record.config.model == item.record.config.runner == "threshold"
    eventually(lambda: item.state is JobState.COMPLETED)


def test_two_are_submitted_at_once(ready, seat, other, eventually):
    add(ready, other)
    ready.click("segment.submit")
    eventually(lambda: len(seat.desk.jobs.items) == 2)
    assert [item.name for item in jobs(seat)] == ["cell one.mrc", "two.mrc"]
    eventually(lambda: all(item.state is JobState.COMPLETED for item in jobs(seat)))


def test_what_was_planned_is_not_a_second_job(ready, seat, eventually):
    ready.click("segment.plan")
    eventually(lambda: ready.seen("sending.plan"))
    ready.click("segment.submit")
    eventually(lambda: seat.desk.jobs.items)
    assert not seat.outbox.items
    assert len(seat.desk.jobs.items) == 1


def test_a_second_click_is_not_a_second_job(ready, seat, eventually):
    for _ in range(2):
        ready.click("segment.submit")
    [submission] = seat.outbox.items
    eventually(lambda: submission.state is SubmissionState.SUBMITTED)
    assert len(seat.desk.jobs.items) == 1


def test_a_plan_follows_what_is_asked_for(ready, seat, eventually):
    ready.click("segment.plan")
    eventually(lambda: ready.seen("sending.plan"))
    [submission] = seat.outbox.items
    ready.type("form.value", "0.5")
    ready.click("segment.submit")
    eventually(lambda: submission.state is SubmissionState.SUBMITTED)
    assert submission.item.record.config.params == {"value": 0.5, "dark": False}


def test_the_section_that_is_shown_is_taken_where_a_parameter_asks_for_one(ready, seat, tomogram, eventually):
    ready.choose("segment.model", "cryomamba-demo")
    eventually(lambda: ready.seen("form.coarse_first.shown"))
    section = ready.child("form.coarse_first.text", QLineEdit)
    ready.click("form.coarse_first.shown")
    assert section.text() == ""  # no tomogram is open
    seat.bench.open(tomogram)
    eventually(lambda: seat.bench.at(tomogram) is not None)
    stepper = seat.bench.at(tomogram).stage.stepper
    for order, number, named in (((1, 0, 2), 3, "y=3"), ((2, 0, 1), 5, "x=5"), ((0, 1, 2), 2, "z=2")):
        seat.viewer.dims.order = order
        stepper.go_to(number)
        ready.click("form.coarse_first.shown")
        assert section.text() == named
    ready.click("segment.copy-command")
    assert QApplication.clipboard().text().endswith("--param coarse_first=z=2")
    ready.click("form.coarse_first.reset")
    assert section.text() == ""


def test_the_labels_of_the_chosen_model_are_offered(ready, eventually):
    ready.choose("segment.model", "cryomamba-demo")
    eventually(lambda: ready.seen("form.probabilities.labels"))
    menu = ready.child("form.probabilities.menu", QMenu)
    menu.aboutToShow.emit()
    assert [action.text() for action in menu.actions()] == ["all", "membrane", "microtubule", "ribosome"]
    menu.actions()[2].trigger()
    ready.click("segment.copy-command")
    assert QApplication.clipboard().text().endswith("--param probabilities=microtubule")


def test_a_value_that_cannot_be_used_is_said(ready, seat):
    ready.type("form.value", "much")
    assert ready.text("segment.advice").startswith("A parameter cannot be used: ")
    assert not ready.child("segment.submit").isEnabled()
    ready.click("segment.parameters.fold")
    assert ready.text("segment.parameters.summary").startswith("✕ ")
    ready.click("segment.parameters.fold")
    ready.type("form.value", "")
    assert ready.text("segment.advice") is None
    assert ready.text("segment.parameters.summary") == "defaults"


def test_results_are_left_out_but_not_the_mask(ready, seat, eventually):
    assert ready.text("segment.results.summary") == "all"
    ready.click("segment.results.fold")
    assert not ready.child("segment.result.mask.mrc").isEnabled()
    for name in ("mask.nii.gz", "mask.nrrd", "mask.npy"):
        ready.click(f"segment.result.{name}")
    assert ready.text("segment.results.summary") == "mask.mrc, stats.json"
    ready.click("segment.submit")
    eventually(lambda: seat.desk.jobs.items and seat.desk.jobs.items[0].state is JobState.COMPLETED)
    [item] = seat.desk.jobs.items
    assert {artifact.name for artifact in item.record.artifacts} >= {"mask.mrc", "stats.json"}
    assert not {artifact.name for artifact in item.record.artifacts} & {"mask.nii.gz", "mask.nrrd", "mask.npy"}


def test_the_command_that_does_the_same_is_copied(ready, seat, server, tomogram, other):
    add(ready, other)
    ready.type("form.value", "0.5")
    ready.click("segment.copy-command")
    asked = "--model threshold --runner threshold --param value=0.5"
    assert QApplication.clipboard().text().splitlines() == [
        f"cryomamba --server {server.url} segment {shlex.quote(str(path))} {asked}" for path in (tomogram, other)
    ]


def test_the_command_of_this_computer_names_its_data_directory(tab, seat, tomogram, eventually):
    add(tab, tomogram)
    seat.desk.link.connect("local:", remember=False)
    eventually(lambda: seat.desk.link.connected)
    tab.choose("segment.model", "threshold")
    tab.click("segment.copy-command")
    words = shlex.split(QApplication.clipboard().text())
    assert words[:5] == ["cryomamba", "--data-dir", str(seat.desk.settings.data_dir), "segment", str(tomogram)]


def test_what_was_entered_survives_an_engine_that_goes_and_comes(ready, seat, server, eventually):
    ready.type("form.value", "0.5")
    ready.click("segment.results.fold")
    ready.click("segment.result.mask.npy")
    seat.desk.link.disconnect()
    assert ready.text("segment.advice").startswith("Connect first")
    assert not ready.seen("segment.parameters")
    seat.connect(server)
    eventually(lambda: ready.seen("form.value"))
    assert ready.child("form.value").text() == "0.5"
    assert not ready.child("segment.result.mask.npy", QCheckBox).isChecked()


def test_what_was_entered_for_one_runner_survives_a_look_at_another(ready):
    ready.type("form.value", "0.5")
    ready.choose("segment.model", "steps")
    assert not ready.widget.findChildren(QWidget, "cryomamba.form.value")
    ready.choose("segment.model", "threshold")
    assert ready.child("form.value").text() == "0.5"


def test_what_is_submitted_while_the_engine_is_away_goes_there_once_it_is_back(ready, seat, server, eventually):
    server.kill()
    seat.desk.link.retry_now()
    eventually(lambda: (ready.text("segment.advice") or "").endswith("what you submit goes there once it does."))
    ready.click("segment.submit")
    eventually(lambda: ready.seen("sending"))
    assert ready.text("sending.words").startswith("waiting · 127.0.0.1:")
    server.restart()
    seat.desk.link.retry_now()
    eventually(lambda: seat.desk.jobs.items)


def test_open_tomograms_come_and_go_by_themselves(tab, seat, tomogram, other, eventually):
    seat.bench.open(tomogram)
    eventually(lambda: entries(tab) == {"cell one.mrc": True})
    add(tab, other)
    assert entries(tab) == {"cell one.mrc": True, "two.mrc": True}
    seat.bench.close(seat.bench.at(tomogram))
    assert entries(tab) == {"two.mrc": True}


def test_a_tomogram_that_is_open_with_another_voxel_size_is_segmented_so(ready, seat, tomogram, eventually):
    seat.bench.open(tomogram, voxel_size=(7.0, 7.0, 7.0))
    eventually(lambda: seat.bench.at(tomogram))
    ready.click("segment.submit")
    eventually(lambda: seat.desk.jobs.items)
    assert seat.desk.jobs.items[0].record.config.voxel_size == (7.0, 7.0, 7.0)


def test_tomograms_are_taken_off_the_list(tab, tomogram, other):
    add(tab, tomogram, other)
    assert not tab.child("segment.remove").isEnabled()
    pick(tab, 1)
    tab.click("segment.remove")
    assert entries(tab) == {"cell one.mrc": True}
    tab.qtbot.keyClick(pick(tab, 0), Qt.Key.Key_Delete)
    assert entries(tab) == {}


def test_the_dialog_takes_what_the_readers_read(tab, tomogram):
    tab.click("segment.add")
    dialog = tab.child("segment.dialog", QFileDialog)
    assert dialog.isVisible()
    assert not dialog.isModal() or dialog.parent() is not None
    assert "*.mrc" in dialog.nameFilters()[0]
    dialog.reject()


def test_keys_lead_from_above_to_below(ready):
    ready.click("segment.results.fold")
    ready.click("segment.plan")
    reached, widget = [], ready.child("segment.files")
    while (name := widget.objectName()) not in reached or not name:
        if name and widget.isVisible() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            reached.append(name)
        widget = widget.nextInFocusChain()
    expected = ["files", "add", "model", "about.fold", "parameters.fold", "results.fold"]
    expected += ["result.mask.nrrd", "plan", "submit", "copy-command"]
    places = [reached.index(f"cryomamba.segment.{name}") for name in expected]
    assert places == sorted(places)
    form = reached.index("cryomamba.form.value")
    assert places[expected.index("parameters.fold")] < form < places[expected.index("results.fold")]


def test_each_key_leads_to_one_place(ready):
    buttons = ready.widget.findChildren(QAbstractButton)
    labels = [label for label in ready.widget.findChildren(QLabel) if label.buddy()]
    words = [each.text() for each in (*buttons, *labels) if each.window() is ready.widget.window()]
    keys = [text[text.index("&") + 1].lower() for text in words if "&" in text]
    assert len(keys) == len(set(keys)) >= 6
    assert not set(keys) & set("fvlpwh"), "those are of napari's menus"
    assert not set(keys) & set("cgt"), "and those of the connection"


def test_the_buttons_are_seen_in_a_narrow_and_low_panel(ready):
    for fold in ("about", "results"):
        ready.click(f"segment.{fold}.fold")
    ready.widget.resize(320, 500)
    assert ready.widget.minimumSizeHint().width() <= 320
    QApplication.processEvents()
    for name in ("plan", "submit", "copy-command"):
        button = ready.child(f"segment.{name}")
        assert ready.widget.rect().contains(button.geometry())
        assert button.width() >= button.minimumSizeHint().width()

"""The tab of the tomogram, in a window of napari, worked by mouse and keyboard."""

import threading

import mrcfile
import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QLineEdit, QMenu

from cryomamba_core.jobs import JobState
from cryomamba_gui.qt.voxel_size import lengths_in
from cryomamba_gui.volumes.tomogram import Tomogram

SHAPE = (10, 30, 40)


@pytest.fixture
def write(tmp_path):
    """Write a tomogram (z, y, x) whose header says what is given as (x, y, z)."""

    def write(name="tomo.mrc", *, voxel_size=(8.0, 8.0, 8.0), origin=(0.0, 0.0, 0.0), shape=SHAPE):
        path = tmp_path / name
        with mrcfile.new(path, np.random.default_rng(5).normal(size=shape).astype(np.float32)) as file:
            file.voxel_size = voxel_size
            file.header.origin = origin
        return path

    return write


@pytest.fixture
def gate(monkeypatch):
    """No survey gets past its first slab before the gate is opened."""
    gate, survey = threading.Event(), Tomogram.survey

    def wait(self, on_progress, cancelled):
        def report(done, total):
            while not gate.wait(0.01) and not cancelled():
                pass
            on_progress(done, total)

        on_progress(1, 10)
        return survey(self, report, cancelled)

    monkeypatch.setattr(Tomogram, "survey", wait)
    yield gate
    gate.set()


def surveyed(place):
    return place.tomogram.overview is not None and not place.works


def test_without_a_tomogram_the_tab_says_how_to_open_one(desktop):
    assert "Drop a file" in desktop.text("tomogram.nothing")
    assert not desktop.find("tomogram.close").isEnabled()
    assert not desktop.find("tomogram.true-voxel-size").isVisible()


def test_the_rows_say_what_the_header_says_x_first(desktop, write):
    path = write(voxel_size=(8.0, 9.5, 12.25), origin=(-120.0, 80.0, 33.5))
    desktop.open(path)
    assert desktop.text("tomogram.file") == "tomo.mrc"
    assert desktop.text("tomogram.folder") == str(path.parent)
    assert desktop.text("tomogram.format") == "MRC"
    assert desktop.text("tomogram.size") == "40 × 30 × 10 voxels (x × y × z)"
    assert desktop.text("tomogram.voxel-size") == "8 × 9.5 × 12.25 Å"
    assert desktop.text("tomogram.extent") == "32 × 28.5 × 12.25 nm"
    assert desktop.text("tomogram.origin") == "-120, 80, 33.5 Å (x, y, z)"
    assert desktop.text("tomogram.voxel-type") == "float32 (mode 2)"
    assert desktop.find("tomogram.true-voxel-size").text() == "8, 9.5, 12.25"
    assert not desktop.find("tomogram.warnings").isVisible()


def test_statistics_come_when_all_voxels_have_been_read_and_stay_in_3d(desktop, write, pump):
    path = write()
    place = desktop.open(path)
    pump(lambda: surveyed(place))
    with mrcfile.open(path) as file:
        assert float(desktop.text("tomogram.minimum")) == pytest.approx(file.data.min(), rel=1e-5)
        assert float(desktop.text("tomogram.standard-deviation")) == pytest.approx(file.data.std(), rel=1e-4)
    desktop.viewer.dims.ndisplay = 3
    assert desktop.find("tomogram.voxel-size").isVisible()
    pump(lambda: desktop.find("tomogram.minimum").isVisible())


def test_a_doubtful_voxel_size_is_said_and_put_right_for_the_layers_and_the_job(desktop, write, pump):
    path = write(voxel_size=(1.0, 1.0, 1.0))
    before = desktop.open(path)
    assert "exactly 1 Å" in desktop.text("tomogram.warnings")
    assert "--" not in desktop.text("tomogram.warnings"), "a window has no options"
    assert not desktop.find("tomogram.use-voxel-size").isEnabled()
    desktop.type("tomogram.true-voxel-size", "7, 8, 9.5")
    desktop.click("tomogram.use-voxel-size")
    pump(lambda: desktop.bench.at(path) is not None and desktop.bench.at(path) is not before)
    place = desktop.bench.at(path)
    np.testing.assert_allclose(place.stage.image.scale, (9.5, 8, 7))
    assert before.stage.image not in desktop.viewer.layers
    assert not desktop.find("tomogram.warnings").isVisible()
    pump(lambda: desktop.text("tomogram.voxel-size") == "7 × 8 × 9.5 Å")

    desktop.connect("local:")
    desktop.turn_to("Segment")
    desktop.choose("segment.model", "threshold")
    desktop.click("segment.submit")
    pump(lambda: place.item is not None and place.item.state is JobState.COMPLETED)
    assert place.item.record.config.voxel_size == (9.5, 8.0, 7.0)
    pump(lambda: place.mask is not None and not place.works)
    assert place.mask.grid.voxel_size == (9.5, 8.0, 7.0)


def test_a_tomogram_without_a_voxel_size_is_opened_once_it_has_been_given(desktop, write, pump):
    path = write(voxel_size=(0.0, 0.0, 0.0))
    desktop.viewer.open(str(path), plugin="cryomamba")
    pump(lambda: desktop.find("tomogram.refusal").isVisible())
    assert "no length" in desktop.text("tomogram.refusal.message")
    desktop.type("tomogram.true-voxel-size", "6.8")
    desktop.click("tomogram.use-voxel-size")
    pump(lambda: desktop.bench.at(path) is not None)
    np.testing.assert_allclose(desktop.bench.at(path).stage.image.scale, [6.8] * 3)
    assert not desktop.find("tomogram.refusal").isVisible()


def test_what_is_no_voxel_size_is_not_taken(desktop, write):
    place = desktop.open(write())
    desktop.type("tomogram.true-voxel-size", "7,8")
    assert "no length" in desktop.text("tomogram.voxel-size-error.message")
    assert not desktop.find("tomogram.use-voxel-size").isEnabled()
    QTest.keyClick(desktop.find("tomogram.true-voxel-size"), Qt.Key.Key_Return)
    assert desktop.bench.current is place
    desktop.type("tomogram.true-voxel-size", "7.8")
    assert not desktop.find("tomogram.voxel-size-error").isVisible()


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("7.84", (7.84, 7.84, 7.84)),
        ("1, 2, 3", (3.0, 2.0, 1.0)),
        ("1 × 2 × 3", (3.0, 2.0, 1.0)),
        ("", None),
        ("1 2", None),
        ("0", None),
        ("-4", None),
        ("nan", None),
        ("1e9", None),
        ("ten", None),
    ],
)
def test_lengths_are_read_x_first(text, lengths):
    assert lengths_in(text) == lengths


def test_files_that_were_open_are_in_the_menu_newest_first(desktop, write, pump):
    first, second = write("one & two.mrc"), write("b.mrc")
    desktop.open(first)
    desktop.open(second)
    menu = desktop.find("tomogram.recent-menu", QMenu)
    menu.aboutToShow.emit()
    actions = menu.actions()
    assert [action.toolTip() for action in actions] == [str(second), str(first)]
    assert actions[1].text().startswith("one && two.mrc")
    desktop.click("tomogram.close")
    desktop.click("tomogram.close")
    assert desktop.bench.current is None
    actions[1].trigger()
    pump(lambda: desktop.bench.at(first) is not None)


def test_files_are_opened_by_the_dialog_while_the_window_goes_on(desktop, write, pump):
    path = write()
    desktop.click("tomogram.open")
    dialog = desktop.find("tomogram.dialog", QFileDialog)
    pump(dialog.isVisible)
    assert "*.mrc" in dialog.nameFilters()[0]
    dialog.setDirectory(str(path.parent))
    dialog.findChild(QLineEdit, "fileNameEdit").setText(str(path))
    dialog.accept()
    pump(lambda: desktop.bench.at(path) is not None)


def test_a_tomogram_that_is_closed_takes_its_layers_along_and_the_other_one_is_shown(desktop, write, pump):
    first, second = write("a.mrc"), write("b.mrc", shape=(5, 6, 7))
    desktop.open(first)
    desktop.open(second)
    pump(lambda: desktop.text("tomogram.file") == "b.mrc")
    desktop.click("tomogram.close")
    pump(lambda: desktop.text("tomogram.file") == "a.mrc")
    assert {layer.name.split()[0] for layer in desktop.viewer.layers} == {"a"}
    desktop.click("tomogram.close")
    pump(lambda: not desktop.viewer.layers)
    assert desktop.find("tomogram.nothing").isVisible()
    assert not desktop.find("tomogram.histogram").isVisible()


def test_reading_all_of_it_shows_how_far_it_is_and_is_cancelled_and_begun_again(desktop, write, gate, pump):
    place = desktop.open(write())
    pump(lambda: desktop.find("tomogram.progress.bar").value() == 100)
    assert "reading tomo.mrc" in desktop.text("tomogram.progress.words")
    desktop.click("tomogram.progress.cancel")
    pump(lambda: not place.works)
    assert place.tomogram.overview is None
    assert not desktop.find("tomogram.progress").isVisible()
    gate.set()
    desktop.click("tomogram.read")
    pump(lambda: surveyed(place))
    assert not desktop.find("tomogram.read").isVisible()
    assert desktop.find("tomogram.histogram").isVisible()
    assert not desktop.panel.workplace.desk.troubles.items


def test_the_limits_in_the_histogram_are_those_of_the_layer_both_ways(desktop, write, pump):
    place = desktop.open(write())
    pump(lambda: surveyed(place))
    desktop.viewer.window.resize(1200, 1400)
    histogram, image = desktop.find("tomogram.histogram"), place.stage.image
    pump(lambda: histogram.width() > 100)
    edges, width = place.tomogram.overview.edges, histogram.width() - 1
    x = [round((limit - edges[0]) / (edges[-1] - edges[0]) * width) for limit in image.contrast_limits]
    QTest.mousePress(histogram, Qt.MouseButton.LeftButton, pos=QPoint(x[0], 5))
    drag(histogram, QPoint(width // 2, 5))
    QTest.mouseRelease(histogram, Qt.MouseButton.LeftButton, pos=QPoint(width // 2, 5))
    low, high = image.contrast_limits
    assert low == pytest.approx(edges[0] + (edges[-1] - edges[0]) * (width // 2) / width)
    assert high == pytest.approx(place.tomogram.contrast[1])
    image.contrast_limits = (-1.0, 2.0)
    assert histogram.limits == (-1.0, 2.0)
    histogram.setFocus()
    QTest.keyClick(histogram, Qt.Key.Key_Right)
    assert image.contrast_limits[0] == pytest.approx(-1 + 0.01 * (edges[-1] - edges[0]))
    QTest.keyClick(histogram, Qt.Key.Key_Down)
    QTest.keyClick(histogram, Qt.Key.Key_Left)
    assert image.contrast_limits[1] == pytest.approx(2 - 0.01 * (edges[-1] - edges[0]))


def drag(widget, pos):
    """Move with the left button held: QTest moves without buttons."""
    left = Qt.MouseButton.LeftButton
    at, over = QPointF(pos), QPointF(widget.mapToGlobal(pos))
    event = QMouseEvent(QEvent.Type.MouseMove, at, over, Qt.MouseButton.NoButton, left, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(widget, event)


def test_why_a_damaged_file_does_not_open_is_said_with_a_hint(desktop, tmp_path, pump):
    path = tmp_path / "damaged.mrc"
    path.write_bytes(b"no header at all" * 100)
    desktop.viewer.open(str(path), plugin="cryomamba")
    pump(lambda: desktop.find("messages").isVisible())
    assert "damaged.mrc" in desktop.text("messages.error.message") + desktop.text("messages.what")
    assert len(desktop.text("messages.error.hint")) > len("→ ")
    assert desktop.bench.current is None
    assert not desktop.find("tomogram.progress").isVisible()

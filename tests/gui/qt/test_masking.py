"""The tab of the mask: labels, how they look, and the tools that correct them."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QCheckBox, QSlider, QSpinBox, QTableWidget, QWidget

from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.labels import name_labels
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_gui.canvas import layers
from cryomamba_gui.qt.label_table import LabelTable, short


@pytest.fixture
def place(masked):
    return masked.bench.current


def cells(table, row):
    return [table.item(row, column).text() for column in range(table.columnCount())]


def paint(place, value, spot=(5, 20, 25), width=7):
    """A stroke of napari's brush on one voxel (z, y, x), without a canvas."""
    place.stage.mask.brush_size = width
    place.stage.mask.paint(spot, value)


def alpha(place, value):
    return place.stage.mask.colormap.map(np.array([value], np.uint8))[0, 3]


def tick(table, row):
    """Press the box of a label."""
    item = table.item(row, 0)
    box = table.visualItemRect(item).topLeft() + QPoint(8, table.rowHeight(row) // 2)
    QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=box)


def test_without_a_mask_the_tab_says_what_to_do(desktop, write_tomogram):
    desktop.turn_to("Mask")
    assert desktop.text("mask.state") == "No tomogram is open."
    assert not desktop.find("mask.labels").isVisible()
    assert not desktop.find("home.export").isVisible()
    desktop.open(write_tomogram())
    assert "no mask: segment it" in desktop.text("mask.state")
    assert desktop.find("home.screenshot").isEnabled()
    assert not desktop.find("home.export").isEnabled()


def test_a_job_that_failed_is_said_with_its_reason(desktop, write_tomogram, pump):

    place = desktop.open(write_tomogram())
    desktop.connect("local:")
    path = place.path
    config = JobConfig(source=Source(path=str(path)), runner="threshold")
    submission = desktop.jobs.outbox.prepare(path, config, auto=False)
    pump(lambda: submission.plan is not None)
    path.write_bytes(b"")
    submission.submit()
    pump(lambda: (place.item is not None and place.item.state.ended) or submission.error)
    desktop.turn_to("Mask")
    if place.item is not None:
        assert place.item.record.error.message in desktop.text("mask.state")


def test_the_table_has_each_label_with_its_measures(masked, place):
    table = masked.find("mask.labels", QTableWidget)
    [label] = place.mask.labels
    [entry] = measure_labels(place.mask.original, place.mask.grid, place.mask.labels)
    name, voxels, volume, area, parts = cells(table, 0)
    assert name == label.name
    assert voxels == f"{entry.voxels:,}" == f"{np.count_nonzero(place.mask.array):,}"
    assert volume == short(entry.voxels * 0.8**3)
    assert (area, parts) == (short(entry.surface_area_nm2), f"{entry.components:,}")
    assert f"{entry.components:,} part" in masked.text("mask.detail")
    assert masked.text("mask.state") == "as the job made it"


def test_hiding_fading_and_isolating_change_the_colours_and_not_the_mask(masked, place, pump):
    table = masked.find("mask.labels", QTableWidget)
    paint(place, 5)
    pump(lambda: table.rowCount() == 2)
    before = place.mask.array.copy()
    tick(table, 0)
    assert (alpha(place, 1), alpha(place, 5)) == (0, 1)
    tick(table, 0)
    assert alpha(place, 1) == 1

    table.selectRow(1)
    assert place.stage.mask.selected_label == 5
    slider = masked.find("mask.opacity", QSlider)
    slider.setFocus()
    QTest.keyClick(slider, Qt.Key.Key_Home)
    for _ in range(4):
        QTest.keyClick(slider, Qt.Key.Key_PageUp)
    assert (alpha(place, 1), alpha(place, 5)) == (1, pytest.approx(0.4))
    tick(table, 1)
    assert alpha(place, 5) == 0
    assert not slider.isEnabled()
    tick(table, 1)
    assert alpha(place, 5) == pytest.approx(0.4)

    masked.click("mask.isolate")
    assert (alpha(place, 1), alpha(place, 5)) == (0, pytest.approx(0.4))
    table.selectRow(0)
    assert (alpha(place, 1), alpha(place, 5)) == (1, 0)
    masked.click("mask.isolate")
    assert (alpha(place, 1), alpha(place, 5)) == (1, pytest.approx(0.4))
    np.testing.assert_array_equal(place.mask.array, before)
    assert place.mask.edits == 1


def test_how_labels_look_is_remembered_for_each_tomogram(masked, place, write_tomogram, pump):
    table = masked.find("mask.labels", QTableWidget)
    tick(table, 0)
    masked.click("mask.isolate")
    masked.open(write_tomogram("other.mrc"))
    assert not table.isVisible()
    assert "no mask" in masked.text("mask.state")
    masked.bench.turn_to(place)
    assert table.item(0, 0).checkState() == Qt.CheckState.Unchecked
    assert masked.find("mask.isolate").isChecked()
    assert place.stage.colours.isolated == 1


def test_the_tools_are_naparis_and_are_used_on_the_mask(masked, place):
    layers, mask = masked.viewer.layers, place.stage.mask
    for mode in ("paint", "erase", "fill", "polygon", "pick", "pan_zoom"):
        layers.selection.active = place.stage.image
        masked.click(f"mask.tool.{mode}")
        assert str(mask.mode) == mode
        assert layers.selection.active is mask
    mask.mode = "erase"
    assert masked.find("mask.tool.erase").isChecked()
    mask.mode = "transform"
    assert not masked.find("mask.tool.erase").isChecked()


def test_a_mask_that_was_hidden_or_taken_away_is_back_when_a_tool_is_taken(masked, place):
    place.stage.mask.visible = False
    masked.click("mask.tool.paint")
    assert place.stage.mask.visible
    assert str(place.stage.mask.mode) == "paint"
    masked.viewer.layers.remove(place.stage.mask)
    masked.click("mask.tool.paint")
    assert place.stage.mask in masked.viewer.layers
    assert place.stage.mask.data is place.mask.array


def test_the_brush_is_as_wide_here_as_in_napari(masked, place):
    brush, in_3d, mask = masked.find("mask.brush", QSpinBox), masked.find("mask.brush-3d", QCheckBox), place.stage.mask
    brush.setFocus()
    before = mask.brush_size
    QTest.keyClick(brush, Qt.Key.Key_Up)
    assert mask.brush_size == before + 1
    mask.brush_size = 23
    assert brush.value() == 23
    masked.click("mask.brush-3d")
    assert mask.n_edit_dimensions == 3
    assert not masked.find("mask.tool.polygon").isEnabled(), "napari draws polygons in a section only"
    mask.n_edit_dimensions = 2
    assert not in_3d.isChecked()
    assert masked.find("mask.tool.polygon").isEnabled()


def test_a_mask_that_is_too_large_is_not_filled_in_3d_and_what_to_do_is_said(masked, place, monkeypatch):
    mask, fill = place.stage.mask, masked.find("mask.tool.fill")
    masked.click("mask.tool.fill")
    masked.click("mask.brush-3d")
    assert fill.isEnabled()
    assert fill.isChecked()
    masked.click("mask.brush-3d")
    monkeypatch.setattr(layers, "FILLED", place.mask.grid.voxels - 1)
    assert not masked.find("mask.tool-note").isVisible()
    masked.click("mask.brush-3d")
    assert not fill.isEnabled()
    assert str(mask.mode) == "pan_zoom"
    assert "section by section" in masked.text("mask.tool-note")
    masked.click("mask.brush-3d")
    assert fill.isEnabled()
    assert not masked.find("mask.tool-note").isVisible()
    monkeypatch.setattr(layers, "FILLED", place.mask.grid.voxels)
    masked.click("mask.brush-3d")
    assert fill.isEnabled()
    monkeypatch.setattr(layers, "FILLED", place.mask.grid.voxels - 1)
    place.stage.show_mask(place.mask)
    assert not fill.isEnabled(), "another mask may be larger"


def test_edits_are_measured_taken_back_and_made_again(masked, place, pump):
    table = masked.find("mask.labels", QTableWidget)
    before = place.mask.array.copy()
    assert not table.item(0, 1).font().italic()
    paint(place, 5)
    after = place.mask.array.copy()
    assert np.count_nonzero(before != after) > 9
    assert table.item(0, 1).font().italic(), "these are the measures of before"
    assert "measuring" in masked.text("mask.measured")
    assert "edited" in masked.text("mask.state")
    pump(lambda: not table.item(0, 1).font().italic())
    assert cells(table, 1)[:2] == ["label 5", f"{np.count_nonzero(after == 5):,}"]
    assert not masked.find("mask.measured").isVisible()
    pump(lambda: masked.text("mask.state") == "edited, saved")

    masked.click("mask.undo")
    np.testing.assert_array_equal(place.mask.array, before)
    masked.click("mask.redo")
    np.testing.assert_array_equal(place.mask.array, after)
    pump(lambda: place.measures.current)


def test_reverting_is_confirmed_by_a_second_press_and_nobody_can_paint_meanwhile(masked, place, pump, monkeypatch):
    original = place.mask.array.copy()
    revert = masked.find("mask.revert")
    assert not revert.isEnabled()
    paint(place, 5)
    edited = place.mask.array.copy()
    masked.click("mask.tool.paint")
    masked.click("mask.revert")
    assert "Really" in revert.text()
    masked.click("mask.tool.erase")
    assert "Revert" in revert.text(), "something else was done"
    masked.click("mask.revert")
    np.testing.assert_array_equal(place.mask.array, edited)
    masked.click("mask.revert")
    assert not place.stage.mask.editable
    assert str(place.stage.mask.mode) == "pan_zoom"
    assert not masked.find("mask.tool.paint").isEnabled()
    assert "reverting" in masked.text("mask.progress.words")
    pump(lambda: not place.works)
    np.testing.assert_array_equal(place.mask.array, original)
    assert place.stage.mask.editable
    assert masked.find("mask.tool.paint").isEnabled()
    masked.click("mask.undo")
    np.testing.assert_array_equal(place.mask.array, original)
    pump(lambda: masked.text("mask.state") == "as the job made it")
    assert not revert.isEnabled()
    assert not masked.panel.workplace.desk.troubles.items


def test_the_label_that_napari_picks_is_selected_in_the_table(masked, place, pump):
    table = masked.find("mask.labels", LabelTable)
    paint(place, 5)
    pump(lambda: table.rowCount() == 2)
    place.stage.mask.selected_label = 5
    assert table.value == 5
    place.stage.mask.selected_label = 77
    assert table.value is None
    assert not masked.find("mask.opacity").isEnabled()
    place.stage.mask.selected_label = 1
    assert table.value == 1


def test_letters_of_the_keyboard_are_each_used_once_and_not_those_of_naparis_menus(masked):
    for title in ("Tomogram", "Mask"):
        masked.turn_to(title)
        letters = list("fvlpwh")
        for widget in masked.panel.findChildren(QWidget):
            text = widget.text() if hasattr(widget, "text") and callable(widget.text) else ""
            if widget.isVisible() and "&" in text.replace("&&", "") and "\n" not in text:
                letters.append(text[text.index("&") + 1].lower())
        assert len(letters) == len(set(letters)), (title, letters)


def test_tab_goes_from_the_labels_to_the_tools_to_the_verdict_and_to_the_export(masked):
    names = ("labels", "opacity", "isolate", "tool.pan_zoom", "brush", "undo", "review-mode", "note")
    names = [f"cryomamba.mask.{name}" for name in names] + ["cryomamba.home.format", "cryomamba.home.export"]
    place_in_chain, widget = {}, masked.find("mask.labels")
    for step in range(500):
        place_in_chain.setdefault(widget.objectName(), step)
        widget = widget.nextInFocusChain()
    assert sorted(names, key=place_in_chain.__getitem__) == names


def some_statistics(count):
    labels = name_labels({value: f"organelle number {value}" for value in range(1, count + 1)})
    return labels, tuple(
        LabelStatistics(
            value=label.value,
            name=label.name,
            voxels=12_345_678 * label.value,
            volume_nm3=1_234_567.8 * label.value,
            surface_area_nm2=99_123.4 * label.value,
            components=17 * label.value,
            bounding_box=None,
            centroid=None,
        )
        for label in labels
    )


def test_many_labels_scroll_and_are_read_in_a_narrow_panel(show):
    table = show(LabelTable())
    labels, statistics = some_statistics(50)
    table.show_labels(labels, statistics, current=True, hidden=(3,))
    QApplication.processEvents()
    assert table.rowCount() == 50
    assert table.sizeHint().height() < 12 * table.rowHeight(0)
    assert table.verticalScrollBar().maximum() > 0 or table.height() > 50 * table.rowHeight(0)
    assert table.columnWidth(0) > 14 * table.fontMetrics().averageCharWidth()
    assert table.item(2, 0).checkState() == Qt.CheckState.Unchecked
    assert table.item(1, 1).text() == "24.69 M"
    assert table.item(1, 1).toolTip() == "24,691,356 voxels"
    table.show_selected(2)
    assert "198,247 nm²" in table.detail
    table.resize(900, 300)
    QApplication.processEvents()
    assert not any(table.isColumnHidden(column) for column in range(table.columnCount()))


def test_labels_beyond_the_last_row_are_counted_in_a_line_that_is_no_label(show):
    table = show(LabelTable())
    toggled, picked = [], []
    table.toggled.connect(lambda *told: toggled.append(told))
    table.picked.connect(picked.append)
    labels, statistics = some_statistics(1240)
    table.show_labels(labels, statistics, current=True)
    QApplication.processEvents()
    line = table.item(table.rowCount() - 1, 0)
    assert table.rowCount() == 201
    assert line.text() == "and 1,040 more labels: the export has all"
    assert table.values == tuple(range(1, 201))
    table.scrollToBottom()
    middle = table.visualItemRect(line).center()
    assert table.visualItemRect(line).width() > table.fontMetrics().horizontalAdvance(line.text())
    QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    table.selectRow(200)
    assert (table.value, toggled, picked) == (None, [], [])
    table.show_labels(labels[:201], statistics[:201], current=True)
    assert table.item(200, 0).text() == "and 1 more label: the export has all"
    table.show_labels(labels[:200], statistics[:200], current=True)
    assert table.rowCount() == 200
    table.show_labels(labels, statistics, current=True)
    table.show_labels(labels[5:40], statistics[5:40], current=True)
    assert table.rowCount() == 35
    assert table.item(34, 1).text(), "it has columns again"
    assert table.columnSpan(34, 0) == 1


@pytest.mark.parametrize(
    ("number", "words"), [(999_999, "999,999"), (1_000_000, "1 M"), (2_345_678_901, "2.346 G"), (0.51234, "0.5123")]
)
def test_measures_are_short(number, words):
    assert short(number) == words

"""Masks on the canvas: edits, undo, colours, names, and 3D."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from staged import LABELS, make_mask, noise, survey

from cryomamba_core.previews import coarsen_labels
from cryomamba_gui.canvas import layers
from cryomamba_gui.canvas import relief as reliefs
from cryomamba_gui.canvas import stage as stages

SHAPE = (10, 40, 50)


@pytest.fixture
def labels():
    array = np.zeros(SHAPE, np.uint8)
    array[2:8, 5:20, 5:20] = 1
    array[4:6, 25:35, 25:45] = 2
    return array


@pytest.fixture
def staged_mask(stand, labels, tmp_path):
    """A stage with a mask on it."""
    stage = stand(noise(SHAPE))
    with make_mask(tmp_path / "mask", labels, stage.tomogram.grid) as mask:
        stage.show_mask(mask)
        stage.stepper.go_to(5)
        yield stage, mask
        stage.drop_mask()


def native(viewer):
    """The widget that hears keys and the mouse; napari has no public name for it."""
    return viewer.window._qt_viewer.canvas.native


def test_every_kind_of_edit_is_told_once_and_is_in_the_file(staged_mask, labels):
    stage, mask = staged_mask
    layer, told, heard = stage.mask, [], []
    mask.changed.connect(lambda: told.append(mask.edits))
    stage.edited.connect(lambda: heard.append(1))
    layer.brush_size = 5
    layer.paint((5, 2, 2), 2)
    assert mask.current[5:6, 2:3, 2:3].item() == 2
    layer.fill((5, 10, 10), 2)
    layer.paint((5, 30, 30), 0)  # the eraser
    layer.paint_polygon(np.array([(5, 0, 40), (5, 0, 48), (5, 9, 48)]), 1)
    layer.undo()
    layer.redo()
    assert len(told) == len(heard) == 6
    assert mask.edited
    while not np.array_equal(mask.array, labels):
        layer.undo()
    assert len(told) == 10
    layer.undo()
    layer.undo()
    assert len(told) == 10, "nothing was left to undo"


def test_a_stroke_of_the_mouse_is_one_edit(viewer, staged_mask, pump):
    stage, mask = staged_mask
    told = []
    mask.changed.connect(lambda: told.append(1))
    viewer.layers.selection.active = stage.mask
    stage.mask.mode = "paint"
    stage.mask.selected_label = 2
    widget = native(viewer)
    centre = widget.rect().center()
    QTest.mousePress(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, centre)
    for step in range(1, 6):
        QTest.mouseMove(widget, centre + type(centre)(6 * step, 0))
    QTest.mouseRelease(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, centre + type(centre)(30, 0))
    pump(lambda: told)
    assert told == [1]
    before = np.count_nonzero(mask.array == 2)
    QTest.keyClick(widget, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    pump(lambda: len(told) == 2)
    assert np.count_nonzero(mask.array == 2) < before


def test_undo_forgets_the_oldest_edits_when_all_hold_too_much(staged_mask, labels, monkeypatch):
    stage, mask = staged_mask
    layer, states = stage.mask, [labels.copy()]
    monkeypatch.setattr(layers, "KEPT", 2 * 2 * SHAPE[1] * SHAPE[2])  # two fills, each a mask and the old values
    for value in (3, 4, 5):
        layer.fill((5, 0, 0), value)
        states.append(mask.array.copy())
    for state in (states[2], states[1], states[1]):
        layer.undo()
        np.testing.assert_array_equal(mask.array, state)
    for state in (states[2], states[3], states[3]):
        layer.redo()
        np.testing.assert_array_equal(mask.array, state)
    monkeypatch.setattr(layers, "KEPT", 1)
    layer.paint((5, 2, 2), 2)
    layer.undo()
    np.testing.assert_array_equal(mask.array, states[3], "the last edit can always be taken back")
    layer.undo()
    np.testing.assert_array_equal(mask.array, states[3])


def test_undo_goes_back_a_hundred_small_edits(staged_mask):
    stage, mask = staged_mask
    stage.mask.brush_size = 1
    for step in range(103):
        stage.mask.paint((5, 30, 30), 3 + step)
    for _ in range(103):
        stage.mask.undo()
    assert mask.array[5, 30, 30] == 5, "three are forgotten"


def test_a_click_that_would_fill_too_much_in_3d_fills_nothing_and_says_so(viewer, staged_mask, labels, monkeypatch):
    stage, mask = staged_mask
    said = []
    monkeypatch.setattr(layers, "show_info", said.append)
    viewer.layers.selection.active = stage.mask
    stage.mask.mode = "fill"
    stage.mask.selected_label = 7
    stage.mask.n_edit_dimensions = 3
    widget = native(viewer)
    centre = widget.rect().center()
    monkeypatch.setattr(layers, "FILLED", labels.size - 1)
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, centre)
    np.testing.assert_array_equal(mask.array, labels)
    assert said == [layers.TOO_LARGE]
    monkeypatch.setattr(layers, "FILLED", labels.size)
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, centre)
    assert (mask.array == 7).any(axis=(1, 2)).sum() > 1
    assert len(said) == 1


def test_another_mask_cannot_be_undone_into(viewer, staged_mask, tmp_path):
    stage, mask = staged_mask
    stage.mask.paint((5, 2, 2), 2)
    other_labels = np.ones(SHAPE, np.uint8)
    with make_mask(tmp_path / "other", other_labels, stage.tomogram.grid) as other:
        stage.show_mask(other)
        stage.mask.undo()
        np.testing.assert_array_equal(other.array, other_labels)
        assert not other.edited
        edits = mask.edits
        stage.mask.paint((5, 2, 2), 2)
        assert mask.edits == edits, "the mask before is not told"
        assert other.edited
        stage.drop_mask()


def test_what_is_changed_from_elsewhere_is_drawn_and_not_undone(staged_mask, labels):
    stage, mask = staged_mask
    stage.mask.paint((5, 2, 2), 2)
    drawn, told = [], []
    stage.mask.events.set_data.connect(lambda _: drawn.append(1))
    mask.revert()
    mask.changed.emit()
    assert drawn
    stage.edited.connect(lambda: told.append(1))
    stage.mask.undo()
    assert not told
    np.testing.assert_array_equal(mask.array, labels)


def test_the_status_names_the_label_under_the_cursor(viewer, staged_mask):
    stage, mask = staged_mask
    assert "membrane" in stage.mask.get_status(mask.grid.position((5, 10, 10)), world=True)["value"]
    assert "background" in stage.mask.get_status(mask.grid.position((5, 0, 0)), world=True)["value"]


def hex_of(colour):
    return "#" + bytes(round(255 * float(part)) for part in colour[:3]).hex()


def test_labels_have_the_colours_of_the_model_and_opacity_of_their_own(viewer, staged_mask, labels):
    stage, mask = staged_mask
    for label in LABELS:
        assert hex_of(stage.mask.get_color(label.value)) == label.color
    stage.set_label_opacity(1, 0.25)
    assert stage.mask.get_color(1)[3] == pytest.approx(0.25)
    assert stage.mask.get_color(2)[3] == 1
    stage.hide_label(2, hidden=True)
    assert stage.mask.get_color(2)[3] == 0
    stage.hide_label(2, hidden=False)
    assert stage.mask.get_color(2)[3] == 1
    stage.isolate(2)
    assert stage.mask.get_color(1)[3] == 0
    stage.isolate(None)
    assert stage.mask.get_color(1)[3] == pytest.approx(0.25)
    np.testing.assert_array_equal(mask.array, labels)
    assert not mask.edited
    assert stage.mask.get_color(7)[3] == 1, "a value that the model does not name is seen"


def test_an_isolated_label_is_alone_on_the_canvas(viewer, staged_mask):
    stage, _ = staged_mask
    stage.image.visible = False
    viewer.canvas.overlays.scale_bar.visible = False

    def colours():
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        return np.count_nonzero(picture.max(-1) - picture.min(-1) > 60)

    both = colours()
    stage.isolate(1)
    one = colours()
    stage.isolate(2)
    other = colours()
    assert one > 1000
    assert other > 1000
    assert abs(one + other - both) < both / 100


def test_a_small_mask_is_shown_in_3d_as_it_is(viewer, staged_mask):
    stage, _ = staged_mask
    viewer.dims.ndisplay = 3
    assert (stage.mask.visible, stage.preview.visible) == (True, False)


async def test_a_large_mask_is_shown_coarse_in_3d_and_stays_up_to_date(
    viewer, staged_mask, labels, settle, nursery, monkeypatch
):
    stage, mask = staged_mask
    monkeypatch.setattr(stages, "LARGE", 1000)
    monkeypatch.setattr(stages, "relief_factor", lambda shape: 3)
    monkeypatch.setattr(reliefs, "SLAB_VOXELS", 4 * SHAPE[1] * SHAPE[2])
    nursery.start_soon(stage.attend)
    stage.show_mask(mask)
    survey(stage.tomogram)
    viewer.layers.selection.active = stage.mask
    viewer.dims.ndisplay = 3
    assert not stage.mask.visible
    assert "mask" in viewer.canvas.overlays["cryomamba"].text
    await settle(lambda: viewer.layers.selection.active is stage.preview)
    assert stage.preview.visible
    np.testing.assert_array_equal(stage.preview.data, coarsen_labels(labels, 3))
    assert stage.preview.name == "tomo mask (3D)"
    stage.mask.visible = True  # a click on its eye uploads nothing
    assert not stage.mask.visible
    viewer.dims.ndisplay = 2
    assert (stage.mask.visible, stage.preview.visible) == (True, False)
    assert viewer.layers.selection.active is stage.mask
    stage.mask.fill((5, 30, 30), 1)
    viewer.dims.ndisplay = 3
    await settle(lambda: np.array_equal(stage.preview.data, coarsen_labels(mask.array, 3)))
    stage.mask.undo()
    await settle(lambda: np.array_equal(stage.preview.data, coarsen_labels(labels, 3)))
    stage.remove()


async def test_the_coarse_mask_in_3d_has_the_look_that_was_chosen_in_2d(
    viewer, staged_mask, settle, nursery, monkeypatch
):
    stage, mask = staged_mask
    monkeypatch.setattr(stages, "LARGE", 1000)
    nursery.start_soon(stage.attend)
    stage.show_mask(mask)
    viewer.dims.ndisplay = 3
    await settle(lambda: stage.preview.visible)
    viewer.dims.ndisplay = 2
    stage.isolate(2)
    viewer.dims.ndisplay = 3
    assert stage.preview.get_color(1)[3] == 0
    stage.mask.visible = False
    stage.isolate(None)
    stage.mask.visible = True
    assert stage.preview.get_color(1)[3] == 1
    stage.remove()

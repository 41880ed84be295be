"""Strokes that are cut off: what they have drawn counts as an edit."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from staged import make_mask, noise

SHAPE = (10, 40, 50)
LEFT, NOTHING = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


@pytest.fixture
def half_stroke(viewer, stand, tmp_path, pump):
    """A stage and a mask with a stroke on it of which the button of the mouse is still down."""
    stage, labels = stand(noise(SHAPE)), np.zeros(SHAPE, np.uint8)
    with make_mask(tmp_path / "mask", labels, stage.tomogram.grid) as mask:
        stage.show_mask(mask)
        stage.stepper.go_to(5)
        viewer.layers.selection.active = stage.mask
        stage.mask.mode = "paint"
        stage.mask.selected_label = 2
        widget = viewer.window._qt_viewer.canvas.native
        centre = widget.rect().center()
        QTest.mousePress(widget, LEFT, NOTHING, centre)
        for step in range(1, 6):
            QTest.mouseMove(widget, centre + QPoint(6 * step, 0))
        pump(lambda: np.any(mask.array))
        yield stage, mask
        QTest.mouseRelease(widget, LEFT, NOTHING, centre)
        stage.drop_mask()


def test_a_mask_is_edited_from_the_first_voxel_of_a_stroke_on(half_stroke):
    _, mask = half_stroke
    assert mask.edited
    assert mask.was_edited(mask.folder)


@pytest.mark.parametrize("end", ["another mask comes", "the mask goes", "the tomogram goes"])
def test_a_mask_that_goes_with_half_a_stroke_is_told_and_saved(half_stroke, end, tmp_path):
    stage, mask = half_stroke
    told = []
    mask.changed.connect(lambda: told.append(mask.unsaved))
    if end == "another mask comes":
        with make_mask(tmp_path / "other", np.ones(SHAPE, np.uint8), stage.tomogram.grid) as other:
            stage.show_mask(other)
            assert not other.edited
            stage.drop_mask()
    elif end == "the mask goes":
        stage.drop_mask()
    else:
        stage.remove()
    assert told == [True]


def test_a_mask_that_goes_after_a_whole_stroke_is_not_told_again(viewer, half_stroke):
    stage, mask = half_stroke
    widget = viewer.window._qt_viewer.canvas.native
    QTest.mouseRelease(widget, LEFT, NOTHING, widget.rect().center())
    edits = mask.edits
    assert edits == 1
    stage.drop_mask()
    assert mask.edits == edits

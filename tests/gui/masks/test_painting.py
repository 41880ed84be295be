"""napari's own labels layer on the voxels of a mask."""

import numpy as np
import pytest
from drawn_labels import some_labels

napari_layers = pytest.importorskip("napari.layers")


@pytest.fixture
def layer(mask):
    layer = napari_layers.Labels(mask.array)
    layer.events.labels_update.connect(lambda event: mask.touched())
    return layer


def test_the_layer_takes_the_voxels_as_they_are(mask, layer):
    assert layer.data is mask.array


def test_painting_filling_erasing_undo_and_redo_are_in_the_file(mask, layer):
    def in_file():
        return mask.current[:]

    layer.brush_size = 3
    layer.selected_label = 9
    layer.paint((4, 8, 8), 9)
    assert in_file()[4, 8, 8] == 9
    painted = in_file()
    assert (painted != some_labels()).any()
    layer.fill((4, 8, 8), 5)
    assert in_file()[4, 8, 8] == 5
    filled = in_file()
    layer.n_edit_dimensions = 3
    layer.paint((4, 8, 8), 0)
    assert (in_file()[3:6, 8, 8] == 0).all()
    layer.undo()
    np.testing.assert_array_equal(in_file(), filled)
    layer.undo()
    np.testing.assert_array_equal(in_file(), painted)
    layer.undo()
    np.testing.assert_array_equal(in_file(), some_labels())
    layer.redo()
    np.testing.assert_array_equal(in_file(), painted)
    assert mask.edited
    np.testing.assert_array_equal(mask.original[:], some_labels())

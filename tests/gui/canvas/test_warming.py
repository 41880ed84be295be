"""Before the first tomogram."""

import numpy as np

from cryomamba_gui.canvas.warming import warm_up


def test_a_warm_viewer_is_as_empty_as_before(viewer):
    warm_up(viewer)
    assert not viewer.layers
    assert viewer.dims.ndisplay == 2


def test_a_viewer_with_layers_is_left_alone(viewer):
    layer = viewer.add_image(np.zeros((4, 4)))
    changes = []
    viewer.layers.events.inserted.connect(changes.append)
    warm_up(viewer)
    assert list(viewer.layers) == [layer]
    assert not changes

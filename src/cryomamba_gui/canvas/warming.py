"""What makes the first tomogram open as fast as the second."""

from __future__ import annotations

import napari
import numpy as np
from qtpy.QtCore import QCoreApplication

from cryomamba_gui.canvas.scale_bar import show_scale_bar


def warm_up(viewer: napari.Viewer) -> None:
    """Show and remove a tiny layer of each kind that a stage has: napari loads and compiles what they need.

    It takes a second or two of Qt's thread, so it is for the time before the user has begun. If the window
    is shown the layers are drawn, which is most of what takes time. A viewer that holds layers is left
    alone: it is warm.
    """
    if len(viewer.layers):
        return
    show_scale_bar(viewer)
    for add, voxels in ((viewer.add_image, np.float32), (viewer.add_labels, np.uint8)):
        layer = add(np.zeros((2, 2, 2), voxels), name="warm-up")
        QCoreApplication.processEvents()
        viewer.layers.remove(layer)
        QCoreApplication.processEvents()  # one layer at a time: some drivers die of a removed one beside a new one

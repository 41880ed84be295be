"""What makes the first tomogram open as fast as the second."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import napari
import numpy as np
from qtpy.QtCore import QCoreApplication

from cryomamba_core.labels import Label
from cryomamba_gui.canvas.colouring import LabelColours
from cryomamba_gui.canvas.layers import Image, Labels
from cryomamba_gui.canvas.scale_bar import show_scale_bar

#: Sections of each kind that drivers tell apart: with sides that are powers of two, and others.
SECTIONS = tuple(itertools.product((2, 3), (2, 3)))

_SOME = (Label(value=1, name="some", color="#ffffff"),)


def warm_up(viewer: napari.Viewer) -> None:
    """Show and remove tiny layers of each kind that a stage has: napari loads and compiles what they need.

    It takes a second or two of Qt's thread, so it is for the time before the user has begun. If the window
    is shown the layers are drawn, which is most of what takes time: where there is no graphics card, Mesa
    compiles each program anew for each kind of section, and keeps what it has compiled by the text of the
    program. That text depends on the order in which a layer got its data and its colours: here they come in
    the order in which a stage gives them. A viewer that holds layers is left alone: it is warm.

    What was made so far stays until the program ends: Python no longer searches it for garbage, which took
    200 ms at a time.
    """
    if len(viewer.layers):
        return
    show_scale_bar(viewer)
    image = Image(np.zeros((2, 2, 2), np.float32), name="warm-up")
    with _shown(viewer, image):
        for section in SECTIONS:
            image.data = np.zeros((2, *section), np.float32)
            QCoreApplication.processEvents()
    for section in SECTIONS:
        labels = Labels(np.zeros((1, 1, 1), np.uint8), name="warm-up")
        viewer.layers.append(labels)
        labels.data = np.zeros((2, *section), np.uint8)
        LabelColours(_SOME).paint(labels)
        with _shown(viewer, labels):
            QCoreApplication.processEvents()
            labels.data = np.zeros((3, *section), np.uint8)  # as when the next preview has another size
            QCoreApplication.processEvents()
    gc.collect()
    gc.freeze()


@contextmanager
def _shown(viewer: napari.Viewer, layer: Image | Labels) -> Iterator[None]:
    """Show a layer, and remove it afterwards."""
    if layer not in viewer.layers:
        viewer.layers.append(layer)
    layer.bar(lambda: False)
    layer.tell()
    try:
        yield
    finally:
        viewer.layers.remove(layer)
        QCoreApplication.processEvents()  # one layer at a time: some drivers die of a removed one beside a new one

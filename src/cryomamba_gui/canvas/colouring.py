"""The colours and names of labels, as napari wants them."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import define, evolve, field
from napari.utils.colormaps import Colormap, DirectLabelColormap

from cryomamba_core.labels import Label
from cryomamba_gui.canvas.layers import Labels

#: Of values that the model does not name, for example painted ones.
NAMELESS = "#bbbbbb"


@define
class LabelColours:
    """How the labels of a mask look.

    Attributes
    ----------
    labels
        Background left out.
    opacities
        Value → opacity from 0 to 1; 1 for those that are not there.
    hidden
        Values that are not shown, whatever their opacity.
    isolated
        The one value that is shown, though it be hidden, or None for all.
    """

    labels: tuple[Label, ...] = ()
    opacities: dict[int, float] = field(factory=dict)
    hidden: set[int] = field(factory=set)
    isolated: int | None = None

    def copy(self) -> LabelColours:
        """The same look, which stays when this one changes."""
        return evolve(self, opacities=dict(self.opacities), hidden=set(self.hidden))

    def opacity(self, value: int) -> float:
        """Opacity of a label now, from 0 to 1."""
        shown = value not in self.hidden if self.isolated is None else value == self.isolated
        return self.opacities.get(value, 1.0) if shown else 0.0

    def colormap(self) -> DirectLabelColormap:
        """For a layer of napari."""
        touched = {*self.opacities, *self.hidden, *(() if self.isolated is None else (self.isolated,))}
        colours: dict[int | None, Any] = {value: rgba(NAMELESS, self.opacity(value)) for value in touched}
        colours |= {label.value: rgba(label.color, self.opacity(label.value)) for label in self.labels}
        colours[0] = np.zeros(4, np.float32)
        colours[None] = rgba(NAMELESS, 1.0 if self.isolated is None else 0.0)
        return DirectLabelColormap(color_dict=colours)

    def paint(self, layer: Labels) -> None:
        """Have a layer look so."""
        colormap = self.colormap()
        colormap.use_selection, colormap.selection = layer.show_selected_label, layer.selected_label
        layer.colormap = colormap

    def features(self) -> dict[str, list[Any]]:
        """A table by which napari names the label under the cursor."""
        return {
            "index": [0, *(label.value for label in self.labels)],
            "name": ["background", *(label.name for label in self.labels)],
        }


def shades(color: str) -> Colormap:
    """From black, which adds nothing to what lies beneath, to a colour as `rgba` takes it."""
    brightest = rgba(color, 1.0)
    name = "#" + bytes(np.round(255 * brightest[:3]).astype(np.uint8)).hex()  # napari would take any for its own
    return Colormap(np.array([(0, 0, 0, 1), brightest], np.float32), name=name)


def rgba(color: str, opacity: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Red, green, blue and opacity, from 0 to 1, of ``#rrggbb``; grey where it is none."""
    try:
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
    except ValueError:
        red, green, blue = bytes.fromhex(NAMELESS.removeprefix("#"))
    return np.array([red / 255, green / 255, blue / 255, opacity], np.float32)

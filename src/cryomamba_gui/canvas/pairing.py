"""Which of two layers shows a thing in 2D, and which one in 3D."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import napari

from cryomamba_gui.canvas.layers import Image, Labels
from cryomamba_gui.canvas.turns import at_once


class Pair:
    """A fine and a coarse layer of one thing: at most one of them is shown, and hiding it hides the thing.

    Parameters
    ----------
    viewer
        Where the layers are or will be.
    fine, coarse
        Both hidden for now.
    """

    def __init__(self, viewer: napari.Viewer, fine: Image | Labels, coarse: Image | Labels) -> None:
        self._viewer = viewer
        self._layers = (fine, coarse)
        self._flat: Image | Labels | None = None
        self._spatial: Image | Labels | None = None
        for layer in self._layers:
            layer.bar(partial(self._bars, layer))
            layer.events.visible.connect(self._take_wish)

    @property
    def wanted(self) -> bool:
        """Whether the user wants to see the thing."""
        return bool(self._layers[0].wanted)

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        for layer in self._layers:
            if layer.wanted != wanted:
                layer.visible = wanted

    @property
    def spatial(self) -> Image | Labels | None:
        """What shows the thing in 3D."""
        return self._spatial

    def show(self, *, flat: Image | Labels | None, spatial: Image | Labels | None) -> None:
        """Choose what shows the thing in 2D and in 3D; None for nothing."""
        at_once(self.show_steps(flat=flat, spatial=spatial))

    def show_steps(self, *, flat: Image | Labels | None, spatial: Image | Labels | None) -> Iterator[None]:
        """The same; Qt may have its turn at each step."""
        self._flat, self._spatial = flat, spatial
        yield from self._turn_steps()

    def turn(self) -> None:
        """Show what is for the viewer's dimensions; if the other layer was active, that one is from now on."""
        at_once(self._turn_steps())

    def _turn_steps(self) -> Iterator[None]:
        for layer in reversed(self._layers):
            yield from layer.tell_steps()
            yield
        current = self._current
        selection = self._viewer.layers.selection
        if current in self._viewer.layers and selection.active in self._layers and selection.active is not current:
            selection.active = current

    def part(self) -> None:
        """Hear the layers no more."""
        for layer in self._layers:
            layer.events.visible.disconnect(self._take_wish)

    @property
    def _current(self) -> Image | Labels | None:
        return self._spatial if self._viewer.dims.ndisplay == 3 else self._flat

    def _bars(self, layer: Image | Labels) -> bool:
        return layer is not self._current

    def _take_wish(self, event: Any) -> None:
        self.wanted = event.source.wanted

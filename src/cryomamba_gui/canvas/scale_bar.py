"""A scale bar in nanometres for layers that are in ångströms.

napari 0.9 takes the unit of its bar from the layers and would write "5 kÅ"; an override of the unit
for all layers makes its tools miss the voxels under the mouse.
"""

from __future__ import annotations

from typing import Any

import napari
import pint
from napari._vispy.overlays.scale_bar import VispyScaleBarOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari.components.overlays import ScaleBarOverlay


class NanometreBar(ScaleBarOverlay):  # type: ignore[misc]  # napari has no types
    """napari's scale bar, but lengths in ångströms are written in nm."""

    @property
    def unit(self) -> None:
        """Nothing any more in napari, which has the event of it all the same, but not for what inherits it."""
        return None

    @unit.setter
    def unit(self, value: object) -> None:
        pass


class _VispyNanometreBar(VispyScaleBarOverlay):  # type: ignore[misc]  # as above
    _unit: Any

    def _on_unit_change(self) -> None:
        super()._on_unit_change()
        if self._unit.units == pint.Unit("angstrom"):
            self._unit = self._unit.to("nanometer")
            self._on_size_or_zoom_change(force=True)


overlay_to_visual[NanometreBar] = _VispyNanometreBar


def show_scale_bar(viewer: napari.Viewer) -> None:
    """Show a scale bar, in place of the one that napari has; menus and settings work on it as before."""
    overlays = viewer.canvas.overlays
    if not isinstance(overlays["scale_bar"], NanometreBar):
        before = overlays["scale_bar"]
        before.visible = False
        overlays["scale_bar"] = NanometreBar(**{**before.model_dump(), "visible": True})
    overlays["scale_bar"].visible = True

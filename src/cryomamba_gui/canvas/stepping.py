"""Going through a tomogram section by section, by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import napari
from attrs import frozen

from cryomamba_core.geometry import VoxelGrid
from cryomamba_gui.canvas.latest import Latest
from cryomamba_gui.canvas.sections import Direction, Sought, find_section, with_change, with_label

if TYPE_CHECKING:
    from cryomamba_gui.canvas.layers import Labels
    from cryomamba_gui.masks.mask import EditedMask

#: Key → what it does and by how much; none of them is among napari's own.
KEYS: dict[str, tuple[str, int]] = {
    "PageDown": ("step", 1),
    "PageUp": ("step", -1),
    "Shift-PageDown": ("step", 10),
    "Shift-PageUp": ("step", -10),
    "N": ("seek_label", 1),
    "Shift-N": ("seek_label", -1),
    "K": ("seek_change", 1),
    "Shift-K": ("seek_change", -1),
}

#: What the keys do, in words for a user.
WORDS = {
    "PageDown / PageUp": "next or previous section",
    "Shift+PageDown / PageUp": "10 sections on or back",
    "N / Shift+N": "next or previous section with the selected label",
    "K / Shift+K": "next or previous section that was changed",
}


@frozen
class _Search:
    what: str
    axis: int
    section: int
    direction: Direction
    sought: Sought


class Stepper:
    """Steps through the sections that the viewer shows in 2D.

    Parameters
    ----------
    viewer
        The tomogram's axes are its last three.
    grid
        Of the tomogram.
    layer
        Of the mask; its selected label is the one that is sought.
    mask
        Gives the mask that is shown, or None.
    """

    def __init__(
        self, viewer: napari.Viewer, grid: VoxelGrid, layer: Labels, mask: Callable[[], EditedMask | None]
    ) -> None:
        self._viewer = viewer
        self._grid = grid
        self._layer = layer
        self._mask = mask
        self._shadowed: dict[str, Any] | None = None
        self._searches: Latest[_Search] = Latest(self._search, interrupt=True)

    @property
    def active(self) -> bool:
        """Whether the keys are bound."""
        return self._shadowed is not None

    def bind(self) -> None:
        """Begin to take keys; what they did before is kept."""
        if self._shadowed is None:
            self._shadowed = {
                key: self._viewer.bind_key(key, self._on_key(method, count), overwrite=True)
                for key, (method, count) in KEYS.items()
            }

    def unbind(self) -> None:
        """Take no more keys; they do what they did before."""
        for key, before in (self._shadowed or {}).items():
            self._viewer.bind_key(key, before, overwrite=True)
        self._shadowed = None

    @property
    def axis(self) -> int:
        """Of the sections that are shown, by its place in ZYX."""
        ndim = self._viewer.dims.ndim
        return next((axis - ndim + 3 for axis in self._viewer.dims.order if axis >= ndim - 3), 0)

    @property
    def section(self) -> int:
        """Index of the section that is shown."""
        axis = self.axis
        point = self._viewer.dims.point[self._viewer.dims.ndim - 3 + axis]
        index = round((float(point) - self._grid.origin[axis]) / self._grid.voxel_size[axis])
        return max(0, min(index, self._grid.shape[axis] - 1))

    def go_to(self, section: int, *, axis: int | None = None) -> None:
        """Show a section of the axis in view, or turn `axis` (in ZYX) to it; clipped to the tomogram."""
        axis = self.axis if axis is None else axis
        index = max(0, min(section, self._grid.shape[axis] - 1))
        point = self._grid.origin[axis] + index * self._grid.voxel_size[axis]
        self._viewer.dims.set_point(self._viewer.dims.ndim - 3 + axis, point)

    def step(self, count: int) -> None:
        """Go on by a number of sections, or back."""
        self.go_to(self.section + count)

    def seek_label(self, direction: Direction) -> None:
        """Go to the next (1) or previous (-1) section that holds the selected label; a newer search ends this one."""
        mask, value = self._mask(), int(self._layer.selected_label)
        if mask is None:
            self._viewer.status = "there is no mask"
            return
        name = next((label.name for label in mask.labels if label.value == value), f"label {value}")
        self._seek(name, direction, with_label(mask.current, value))

    def seek_change(self, direction: Direction) -> None:
        """Go to the next (1) or previous (-1) section in which the mask differs from what the job made."""
        mask = self._mask()
        if mask is None:
            self._viewer.status = "there is no mask"
            return
        self._seek("changes", direction, with_change(mask.current, mask.original))

    async def run(self) -> None:
        """Search when asked to, until cancelled."""
        await self._searches.run()

    def _on_key(self, method: str, count: int) -> Callable[[object], None]:
        def pressed(_: object) -> None:
            getattr(self, method)(count)

        return pressed

    def _seek(self, what: str, direction: Direction, sought: Sought) -> None:
        self._viewer.status = f"looking for {what} …"
        self._searches.ask(_Search(what=what, axis=self.axis, section=self.section, direction=direction, sought=sought))

    async def _search(self, search: _Search) -> None:
        try:
            found = await find_section(self._grid.shape, search.axis, search.section, search.direction, search.sought)
        except OSError as error:
            self._viewer.status = f"the mask cannot be searched: {error}"
            return
        if found is None:
            side = "after" if search.direction > 0 else "before"
            self._viewer.status = f"no section with {search.what} {side} this one"
            return
        self.go_to(found, axis=search.axis)
        self._viewer.status = f"section {found} with {search.what}"

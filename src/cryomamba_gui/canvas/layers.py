"""Layers of napari that know two things more: they can be barred, and they keep within the tomogram."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import napari.layers
import numpy as np
from napari.layers import Layer
from napari.settings import get_settings
from napari.utils.events import Event
from napari.utils.notifications import show_info
from numpy.typing import NDArray

from cryomamba_core.geometry import VoxelGrid
from cryomamba_gui.canvas.turns import at_once, tell_one_by_one

#: Layers say what their scale is in; napari works in the smallest unit that it finds.
UNITS = ("angstrom",) * 3
#: Labels of more voxels are not filled across sections: napari goes through all of them in Qt's thread, which
#: took 0.8 s for so many, and eleven bytes for each voxel.
FILLED = 32 << 20
#: Bytes of masks and old values that undo keeps: a hundred fills of a large section would be gigabytes.
KEPT = 256 << 20
#: What is said of a fill that is not made.
TOO_LARGE = 'This mask is too large to be filled in 3D: untick "in 3D", and fill it section by section.'


def _always() -> bool:
    return True


class _OnStage:
    """What is added to a layer.

    A layer that is barred is hidden, whatever the user wants. Whether it is barred is asked whenever
    napari asks whether it is visible: napari hears of a turn to 3D before anybody else does, and
    would read and upload a whole tomogram at once.
    """

    _barred: Callable[[], bool] = staticmethod(_always)
    _wanted = True
    _told = False
    _bounds: NDArray[np.float64] | None = None

    @property
    def visible(self) -> bool:
        """Whether the layer is shown now; set to whether the user wants to see it."""
        return self._wanted and not self._barred()

    @visible.setter
    def visible(self, wanted: bool) -> None:
        self._wanted = bool(wanted)
        self._told = self.visible
        Layer.visible.fset(self, self._wanted)

    @property
    def wanted(self) -> bool:
        """Whether the user wants to see the layer, as far as it can be shown."""
        return self._wanted

    def bar(self, barred: Callable[[], bool]) -> None:
        """Hide the layer whenever `barred()`; call `tell` when its answer may have changed."""
        self._barred = barred

    def tell(self) -> None:
        """Have everyone know whether the layer is visible, if that is not what they were told last."""
        at_once(self.tell_steps())

    def tell_steps(self) -> Iterator[None]:
        """The same; Qt may have its turn at each step."""
        if self.visible != self._told:
            layer: Any = self
            with layer.events.visible.blocker():
                self.visible = self._wanted
            yield from tell_one_by_one(layer.events.visible)

    def keep_within(self, grid: VoxelGrid) -> None:
        """Let the layer extend as far as `grid`, however far its data do.

        The last voxel of a coarse grid may reach beyond the tomogram: the sliders must not.
        """
        z, y, x = (size - 1 for size in grid.shape)
        self._bounds = np.array([grid.origin, grid.position((z, y, x))])
        layer: Any = self
        layer.scale = layer.scale  # has napari work the extent out again

    def place(self, grid: VoxelGrid) -> None:
        """Lay the layer's data on a grid."""
        layer: Any = self
        if not np.array_equal(layer.scale, grid.voxel_size):
            layer.scale = grid.voxel_size
        if not np.array_equal(layer.translate, grid.origin):
            layer.translate = grid.origin

    @cached_property
    def extent(self) -> Any:
        """Where the layer lies, in data and in world coordinates."""
        whole = Layer.extent.func(self)
        return whole if self._bounds is None else whole._replace(world=self._bounds)


class Image(_OnStage, napari.layers.Image):  # type: ignore[misc]  # napari has no types
    """An image that can be barred. It keeps the name of its class, which napari takes for its kind."""


class Labels(_OnStage, napari.layers.Labels):  # type: ignore[misc]  # as above
    """Labels that can be barred, and that say when the user has changed them.

    ``events.edited`` is emitted after each stroke, fill, polygon, undo and redo that changed something.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events.add(edited=Event)
        self.events.paint.connect(self._count_edit)

    @property
    def can_be_filled(self) -> bool:
        """Whether a fill would be over soon: in a section always, across sections unless there are too many voxels."""
        return bool(self.n_edit_dimensions < self.ndim or self.data.size <= FILLED)

    def fill(self, coord: Sequence[float], new_label: int, refresh: bool = True) -> None:  # noqa: FBT001, FBT002  # napari's
        """Fill what is connected; see napari's. Nothing is done but to say so if that would take too long."""
        if self.can_be_filled:
            super().fill(coord, new_label, refresh)
        else:
            show_info(TOO_LARGE)

    def undo(self) -> None:
        """Take the last edit back."""
        if self._undo_history:
            super().undo()
            self._undone_sizes.append(self._sizes.pop())
            self.events.edited()

    def redo(self) -> None:
        """Make the edit again that was taken back last."""
        if self._redo_history:
            super().redo()
            self._sizes.append(self._undone_sizes.pop())
            self.events.edited()

    def hold_steps(self, array: NDArray[Any]) -> Iterator[None]:
        """Show and edit `array` from now on; Qt may have its turn at each step. The layer must be hidden."""
        with self.events.data.blocker():
            self.data = array
        yield from tell_one_by_one(self.events.data, value=array)

    def refresh_steps(self) -> Iterator[None]:
        """Show data that have changed in place; Qt may have its turn before they are drawn."""
        if get_settings().experimental.async_:
            self.refresh(extent=False, thumbnail=False)
        elif self.visible:
            self.set_view_slice()
            yield from tell_one_by_one(self.events.set_data)

    def get_status(self, position: Any = None, **options: Any) -> dict[str, str]:
        """What the status bar says of a position; see napari's."""
        displayed = options.get("dims_displayed")
        if options.get("view_direction") is None and displayed is not None and len(displayed) == 3:
            # napari 0.9.2 fails here for labels with names, if the mouse was not on the canvas yet
            return dict(Layer.get_status(self, position, **options))
        return dict(super().get_status(position, **options))

    def forget_edits(self) -> None:
        """Clear the history of undo and redo, as other data need; the tool goes back to moving the camera."""
        self.editable = False  # napari clears it then, and at no other time
        self.editable = True

    def _reset_history(self, event: Event | None = None) -> None:
        super()._reset_history(event)
        self._sizes: deque[int] = deque(maxlen=self._history_limit)
        self._undone_sizes: deque[int] = deque(maxlen=self._history_limit)

    def _count_edit(self, event: Event) -> None:
        """Take in an edit; the oldest ones are forgotten if all together hold too much, this one never is."""
        self._sizes.append(_size_of(event.value))
        self._undone_sizes.clear()
        while len(self._sizes) > 1 and sum(self._sizes) > KEPT:
            self._sizes.popleft()
            self._undo_history.popleft()
        self.events.edited()


def _size_of(part: Any) -> int:
    """Bytes of the arrays in an entry of napari's history, which is made of lists and tuples of them."""
    if isinstance(part, np.ndarray):
        return part.nbytes
    return sum(map(_size_of, part)) if isinstance(part, Iterable) else 0

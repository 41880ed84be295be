"""The tomograms that lie open in a viewer, and what the engine makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from psygnal import Signal

from cryomamba_core.errors import ErrorInfo, UnusableVoxelSize
from cryomamba_core.jobs import JobState
from cryomamba_gui.canvas.place import Place
from cryomamba_gui.canvas.stage import Stage
from cryomamba_gui.volumes.tomogram import Tomogram

if TYPE_CHECKING:
    import napari

    from cryomamba_core.geometry import Vector3
    from cryomamba_core.plugins import PluginHost
    from cryomamba_gui.desk.desk import Desk
    from cryomamba_gui.desk.history_file import RecentFile
    from cryomamba_gui.desk.jobs import JobItem


class Bench:
    """Opens tomograms, lays previews and masks over them, and knows which one the user is at.

    Parameters
    ----------
    viewer
        Of napari; it may hold layers of others.
    desk
        The engine and its jobs.

    Attributes
    ----------
    opened, left
        Heard with a `Place` that has come or gone.
    chosen
        Heard with the `Place` that the user has turned to, or None.
    refused
        Heard with the path of a tomogram whose header has no voxel size, and the error.
    opening
        Heard with paths of what is being opened, whenever there is one more or less.
    """

    opened = Signal(object)
    left = Signal(object)
    chosen = Signal(object)
    refused = Signal(object, object)
    opening = Signal(object)

    def __init__(self, viewer: napari.Viewer, desk: Desk) -> None:
        self._viewer = viewer
        self._desk = desk
        self._places: dict[Path, Place] = {}
        self._leaving: list[Place] = []
        self._coming: dict[Path, trio.CancelScope] = {}
        self._wanted: dict[Path, JobItem] = {}
        self._current: Place | None = None
        viewer.layers.events.removed.connect(self._layer_removed)
        viewer.layers.selection.events.active.connect(self._layer_chosen)
        desk.jobs.added.connect(self._take_item)
        desk.jobs.previewed.connect(self._take_item)
        desk.jobs.ended.connect(self._take_item)
        self._connected = desk.link.connected
        desk.link.changed.connect(self._heed_link)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    @property
    def current(self) -> Place | None:
        """The place that the user is at."""
        return self._current

    def at(self, path: Path) -> Place | None:
        """The place of a tomogram, if it lies open."""
        return self._places.get(path)

    def open(self, path: Path, *, voxel_size: Vector3 | None = None) -> None:
        """Open a tomogram, or turn to it if it lies open; with another voxel size it is opened anew.

        Without one, a file is opened with the voxel size that the user gave for it the last time.
        """
        path = path.absolute()
        place = self._places.get(path)
        if place is not None and voxel_size is None:
            self.turn_to(place)
        elif path not in self._coming:
            scope = self._desk.soon(lambda: self._open(path, voxel_size), name=f"opening {path.name}")
            self._coming[path] = scope
            self.opening.emit(tuple(self._coming))

    def show(self, item: JobItem) -> None:
        """Open the tomogram of a job, or turn to it, and show what the job has made."""
        if item.path is None:
            return
        place = self._places.get(item.path)
        if place is None:
            self._wanted[item.path] = item
            self.open(item.path, voxel_size=item.record.config.voxel_size)
        else:
            self.turn_to(place)
            place.take(item, chosen=True)

    def stop_opening(self) -> None:
        """Give up what is being opened."""
        for scope in self._coming.values():
            scope.cancel()

    def turn_to(self, place: Place) -> None:
        """Make a place the current one, and its tomogram the active layer."""
        self._viewer.layers.selection.active = place.stage.image
        self._choose(place)

    def turn_to_path(self, path: Path) -> None:
        """Turn to a tomogram if it lies open."""
        place = self._places.get(path)
        if place is not None:
            self.turn_to(place)

    def close(self, place: Place) -> None:
        """Put a tomogram away: its layers go, and its mask is saved."""
        if self._places.pop(place.path, None) is None:
            return
        place.stage.remove()
        self._leaving.append(place)
        self._desk.soon(partial(self._see_off, place), name=f"closing {place.path.name}")
        self.left.emit(place)
        if self._current is place:
            self._choose(next(reversed(self._places.values()), None))

    async def aclose(self) -> None:
        """Save what is edited and give back what is held open; the layers are left to the window."""
        self._viewer.layers.events.removed.disconnect(self._layer_removed)
        self._viewer.layers.selection.events.active.disconnect(self._layer_chosen)
        self._desk.link.changed.disconnect(self._heed_link)
        for place in (*self._leaving, *self._places.values()):
            await place.aclose()
        self._leaving.clear()
        self._places.clear()

    async def _see_off(self, place: Place) -> None:
        await place.aclose()
        self._leaving.remove(place)

    async def _open(self, path: Path, voxel_size: Vector3 | None) -> None:
        kept = self._desk.history.file(path) if voxel_size is None else None
        try:
            tomogram, voxel_size = await trio.to_thread.run_sync(
                partial(_open_tomogram, self._desk.host, path, voxel_size, kept), abandon_on_cancel=False
            )
            stage = await self._make_stage(tomogram)
        except UnusableVoxelSize as error:
            self._wanted.pop(path, None)
            self.refused.emit(path, ErrorInfo.of(error))
            raise
        except BaseException:
            self._wanted.pop(path, None)
            raise
        finally:
            self._coming.pop(path, None)
            self.opening.emit(tuple(self._coming))
        before = self._places.get(path)
        if before is not None:
            if before.held and before.item is not None:
                self._wanted.setdefault(path, before.item)
            self.close(before)
        stage.appear()
        place = Place(tomogram, stage, self._desk, voxel_size=voxel_size)
        self._places[path] = place
        self._desk.history.remember_file(path, voxel_size=voxel_size, shape=tomogram.grid.shape)
        place.begin()
        self.opened.emit(place)
        self._choose(place)
        wanted = self._wanted.pop(path, None)
        if wanted is not None:
            place.take(wanted, chosen=True)
            return
        items = [item for item in self._desk.jobs.items if item.path == path]
        if items:
            place.take(max(items, key=_worth))  # of several the first, which is the newest

    async def _make_stage(self, tomogram: Tomogram) -> Stage:
        """A stage that has not appeared yet: what napari does for its first layer is laid in turns before it."""
        stage = None
        try:
            self._viewer.dims.ndim = max(3, self._viewer.dims.ndim)  # the sliders
            await trio.lowlevel.checkpoint()
            stage = Stage(self._viewer, tomogram)
            await trio.lowlevel.checkpoint()
        except BaseException:
            if stage is not None:
                stage.remove()
            tomogram.close()
            raise
        return stage

    def _take_item(self, item: JobItem) -> None:
        """Show what a job has made, where its tomogram lies open and the user does not work at another job's mask."""
        place = self._places.get(item.path) if item.path is not None else None
        if place is not None:
            place.offer(item)

    def _heed_link(self) -> None:
        """Fetch the masks that could not be fetched, once an engine is there."""
        before, self._connected = self._connected, self._desk.link.connected
        if self._connected and not before:
            for place in self:
                place.fetch_again()

    def _layer_removed(self, event: object) -> None:
        layer = getattr(event, "value", None)
        for place in list(self._places.values()):
            if layer is place.stage.image:
                self.close(place)

    def _layer_chosen(self, event: object) -> None:
        layer = getattr(event, "value", None)
        for place in self._places.values():
            if layer in place.stage.layers:
                self._choose(place)

    def _choose(self, place: Place | None) -> None:
        if place is not self._current:
            self._current = place
            self.chosen.emit(place)


def _open_tomogram(
    host: PluginHost, path: Path, voxel_size: Vector3 | None, kept: RecentFile | None
) -> tuple[Tomogram, Vector3 | None]:
    """Open a file, and say with which voxel size instead of the header's; blocks.

    What is kept of the file is heeded as long as it has the same number of voxels: else it is another one by now.
    """
    if kept is not None and kept.voxel_size is not None:
        tomogram = Tomogram.open(host, path, voxel_size=kept.voxel_size)
        if tomogram.grid.shape == kept.shape:
            return tomogram, kept.voxel_size
        tomogram.close()
    return Tomogram.open(host, path, voxel_size=voxel_size), voxel_size


def _worth(item: JobItem) -> int:
    """Jobs with a larger one are shown rather, when a tomogram is opened."""
    return 2 if item.state is JobState.COMPLETED else int(item.preview is not None)

"""The layers of what comes with the labels of a job, for example how uncertain they are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import napari
import numpy as np
import trio
from attrs import define
from numpy.typing import NDArray
from psygnal import Signal

from cryomamba_core.companions import Companion
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import Label
from cryomamba_core.previews import PreviewCompanion
from cryomamba_gui.canvas.bell import Bell
from cryomamba_gui.canvas.colouring import shades
from cryomamba_gui.canvas.companion_file import CompanionFile
from cryomamba_gui.canvas.latest import Latest
from cryomamba_gui.canvas.layers import UNITS, Image
from cryomamba_gui.canvas.notice import Notice
from cryomamba_gui.volumes.planes import PlaneStore

#: Of what speaks of all labels. Even in lightness, from black: what is 0 adds nothing to the tomogram.
COLORMAP = "inferno"


@define(eq=False)
class _Shown:
    """One companion on the stage.

    Attributes
    ----------
    layer
        Shows it, in 2D and in 3D.
    tinted
        Whether the layer was given the colour of a label; from then on its colours are the user's.
    file
        Where it is read from; None while at most a preview is known.
    whole
        All of it, in a size for 3D, with its grid: the preview, until there is a file, and None until it is made from
        the file.
    """

    layer: Image
    tinted: bool = False
    file: CompanionFile | None = None
    whole: tuple[NDArray[np.uint8], VoxelGrid] | None = None


class CompanionLayers:
    """One layer for each companion, hidden until the user wants to see it; nothing is read for a hidden one.

    Parameters
    ----------
    viewer
        It may hold layers of others.
    grid
        Of the tomogram.
    name
        Of the tomogram, with which the names of the layers begin.
    base
        Layers of the tomogram; those of companions lie above them, and below all that was there before.
    notice
        Says what is not ready for 3D yet.
    failed
        Hears of an error when a companion could not be read for 3D.
    """

    #: Heard with the name of a companion whenever the user wants to see it, and when the user has deleted its layer.
    wanted = Signal(str)
    deleted = Signal(str)

    def __init__(
        self,
        viewer: napari.Viewer,
        grid: VoxelGrid,
        name: str,
        base: Sequence[Image],
        notice: Notice,
        failed: Callable[[Exception], object],
    ) -> None:
        self._viewer = viewer
        self._grid = grid
        self._name = name
        self._base = base
        self._failed = failed
        self._notice = notice
        self._shown: dict[str, _Shown] = {}
        self._arrived = Bell(self._refresh)
        self._removed = False
        self._making: Latest[None] = Latest(self._make_whole, interrupt=False)
        viewer.dims.events.ndisplay.connect(self._turn)
        viewer.layers.events.removed.connect(self._take_removal)

    @property
    def layers(self) -> tuple[Image, ...]:
        """All layers, from the lowest to the highest."""
        return tuple(shown.layer for shown in self._shown.values())

    async def run(self) -> None:
        """Make companions ready for 3D when they are to be seen there, until cancelled."""
        await self._making.run()

    def wants(self, name: str) -> bool:
        """Whether the user wants to see a companion."""
        shown = self._shown.get(name)
        return shown is not None and shown.layer.wanted

    def hide(self, name: str) -> None:
        """Hide a companion, until the user wants to see it again."""
        if self.wants(name):
            self._shown[name].layer.visible = False

    def mark(self, name: str, *, coming: bool) -> None:
        """Say on the canvas that the file of a companion is on its way, or say it no more."""
        self._notice.say(name, f"the {name} of {self._name} is being fetched …" if coming else None)

    def offer_steps(self, companions: Sequence[Companion], labels: Sequence[Label]) -> Iterator[None]:
        """Have a layer for each, though nothing is known of it yet; Qt may have its turn at each step.

        `labels` are those of the model.
        """
        for companion in companions:
            yield from self._lay_steps(companion, labels)

    def preview_steps(
        self,
        companions: Sequence[PreviewCompanion],
        voxels: Sequence[NDArray[np.uint8]],
        labels: Sequence[Label] = (),
    ) -> Iterator[None]:
        """Show those of a preview; Qt may have its turn at each step.

        Parameters
        ----------
        companions
            Say what they are, and where they lie.
        voxels
            What each of them holds, ZYX.
        labels
            Of the model.
        """
        for companion, values in zip(companions, voxels, strict=True):
            shown = yield from self._lay_steps(companion, labels)
            if shown is not None:
                self._fill(shown, whole=(values, companion.grid))

    def file_steps(self, file: CompanionFile) -> Iterator[None]:
        """Show one from its file, in place of its preview; Qt may have its turn at each step."""
        shown = yield from self._lay_steps(file.companion, ())
        if shown is not None:
            file.planes.arrived.connect(self._arrived.ring)
            self._fill(shown, file=file)

    def drop(self) -> None:
        """Show none any more; the layers are taken out of the viewer."""
        layers = self.layers
        for name in tuple(self._shown):
            self._let_go(name)
        for layer in layers:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def remove(self) -> None:
        """Drop all, show none any more, and hear the viewer no more."""
        self._removed = True
        self._viewer.dims.events.ndisplay.disconnect(self._turn)
        self._viewer.layers.events.removed.disconnect(self._take_removal)
        self._arrived.mute()
        self.drop()

    def _lay_steps(
        self, companion: Companion | PreviewCompanion, labels: Sequence[Label]
    ) -> Generator[None, None, _Shown | None]:
        """Have a layer for a companion; None in the end if it was dropped or deleted meanwhile."""
        name = companion.name
        shown = self._shown.get(name) or _Shown(self._make_layer(name))
        _tint(shown, companion.label, labels)
        known = name in self._shown
        yield
        if not known and name not in self._shown and not self._removed:
            self._insert(name, shown)
            yield
        return shown if self._shown.get(name) is shown else None

    def _fill(
        self,
        shown: _Shown,
        *,
        file: CompanionFile | None = None,
        whole: tuple[NDArray[np.uint8], VoxelGrid] | None = None,
    ) -> None:
        shown.file, shown.whole = file, whole
        self._put(shown)
        self._ask()

    def _make_layer(self, name: str) -> Image:
        layer = Image(
            np.zeros((1, 1, 1), np.uint8),
            name=f"{self._name} {name}",
            rgb=False,
            multiscale=False,
            projection_mode="none",
            contrast_limits=(0, 255),
            colormap=COLORMAP,
            blending="additive",
            rendering="mip",
            units=UNITS,
            axis_labels=tuple("zyx"),
            scale=self._grid.voxel_size,
            translate=self._grid.origin,
        )
        layer.visible = False
        layer.keep_within(self._grid)
        layer.bar(partial(self._bars, layer))
        layer.events.visible.connect(self._take_wish)
        return layer

    def _insert(self, name: str, shown: _Shown) -> None:
        """Put a layer into the viewer. The active layer stays active: the layer is ours only once it is there."""
        layers = self._viewer.layers
        below = [layers.index(each) for each in (*self._base, *self.layers) if each in layers]
        active = layers.selection.active
        layers.insert(max(below, default=len(layers) - 1) + 1, shown.layer)
        if active is not None:
            layers.selection.active = active
        self._shown[name] = shown

    def _put(self, shown: _Shown) -> None:
        """Have a layer show what is for the viewer's dimensions; in 3D nothing, until that is made."""
        layer, fine = shown.layer, shown.file
        data: Any  # napari takes arrays, and what can be indexed as one
        if shown.whole is not None and (fine is None or self._viewer.dims.ndisplay == 3):
            data, grid = shown.whole
        elif fine is not None:
            data, grid = fine.planes, fine.grid
        else:
            return
        if layer.data is not data:
            layer.data = data
            layer.place(grid)
        layer.tell()

    def _bars(self, layer: Image) -> bool:
        """Whether napari would read a whole file in one go."""
        return self._viewer.dims.ndisplay == 3 and isinstance(layer.data, PlaneStore)

    def _turn(self) -> None:
        for shown in self._shown.values():
            self._put(shown)
        self._ask()

    def _take_wish(self, event: Any) -> None:
        """Take in that a layer is shown or hidden."""
        name = self._name_of(event.source)
        if name is not None and self.wants(name):
            self.wanted.emit(name)
        self._ask()

    def _take_removal(self, event: Any) -> None:
        """Take in that a layer has left the viewer."""
        name = self._name_of(event.value)
        if name is not None:
            self._let_go(name)
            self._ask()
            self.deleted.emit(name)

    def _name_of(self, layer: object) -> str | None:
        return next((name for name, shown in self._shown.items() if shown.layer is layer), None)

    def _let_go(self, name: str) -> None:
        """Forget a companion; its layer is left to the viewer."""
        self._making.forget()
        shown = self._shown.pop(name)
        shown.layer.events.visible.disconnect(self._take_wish)
        if shown.file is not None:
            shown.file.planes.arrived.disconnect(self._arrived.ring, missing_ok=True)
        self.mark(name, coming=False)

    def _refresh(self) -> None:
        for layer in self.layers:
            layer.refresh(extent=False, thumbnail=False)

    def _ask(self) -> None:
        if any(self._is_owed(shown) for shown in self._shown.values()):
            self._making.ask(None)

    def _is_owed(self, shown: _Shown) -> bool:
        """Whether a companion is to be seen in 3D and cannot be yet."""
        return self._viewer.dims.ndisplay == 3 and shown.layer.wanted and shown.whole is None

    async def _make_whole(self, _: None) -> None:
        for name, shown in tuple(self._shown.items()):
            file = shown.file
            if file is None or not self._is_owed(shown):
                continue
            self._notice.say(name, f"the {name} of {self._name} is being made ready for 3D …")
            try:
                whole = await file.whole()
            except Exception as error:  # noqa: BLE001  # whatever a reader raises, the window goes on
                await trio.lowlevel.checkpoint_if_cancelled()
                self._failed(error)
                continue
            finally:
                self._notice.say(name, None)
            await trio.lowlevel.checkpoint_if_cancelled()
            shown.whole = whole
            self._put(shown)


def _tint(shown: _Shown, label: int | None, labels: Sequence[Label]) -> None:
    """Give a layer the colour of its label, once, and unless the user has given it another before."""
    color = next((each.color for each in labels if each.value == label), None)
    if color is not None and not shown.tinted:
        shown.tinted = True
        if shown.layer.colormap.name == COLORMAP:
            shown.layer.colormap = shades(color)

"""The layers of one tomogram in a viewer of napari."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
import trio
from numpy.typing import NDArray
from psygnal import Signal

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import Label
from cryomamba_core.previews import Preview
from cryomamba_gui.canvas.bell import Bell
from cryomamba_gui.canvas.colouring import LabelColours
from cryomamba_gui.canvas.companion_layers import CompanionLayers
from cryomamba_gui.canvas.latest import Latest
from cryomamba_gui.canvas.layers import UNITS, Image, Labels
from cryomamba_gui.canvas.notice import Notice
from cryomamba_gui.canvas.pairing import Pair
from cryomamba_gui.canvas.previewing import Voxels
from cryomamba_gui.canvas.relief import LARGE, make_relief, relief_factor
from cryomamba_gui.canvas.scale_bar import show_scale_bar
from cryomamba_gui.canvas.stepping import Stepper
from cryomamba_gui.canvas.turns import at_once, one_by_one
from cryomamba_gui.volumes.coarse import coarse_factor

if TYPE_CHECKING:
    from cryomamba_gui.masks.mask import EditedMask
    from cryomamba_gui.volumes.tomogram import Tomogram

#: How much fainter a preview is of which something will still change.
FAINT = 0.6


class Stage:
    """Shows a tomogram once it is to `appear`, and the preview or the mask of a job on it.

    All methods are for Qt's thread.

    Parameters
    ----------
    viewer
        It may hold layers of others.
    tomogram
        Stays open for as long as the stage is there; the stage does not close it.

    Attributes
    ----------
    image
        The tomogram in 2D.
    overview
        The tomogram in 3D, coarse.
    preview
        The labels of a preview; with a large mask, the coarse mask in 3D.
    mask
        The labels that the user edits.
    companions
        What comes with the labels, between the tomogram and them.
    stepper
        Goes from section to section.
    colours
        How labels look now.
    edited
        Heard after each edit of the mask that is shown, also by undo and redo.
    failed
        Heard with the exception when the mask, or a companion of it, could not be read for 3D.
    """

    edited = Signal()
    failed = Signal(object)

    def __init__(self, viewer: napari.Viewer, tomogram: Tomogram) -> None:
        self.viewer = viewer
        self.tomogram = tomogram
        self.name: str = stem(tomogram.path.name)
        self.colours = LabelColours()
        self._grid: VoxelGrid = tomogram.grid
        self._edited_mask: EditedMask | None = None
        self._named: dict[Labels, tuple[Label, ...]] = {}
        self._painted: dict[Labels, LabelColours] = {}
        self._provisional = False
        self._touching = False
        self._removed = False
        self._scope = trio.CancelScope()
        self._make_layers()
        self._notice = Notice(viewer)
        base = (self.image, self.overview)
        self.companions = CompanionLayers(viewer, self._grid, self.name, base, self._notice, self.failed.emit)
        self._volume = Pair(viewer, self.image, self.overview)
        self._labels = Pair(viewer, self.mask, self.preview)
        self._relief_is_old = True
        self._reliefs: Latest[EditedMask] = Latest(self._make_relief, interrupt=True)
        self.stepper = Stepper(viewer, self._grid, self.mask, lambda: self._edited_mask)
        self._arrived, self._surveyed = Bell(self._refresh), Bell(self.show_overview)
        self._connect()

    @property
    def layers(self) -> tuple[Image | Labels, ...]:
        """All layers, from the lowest to the highest."""
        return (self.image, self.overview, *self.companions.layers, self.preview, self.mask)

    @property
    def shown_mask(self) -> EditedMask | None:
        """The mask that is shown."""
        return self._edited_mask

    def appear(self) -> None:
        """Put the tomogram into the viewer."""
        self._add(self.image)
        self._volume.show(flat=self.image, spatial=None)
        show_scale_bar(self.viewer)
        self.show_overview()

    async def attend(self) -> None:
        """Do what takes time, until the stage is removed or the task is cancelled.

        It adds the layers that are not needed yet, one in each turn of Qt, searches for sections, and
        makes large masks coarse for 3D.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.stepper.run)
                nursery.start_soon(self._reliefs.run)
                nursery.start_soon(self.companions.run)
                for layer in self.layers:
                    self._add(layer)
                    await trio.sleep(0)

    def show_overview(self) -> None:
        """Take the tomogram's overview, if it is there by now, for 3D."""
        overview = self.tomogram.overview
        if overview is not None and not self._removed and self.overview.data is not overview.voxels:
            self._add(self.overview)
            self.overview.data = overview.voxels
            self.overview.place(overview.grid)
            limits = _projected_contrast(overview.voxels)
            low, high = self.tomogram.contrast_range
            if not low <= limits[0] < limits[1] <= high:
                self.overview.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
            self.overview.contrast_limits = limits
            self._volume.show(flat=self.image, spatial=self.overview)
            if self.viewer.dims.ndisplay == 3:
                self.viewer.fit_to_view(layers=[self.overview])
        self._explain()

    def show_preview(self, preview: Preview, labels: tuple[Label, ...], voxels: Voxels) -> None:
        """Show a preview at once; parameters are those of `preview_steps`."""
        at_once(self.preview_steps(preview, labels, voxels))

    def preview_steps(self, preview: Preview, labels: tuple[Label, ...], voxels: Voxels) -> Iterator[None]:
        """Show a preview in place of the one before, or of a mask; Qt may have its turn at each step.

        Parameters
        ----------
        preview
            Says where it lies and whether it is provisional.
        labels
            Of the model.
        voxels
            What `preview` holds; its labels are copied.
        """
        if self._removed:
            return
        array = voxels.labels
        self._forget_mask()
        if not _fits(self.preview, array):
            self._labels.show(flat=None, spatial=None)
        for _ in self._fill_preview(array, preview.grid, labels, provisional=preview.provisional):
            yield
            if self._removed or self._edited_mask is not None:
                return
        yield from self._labels.show_steps(flat=self.preview, spatial=self.preview)
        yield from self.companions.preview_steps(preview.companions, voxels.companions, labels)
        self._explain()

    def drop_preview(self) -> None:
        """Show no preview; a mask stays."""
        if self._edited_mask is None:
            self._labels.show(flat=None, spatial=None)
            self._labels.wanted = True

    def show_mask(self, mask: EditedMask) -> None:
        """Show a mask at once; see `mask_steps`."""
        at_once(self.mask_steps(mask))

    def mask_steps(self, mask: EditedMask) -> Iterator[None]:
        """Show a mask for editing, in place of a preview or of the mask before; Qt may have its turn at each step.

        Its undo history is empty.
        """
        if self._removed:
            return
        if self._edited_mask is not None:
            self._labels.show(flat=None, spatial=None)
        self._forget_mask()
        self._edited_mask = mask
        mask.changed.connect(self._take_change)
        for _ in self._fill_mask(mask):
            yield
            if self._removed or self._edited_mask is not mask:
                return
        self._labels.wanted = True
        yield from self._labels.show_steps(flat=self.mask, spatial=None if self._large else self.mask)
        self._ask_for_relief()
        self._explain()

    def drop_mask(self) -> None:
        """Show no mask any more; the layer lets go of its array."""
        if self._edited_mask is not None:
            self._labels.show(flat=None, spatial=None)
            self._forget_mask()
            self._explain()

    def set_label_opacity(self, value: int, alpha: float) -> None:
        """Set how opaque one label is, from 0 to 1; its voxels stay."""
        self.colours.opacities[value] = min(1.0, max(0.0, alpha))
        self._recolour()

    def hide_label(self, value: int, *, hidden: bool) -> None:
        """Show a label, or do not; its opacity is kept for when it is shown again, and its voxels stay."""
        if hidden:
            self.colours.hidden.add(value)
        else:
            self.colours.hidden.discard(value)
        self._recolour()

    def isolate(self, value: int | None) -> None:
        """Show only one label; None for all of them."""
        self.colours.isolated = value
        self._recolour()

    def remove(self) -> None:
        """Take all of it out of the viewer; the tomogram and the mask stay as they are."""
        if self._removed:
            return
        self.stepper.unbind()
        self._disconnect()
        if self._edited_mask is not None:
            self._part_from(self._edited_mask)
        self._removed = True
        self._scope.cancel()
        self._notice.clear()
        with self.viewer.layers.batched_update():  # else napari collects all garbage once for each layer
            self.companions.remove()
            for layer in reversed(self.layers):
                if layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)

    def _make_layers(self) -> None:
        tomogram, grid, name = self.tomogram, self._grid, self.name
        fine = _lying_on(grid)
        # where an overview and a preview are likely to lie: to move a layer later costs more than to fill it
        rough, rougher = (_lying_on(grid.coarsen(find(grid.shape))) for find in (coarse_factor, relief_factor))
        common: dict[str, Any] = {
            "units": UNITS,
            "axis_labels": tuple("zyx"),
            "multiscale": False,
            "projection_mode": "none",
        }
        grey: dict[str, Any] = {"rgb": False, "colormap": "gray", "contrast_limits": tomogram.contrast}
        nothing = np.zeros((1, 1, 1), np.uint8)
        self.image = Image(tomogram.planes, name=name, **grey, **fine, **common)
        self.overview = Image(
            nothing.astype(np.float32), name=f"{name} (3D)", rendering="mip", **grey, **rough, **common
        )
        for image in (self.image, self.overview):
            image.contrast_limits_range = tomogram.contrast_range
            image.contrast_limits = tomogram.contrast
        self.preview = Labels(nothing, name=f"{name} preview", **rougher, **common)
        self.mask = Labels(nothing, name=f"{name} mask", **fine, **common)
        for layer in (self.image, self.overview, self.preview, self.mask):
            layer.keep_within(grid)

    def _connect(self) -> None:
        self.tomogram.planes.arrived.connect(self._arrived.ring)
        self.tomogram.surveyed.connect(self._surveyed.ring)
        self.viewer.dims.events.ndisplay.connect(self._turn)
        self.mask.events.edited.connect(self._take_edit)
        self.mask._save_history = partial(self._begin_edit, self.mask._save_history)  # napari tells the end of strokes
        for layer in (self.preview, self.mask):
            layer.events.visible.connect(self._recolour)

    def _disconnect(self) -> None:
        self.tomogram.planes.arrived.disconnect(self._arrived.ring, missing_ok=True)
        self.tomogram.surveyed.disconnect(self._surveyed.ring, missing_ok=True)
        self._arrived.mute()
        self._surveyed.mute()
        self.viewer.dims.events.ndisplay.disconnect(self._turn)
        self.mask.events.edited.disconnect(self._take_edit)
        for layer in (self.preview, self.mask):
            layer.events.visible.disconnect(self._recolour)
        self._volume.part()
        self._labels.part()

    def _add(self, layer: Image | Labels) -> None:
        """Put a layer into the viewer, above those of ours that belong below it; the active layer stays active."""
        layers = self.viewer.layers
        if self._removed or layer in layers:
            return
        active = layers.selection.active
        below = [layers.index(other) for other in self.layers[: self.layers.index(layer)] if other in layers]
        layers.insert(max(below) + 1 if below else len(layers), layer)
        if below and active is not None:
            layers.selection.active = active

    def _refresh(self) -> None:
        self.image.refresh(extent=False, thumbnail=False)

    def _turn(self) -> None:
        self._volume.turn()
        self._labels.turn()
        self._ask_for_relief()
        self._explain()

    def _fill_preview(
        self, array: NDArray[Any], grid: VoxelGrid, labels: tuple[Label, ...], *, provisional: bool
    ) -> Iterator[None]:
        self._add(self.preview)
        yield
        yield from _fill(self.preview, array)
        yield
        self.preview.place(grid)
        yield
        yield from self._colour(self.preview, labels)
        yield
        yield from self._mark(provisional=provisional)
        yield

    def _fill_mask(self, mask: EditedMask) -> Iterator[None]:
        self._add(self.mask)
        yield
        yield from self.mask.hold_steps(mask.array)
        yield
        self.mask.place(self._grid)  # the job may have been told another voxel size
        yield
        self.mask.forget_edits()
        yield
        yield from self._colour(self.mask, mask.labels)
        yield

    def _colour(self, layer: Labels, labels: tuple[Label, ...]) -> Iterator[None]:
        if labels != self.colours.labels:
            self.colours = LabelColours(labels)
        if self._named.get(layer) != labels:
            self._named[layer] = labels
            layer.features = self.colours.features()
            yield
        self._paint(layer)

    def _recolour(self) -> None:
        for layer in (self.preview, self.mask):
            if layer.visible:  # the other one is painted when it is its turn
                self._paint(layer)

    def _paint(self, layer: Labels) -> None:
        look = self.colours.copy()
        if self._painted.get(layer) != look:
            self._painted[layer] = look
            look.paint(layer)

    def _mark(self, *, provisional: bool) -> Iterator[None]:
        name = f"{self.name} preview" + (" (provisional)" if provisional else "")
        if self.preview.name != name:
            self.preview.name = name
            yield
        if provisional != self._provisional:
            self._provisional = provisional
            opacity = self.preview.opacity * FAINT if provisional else self.preview.opacity / FAINT
            self.preview.opacity = min(1.0, opacity)

    @property
    def _large(self) -> bool:
        return self._edited_mask is not None and self._edited_mask.grid.voxels > LARGE

    def _forget_mask(self) -> None:
        self._reliefs.forget()
        self._relief_is_old = True
        if self._edited_mask is not None:
            self._part_from(self._edited_mask)
            self.mask.data = np.zeros((1, 1, 1), np.uint8)
            self.mask.forget_edits()

    def _part_from(self, mask: EditedMask) -> None:
        """Show the mask no more; what was done of a stroke counts, though its end will not be told."""
        mask.changed.disconnect(self._take_change, missing_ok=True)
        self._edited_mask = None
        if self.mask._staged_history:
            mask.touched()

    def _begin_edit(self, save: Callable[[Any], None], change: Any) -> None:
        """Mark the mask as edited with the first voxel of a stroke: that may be cut off before its end."""
        if self._edited_mask is not None:
            self._edited_mask.begin_edit()
        save(change)

    def _take_edit(self) -> None:
        if self._edited_mask is not None:
            self._touching = True
            try:
                self._edited_mask.touched()
            finally:
                self._touching = False
            self._relief_is_old = True
            self._ask_for_relief()
            self.edited.emit()

    def _take_change(self) -> None:
        """Draw the mask again, if it was changed from elsewhere, for example put back to the original."""
        if not self._touching:
            self.mask.forget_edits()
            self.mask.refresh(extent=False, thumbnail=False)
            self._relief_is_old = True
            self._ask_for_relief()

    def _ask_for_relief(self) -> None:
        if self._edited_mask is not None and self._large and self._relief_is_old and self.viewer.dims.ndisplay == 3:
            self._relief_is_old = False
            self._reliefs.ask(self._edited_mask)

    async def _make_relief(self, mask: EditedMask) -> None:
        factor = relief_factor(mask.grid.shape)
        try:
            array = await make_relief(mask.current, factor)
        except OSError as error:
            if mask is self._edited_mask:
                self.failed.emit(error)
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        await one_by_one(self._relief_steps(mask, array, self._grid.coarsen(factor)))

    def _relief_steps(self, mask: EditedMask, array: NDArray[Any], grid: VoxelGrid) -> Iterator[None]:
        if not _fits(self.preview, array):
            self._labels.show(flat=self.mask, spatial=None)
        for _ in self._fill_preview(array, grid, mask.labels, provisional=False):
            yield
            if mask is not self._edited_mask:
                return
        self.preview.name = f"{self.name} mask (3D)"
        yield from self._labels.show_steps(flat=self.mask, spatial=self.preview)
        self._explain()

    def _explain(self) -> None:
        spatial = self.viewer.dims.ndisplay == 3 and not self._removed
        waits = spatial and self.tomogram.overview is None
        self._notice.say("tomogram", f"{self.name} is being read for 3D …" if waits else None)
        waits = spatial and self._large and self._labels.spatial is None
        self._notice.say("mask", f"the mask of {self.name} is being made ready for 3D …" if waits else None)


def _fill(layer: Labels, array: NDArray[Any]) -> Iterator[None]:
    """Put labels into a layer, in place if there is nothing but labels to change; the layer is hidden otherwise."""
    if _fits(layer, array):
        np.copyto(layer.data, array)
        yield from layer.refresh_steps()
    else:
        yield from layer.hold_steps(np.array(array, array.dtype.newbyteorder("=")))


def _fits(layer: Labels, array: NDArray[Any]) -> bool:
    """Whether the labels can be put in the place of those that the layer has."""
    held = layer.data
    return bool(held.shape == array.shape and held.dtype == array.dtype and held.flags.writeable)


def stem(name: str) -> str:
    """A file's name without what says its format: ``tomo`` for ``tomo.mrc`` and for ``tomo.nii.gz``."""
    name = name.removesuffix(".gz")
    head, dot, _ = name.rpartition(".")
    return head if dot and head else name


def _lying_on(grid: VoxelGrid) -> dict[str, Any]:
    return {"scale": grid.voxel_size, "translate": grid.origin}


def _projected_contrast(voxels: NDArray[np.float32]) -> tuple[float, float]:
    """Limits for a maximum intensity projection: those of sections would show it white all over."""
    step = max(1, round((voxels.size / (1 << 19)) ** 0.5))
    projection = voxels[:, ::step, ::step].max(axis=0)
    finite = projection[np.isfinite(projection)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(finite, (1.0, 99.8)))
    return (low, high) if high > low else (low, low + 1.0)

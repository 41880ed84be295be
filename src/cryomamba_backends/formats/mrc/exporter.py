"""Labels, their companions and channels → MRC files that are stored as the source is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from cryomamba_backends.formats.mrc.header import (
    HEADER_SIZE,
    IMOD_ORIGIN,
    IMOD_SIGNED,
    IMOD_STAMP,
    LAYOUT,
    MAP_STAMP,
    MODES,
    VOLUME_STACK,
)
from cryomamba_backends.formats.mrc.reader import origin_of
from cryomamba_backends.formats.slabs import GreyCounter, ValueCounter, stored_slabs
from cryomamba_backends.formats.written_channels import channel_slabs, require_alike, require_forwards
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.channels import Channel
from cryomamba_core.companions import Companion
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray
from cryomamba_core.models import ModelInfo

#: The largest label that mode 0, signed bytes, can hold.
HIGHEST_IN_MODE_0 = 127

#: The largest number of a space group.
HIGHEST_SPACE_GROUP = 230

#: Channels that are named in the header, where a line is for the program.
MOST_NAMES = 9

#: Å by which two positions may differ and still be the same float32 number in a header.
SAME_PLACE = 1e-3


class MrcExporter(Exporter):
    """Writes the mask in the source's stored axis order with its cell, origin and start.

    Signed bytes hold labels to 127, unsigned 16-bit numbers those above, and companions. Channels become a stack of
    volumes.
    """

    name = "mrc"
    artifact = "mask.mrc"
    suffix = ".mrc"
    media_type = "application/x-mrc"
    writes_companions = True
    channel_suffixes = (".mrc", ".rec", ".map")
    channel_types = ("int8", "int16", "uint16", "float16", "float32")

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file, section by section."""
        header = np.zeros((), LAYOUT.newbyteorder("<"))
        notes = _place(header, grid, info.source.metadata.get("mrc"), artifact=self.artifact)
        _describe(header, f"CryoMamba mask of {info.source.name}", *_label_lines(info.model))
        _write_labels(path, header, labels, grid, highest=info.model.highest_label)
        return notes

    def write_companion(
        self, values: LabelArray, grid: VoxelGrid, companion: Companion, info: RunInfo, path: Path
    ) -> tuple[str, ...]:
        """Write the file as that of the mask; a binned one has a cell of its own voxels."""
        header = np.zeros((), LAYOUT.newbyteorder("<"))
        source = info.source.metadata.get("mrc")
        if source is not None and companion.binning > 1:
            source = {**source, "sampling": (0, 0, 0)}
        notes = _place(header, grid, source, artifact=self.companion_artifact(companion))
        _describe(header, f"CryoMamba {companion.name} of {info.source.name}", *textwrap.wrap(companion.meaning, 80))
        _write_labels(path, header, values, grid, highest=255)
        return notes

    def write_channels(self, channels: Sequence[Channel], path: Path) -> tuple[str, ...]:
        """Write a stack of volumes, in the first source's place and, if it can be, its axis order."""
        require_alike(channels)
        require_forwards(channels, suffixes=".nii, .nii.gz, .nrrd")
        first = channels[0]
        header = np.zeros((), LAYOUT.newbyteorder("<"))
        grid, source, notes = _stackable(first.grid, first.metadata.get("mrc"))
        notes += _place(header, grid, source, artifact="the file")
        header["counts"][2] *= len(channels)
        header["ispg"] = VOLUME_STACK + min(max(int(header["ispg"]), 1), HIGHEST_SPACE_GROUP)
        names = [f"{index}: {channel.name}" for index, channel in enumerate(channels[:MOST_NAMES])]
        _describe(header, f"CryoMamba: {len(channels)} channels of one volume", *names)
        slabs = (slab for channel in channels for slab in channel_slabs(channel, grid.stored_axes))
        _write(path, header, slabs, first.dtype, GreyCounter())
        return notes


class _Counter(Protocol):
    """What the header says of all voxels."""

    def add(self, values: NDArray[Any], /) -> None: ...

    @property
    def minimum(self) -> float: ...

    @property
    def maximum(self) -> float: ...

    @property
    def mean(self) -> float: ...

    @property
    def standard_deviation(self) -> float: ...


def _write_labels(path: Path, header: NDArray[np.void], values: LabelArray, grid: VoxelGrid, *, highest: int) -> None:
    """Write whole numbers up to `highest`."""
    dtype = np.dtype(np.int8 if highest <= HIGHEST_IN_MODE_0 else np.uint16)
    _write(path, header, stored_slabs(values, grid.stored_axes), dtype, ValueCounter(highest=highest))


def _write(
    path: Path, header: NDArray[np.void], slabs: Iterable[NDArray[Any]], dtype: np.dtype[Any], counter: _Counter
) -> None:
    """Write voxels, and the header once their statistics are known."""
    header["mode"] = next(mode for mode, code in MODES.items() if np.dtype(code) == dtype)
    dtype = dtype.newbyteorder("<")
    with path.open("xb") as stream:
        stream.write(bytes(HEADER_SIZE))
        for slab in slabs:
            counter.add(slab)
            stream.write(slab.astype(dtype, copy=False).data)
        header["dmin"], header["dmax"] = counter.minimum, counter.maximum
        header["dmean"], header["rms"] = counter.mean, counter.standard_deviation
        stream.seek(0)
        stream.write(header.tobytes())


def _place(
    header: NDArray[np.void], grid: VoxelGrid, source: Mapping[str, Any] | None, *, artifact: str
) -> tuple[str, ...]:
    """Fill in everything that says where the voxels are; `source` is the header of an MRC source."""
    sections, rows, columns = grid.stored_shape
    axes = tuple(3 - axis for axis in reversed(grid.stored_axes))
    sampling = tuple(reversed(grid.shape))
    angles: tuple[float, ...] = (90.0, 90.0, 90.0)
    origin: tuple[float, ...] = tuple(reversed(grid.origin))
    nstart: tuple[int, ...] = (0, 0, 0)
    space_group = 1
    notes: tuple[str, ...] = ()
    if source is not None and tuple(source["axes"]) == axes:
        angles, space_group = tuple(source["angles"]), int(source["space_group"])
        if min(source["sampling"]) > 0:
            sampling = tuple(source["sampling"])
        kept = origin_of(tuple(source["origin"]), tuple(source["nstart"]), axes, grid.voxel_size)
        if all(_same(a, b) for a, b in zip(kept, grid.origin, strict=True)):
            origin, nstart = tuple(source["origin"]), tuple(source["nstart"])
        if source["imod_flags"] is not None:
            header["imod_stamp"] = IMOD_STAMP
            header["imod_flags"] = int(source["imod_flags"]) & IMOD_ORIGIN | IMOD_SIGNED
        notes = _skew_note(angles, artifact)
    header["counts"] = (columns, rows, sections)
    header["nstart"] = nstart
    header["sampling"] = sampling
    header["cell"] = [size * count for size, count in zip(reversed(grid.voxel_size), sampling, strict=True)]
    header["angles"] = angles
    header["axes"] = axes
    header["origin"] = origin
    header["ispg"] = space_group
    return notes


def _stackable(
    grid: VoxelGrid, source: Mapping[str, Any] | None
) -> tuple[VoxelGrid, Mapping[str, Any] | None, tuple[str, ...]]:
    """A grid and the header of its source as a stack of volumes can have them: sections along z, one cell a volume."""
    if source is not None:
        source = {**source, "sampling": (0, 0, 0)}
    if grid.stored_axes[0] == 0:
        return grid, source, ()
    if source is not None:
        starts = dict(zip(source["axes"], source["nstart"], strict=True))
        source = {**source, "axes": (1, 2, 3), "nstart": [starts[axis] for axis in (1, 2, 3)]}
    order = ", ".join("zyx"[axis] for axis in grid.stored_axes)
    note = (
        f"voxels are stored in the order z, y, x, since a stack of volumes cannot have the order {order} of the source"
    )
    return evolve(grid, stored_axes=(0, 1, 2)), source, (note,)


def _same(kept: float, wanted: float) -> bool:
    return abs(kept - wanted) <= max(SAME_PLACE, 1e-6 * abs(wanted))


def _skew_note(angles: tuple[float, ...], artifact: str) -> tuple[str, ...]:
    if max(abs(angle - 90.0) for angle in angles) < 1e-3:
        return ()
    named = ", ".join(f"{angle:g}" for angle in angles)
    kept = f"{artifact} keeps the cell angles ({named})° of the source"
    return (f"{kept}; statistics and other formats take them for 90°",)


def _describe(header: NDArray[np.void], *lines: str) -> None:
    header["map"] = MAP_STAMP
    header["machst"] = (0x44, 0x44, 0, 0)
    header["nversion"] = 20141
    texts = lines[:10]
    header["nlabl"] = len(texts)
    for index, text in enumerate(texts):
        header["labels"][index] = text.encode("ascii", "replace")[:80].ljust(80)


def _label_lines(model: ModelInfo) -> list[str]:
    """Values and names of the labels, as many on a line as fit."""
    lines = [""]
    for label in model.labels:
        text = f"{label.value} = {label.name}"
        joined = f"{lines[-1]}, {text}" if lines[-1] else text
        if len(joined) > 80:
            lines.append(text)
        else:
            lines[-1] = joined
    return [line for line in lines if line]

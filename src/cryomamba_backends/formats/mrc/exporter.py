"""Labels and their companions → MRC files that are stored as the source is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.formats.mrc.header import (
    HEADER_SIZE,
    IMOD_ORIGIN,
    IMOD_SIGNED,
    IMOD_STAMP,
    LAYOUT,
    MAP_STAMP,
)
from cryomamba_backends.formats.mrc.reader import origin_of
from cryomamba_backends.formats.slabs import ValueCounter, stored_slabs
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.companions import Companion
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray
from cryomamba_core.models import ModelInfo

#: The largest label that mode 0, signed bytes, can hold.
HIGHEST_IN_MODE_0 = 127

#: Å by which two positions may differ and still be the same float32 number in a header.
SAME_PLACE = 1e-3


class MrcExporter(Exporter):
    """Writes the mask in the source's stored axis order with its cell, origin and start.

    Signed bytes hold labels to 127, unsigned 16-bit numbers those above, and companions.
    """

    name = "mrc"
    artifact = "mask.mrc"
    suffix = ".mrc"
    media_type = "application/x-mrc"
    writes_companions = True

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file, section by section."""
        header = np.zeros((), LAYOUT.newbyteorder("<"))
        notes = _place(header, grid, info.source.metadata.get("mrc"), artifact=self.artifact)
        _describe(header, f"CryoMamba mask of {info.source.name}", *_label_lines(info.model))
        _write(path, header, labels, grid, highest=info.model.highest_label)
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
        _write(path, header, values, grid, highest=255)
        return notes


def _write(path: Path, header: NDArray[np.void], values: LabelArray, grid: VoxelGrid, *, highest: int) -> None:
    """Write whole numbers up to `highest`, and the header once their statistics are known."""
    signed_bytes = highest <= HIGHEST_IN_MODE_0
    dtype = np.dtype("<i1" if signed_bytes else "<u2")
    header["mode"] = 0 if signed_bytes else 6
    counter = ValueCounter(highest=highest)
    with path.open("xb") as stream:
        stream.write(bytes(HEADER_SIZE))
        for slab in stored_slabs(values, grid.stored_axes):
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

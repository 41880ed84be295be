"""Labels, their companions and channels → NRRD files."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.formats.placement import Frame, matrix_of, output_frame
from cryomamba_backends.formats.slabs import stored_slabs
from cryomamba_backends.formats.written_channels import channel_slabs, require_alike, require_right_angles
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.channels import Channel
from cryomamba_core.companions import DTYPE, Companion
from cryomamba_core.geometry import Index3, VoxelGrid, to_index
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import Label, label_dtype

#: Masks are long runs of few values: higher levels take several times as long for little.
COMPRESSION = 1


#: Types that have other names in numpy.
_TYPES = {"float32": "float", "float64": "double"}


class NrrdExporter(Exporter):
    """Writes the mask at the same place as `mask.nii.gz`, with label names and colours as 3D Slicer reads them.

    Parameters
    ----------
    angstrom_as_mm
        Write 1 Å as 1 mm, for viewers that cannot show lengths of 1e-7 mm.
    """

    name = "nrrd"
    artifact = "mask.nrrd"
    suffix = ".nrrd"
    media_type = "application/x-nrrd"
    writes_companions = True
    channel_suffixes = (".nrrd",)
    channel_types = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "int64", "uint64", "float64")

    def __init__(self, *, angstrom_as_mm: bool = False) -> None:
        self._angstrom_as_mm = angstrom_as_mm

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file, compressed slab by slab."""
        dtype = label_dtype(info.model.highest_label)
        frame, axes, note = self._frame(grid, info)
        shape = to_index(labels.shape[axis] for axis in reversed(axes))
        geometry = _geometry("mask", shape, dtype, matrix_of(grid, frame, axes))
        _write(path, labels, axes, dtype, (*geometry, *_segments(info.model.labels, shape)))
        return (f"{self.artifact}: {note}",)

    def write_companion(
        self, values: LabelArray, grid: VoxelGrid, companion: Companion, info: RunInfo, path: Path
    ) -> tuple[str, ...]:
        """Write the file, compressed slab by slab, with a key ``meaning``."""
        frame, axes, note = self._frame(grid, info)
        shape = to_index(values.shape[axis] for axis in reversed(axes))
        geometry = _geometry(companion.name, shape, DTYPE, matrix_of(grid, frame, axes))
        _write(path, values, axes, DTYPE, (*geometry, f"meaning:={' '.join(companion.meaning.split())}"))
        return (f"{self.companion_artifact(companion)}: {note}",)

    def write_channels(self, channels: Sequence[Channel], path: Path) -> tuple[str, ...]:
        """Write them along a fourth, slowest axis, with their names; not compressed, since noise does not shrink."""
        require_alike(channels)
        require_right_angles(channels, suffixes=".mrc")
        first = channels[0]
        frame, axes, note = output_frame(first.grid, first.metadata, angstrom_as_mm=self._angstrom_as_mm)
        shape = to_index(first.grid.shape[axis] for axis in reversed(axes))
        matrix = matrix_of(first.grid, frame, axes)
        names = (f"channel{index}:={' '.join(channel.name.split())}" for index, channel in enumerate(channels))
        with path.open("xb") as stream:
            stream.write(_header((*_geometry("channels", shape, first.dtype, matrix, channels=len(channels)), *names)))
            for channel in channels:
                for slab in channel_slabs(channel, axes):
                    stream.write(slab.astype(first.dtype.newbyteorder("<"), copy=False).data)
        return (note,)

    def _frame(self, grid: VoxelGrid, info: RunInfo) -> tuple[Frame, Index3, str]:
        return output_frame(grid, info.source.metadata, angstrom_as_mm=self._angstrom_as_mm)


def _write(path: Path, values: LabelArray, axes: Index3, dtype: np.dtype[Any], lines: Iterable[str]) -> None:
    """Write the lines of a header, and voxels in the order of `axes`, slowest first."""
    with path.open("xb") as stream:
        stream.write(_header(lines))
        with gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0) as packed:
            for slab in stored_slabs(values, axes):
                packed.write(slab.astype(dtype.newbyteorder("<"), copy=False).data)


def _header(lines: Iterable[str]) -> bytes:
    return ("\n".join(lines) + "\n\n").encode(errors="replace")


def _geometry(
    content: str, shape: Index3, dtype: np.dtype[Any], matrix: NDArray[np.float64], *, channels: int = 0
) -> Iterator[str]:
    """Fields of the header; `shape` has the fastest axis first. Data of one or more `channels` are not compressed."""
    more = bool(channels)
    yield "NRRD0005"
    yield f"# CryoMamba {content}"
    yield f"type: {_TYPES.get(dtype.name, dtype.name)}"
    yield f"dimension: {3 + more}"
    yield "space: right-anterior-superior"
    yield f"sizes: {' '.join(map(str, shape))}" + f" {channels}" * more
    yield f"space directions: {' '.join(_vector(matrix[:3, column]) for column in range(3))}" + " none" * more
    yield "kinds: domain domain domain" + " list" * more
    yield "endian: little"
    yield f"encoding: {'raw' if more else 'gzip'}"
    yield 'space units: "mm" "mm" "mm"'
    yield f"space origin: {_vector(matrix[:3, 3])}"


def _segments(labels: tuple[Label, ...], shape: Index3) -> Iterator[str]:
    """Key/value pairs of 3D Slicer's segmentation format."""
    extent = " ".join(f"0 {size - 1}" for size in shape)
    for index, label in enumerate(labels):
        red, green, blue = (int(label.color[at : at + 2], 16) / 255 for at in (1, 3, 5))
        pairs = {
            "ID": f"Segment_{label.value}",
            "Name": " ".join(label.name.split()),
            "Color": f"{red:.6g} {green:.6g} {blue:.6g}",
            "LabelValue": str(label.value),
            "Layer": "0",
            "Extent": extent,
        }
        for key, value in pairs.items():
            yield f"Segment{index}_{key}:={value}"


def _vector(numbers: NDArray[np.float64]) -> str:
    return "(" + ",".join(f"{float(number):.15g}" for number in numbers) + ")"

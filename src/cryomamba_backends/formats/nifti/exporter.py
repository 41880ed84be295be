"""Labels and their companions → ``.nii.gz`` files; channels → these or plain ones."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.formats.placement import matrix_of, output_frame
from cryomamba_backends.formats.slabs import stored_slabs
from cryomamba_backends.formats.written_channels import channel_slabs, require_alike, require_right_angles
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.channels import Channel
from cryomamba_core.companions import DTYPE, Companion
from cryomamba_core.geometry import VoxelGrid, to_index
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import label_dtype

#: Masks are long runs of few values: higher levels take several times as long for little.
COMPRESSION = 1

#: NIfTI-1 counts voxels by signed 16-bit numbers.
LONGEST_IN_NIFTI_1 = 32767

#: NIFTI_INTENT_NONE, NIFTI_INTENT_LABEL, NIFTI_XFORM_SCANNER_ANAT, NIFTI_UNITS_MM.
_ANYTHING, _LABEL, _SCANNER, _MM = 0, 1002, 1, 2


class NiftiExporter(Exporter):
    """Writes the mask with the MRC's coordinates as x, y, z; a NIfTI or NRRD source keeps its own matrix.

    Parameters
    ----------
    angstrom_as_mm
        Write 1 Å as 1 mm, for viewers that cannot show lengths of 1e-7 mm.
    """

    name = "nifti"
    artifact = "mask.nii.gz"
    suffix = ".nii.gz"
    media_type = "application/gzip"
    writes_companions = True
    channel_suffixes = (".nii.gz", ".nii")
    channel_types = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "int64", "uint64", "float64")

    def __init__(self, *, angstrom_as_mm: bool = False) -> None:
        self._angstrom_as_mm = angstrom_as_mm

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file, compressed slab by slab."""
        names = ", ".join(f"{label.value} {label.name}" for label in info.model.labels)
        contents = _Contents(
            dtype=label_dtype(info.model.highest_label),
            intent=_LABEL,
            highest=info.model.highest_label,
            description=f"CryoMamba: {names}",
        )
        note = self._write_labels(path, labels, grid, contents, info)
        return (f"{self.artifact}: {note}",)

    def write_companion(
        self, values: LabelArray, grid: VoxelGrid, companion: Companion, info: RunInfo, path: Path
    ) -> tuple[str, ...]:
        """Write the file, compressed slab by slab."""
        contents = _Contents(
            dtype=DTYPE, intent=_ANYTHING, highest=255, description=f"CryoMamba {companion.name}: {companion.meaning}"
        )
        note = self._write_labels(path, values, grid, contents, info)
        return (f"{self.companion_artifact(companion)}: {note}",)

    def write_channels(self, channels: Sequence[Channel], path: Path) -> tuple[str, ...]:
        """Write them along the fourth axis, compressed slab by slab if the name says so."""
        require_alike(channels)
        require_right_angles(channels, suffixes=".mrc")
        first = channels[0]
        frame, axes, note = output_frame(first.grid, first.metadata, angstrom_as_mm=self._angstrom_as_mm)
        shape = (*(first.grid.shape[axis] for axis in reversed(axes)), len(channels))
        names = ", ".join(channel.name for channel in channels)
        contents = _Contents(dtype=first.dtype, intent=_ANYTHING, highest=0, description=f"CryoMamba channels: {names}")
        slabs = (slab for channel in channels for slab in channel_slabs(channel, axes))
        _write(path, _header(shape, matrix_of(first.grid, frame, axes), contents), slabs, first.dtype)
        return (note,)

    def _write_labels(self, path: Path, values: LabelArray, grid: VoxelGrid, contents: _Contents, info: RunInfo) -> str:
        """Write the file, and return a note on its lengths."""
        frame, axes, note = output_frame(grid, info.source.metadata, angstrom_as_mm=self._angstrom_as_mm)
        shape = to_index(values.shape[axis] for axis in reversed(axes))
        header = _header(shape, matrix_of(grid, frame, axes), contents)
        _write(path, header, stored_slabs(values, axes), contents.dtype)
        return note


def _write(path: Path, header: bytes, slabs: Iterable[NDArray[Any]], dtype: np.dtype[Any]) -> None:
    with path.open("xb") as stream, _packed(stream, plain=path.name.lower().endswith(".nii")) as packed:
        packed.write(header)
        for slab in slabs:
            packed.write(slab.astype(dtype.newbyteorder("<"), copy=False).data)


@contextmanager
def _packed(stream: IO[bytes], *, plain: bool) -> Iterator[IO[bytes]]:
    """What is written to goes to `stream`, compressed unless it is to be `plain`."""
    if plain:
        yield stream
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0) as packed:
        yield cast("IO[bytes]", packed)


@frozen(kw_only=True)
class _Contents:
    """What a header says of the voxels: their type, NIfTI's code for their kind, the largest of them, and words."""

    dtype: np.dtype[Any]
    intent: int
    highest: int
    description: str


def _header(shape: Sequence[int], matrix: NDArray[np.float64], contents: _Contents) -> bytes:
    """The header with its empty extension flag; `shape` has the fastest axis first, and that of channels last."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    short = max(shape) <= LONGEST_IN_NIFTI_1
    kind: Any = Nifti1Header if short else Nifti2Header  # neither has types
    header = kind(endianness="<")
    header.set_data_dtype(contents.dtype.newbyteorder("<"))
    header.set_data_shape(shape)
    header.set_zooms((*np.abs(matrix[:3, :3]).max(axis=0), *[1.0] * (len(shape) - 3)))
    header.set_qform(matrix, code=_SCANNER)
    header.set_sform(matrix, code=_SCANNER)
    header["xyzt_units"] = _MM
    header["intent_code"] = contents.intent
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"] = contents.highest
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+1" if short else b"n+2\0\r\n\x1a\n"
    header["descrip"] = contents.description.encode("ascii", "replace")[:79]
    return bytes(header.binaryblock) + bytes(4)

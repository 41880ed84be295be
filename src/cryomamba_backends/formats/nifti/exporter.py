"""Labels → ``mask.nii.gz``."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.formats.placement import matrix_of, output_frame
from cryomamba_backends.formats.slabs import stored_slabs
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.geometry import Index3, VoxelGrid, to_index
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import label_dtype

#: Masks are long runs of few values: higher levels take several times as long for little.
COMPRESSION = 1

#: NIfTI-1 counts voxels by signed 16-bit numbers.
LONGEST_IN_NIFTI_1 = 32767

#: NIFTI_INTENT_LABEL, NIFTI_XFORM_SCANNER_ANAT, NIFTI_UNITS_MM.
_LABEL, _SCANNER, _MM = 1002, 1, 2


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

    def __init__(self, *, angstrom_as_mm: bool = False) -> None:
        self._angstrom_as_mm = angstrom_as_mm

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file, compressed slab by slab."""
        frame, axes, note = output_frame(grid, info.source.metadata, angstrom_as_mm=self._angstrom_as_mm)
        dtype = label_dtype(info.model.highest_label).newbyteorder("<")
        shape = to_index(labels.shape[axis] for axis in reversed(axes))
        header = _header(shape, dtype, matrix_of(grid, frame, axes), info)
        with (
            path.open("xb") as stream,
            gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0) as packed,
        ):
            packed.write(header)
            for slab in stored_slabs(labels, axes):
                packed.write(slab.astype(dtype, copy=False).data)
        return (f"{self.artifact}: {note}",)


def _header(shape: Index3, dtype: np.dtype[Any], matrix: NDArray[np.float64], info: RunInfo) -> bytes:
    """The header with its empty extension flag; `shape` has the fastest axis first."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    short = max(shape) <= LONGEST_IN_NIFTI_1
    kind: Any = Nifti1Header if short else Nifti2Header  # neither has types
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_zooms(np.abs(matrix[:3, :3]).max(axis=0))
    header.set_qform(matrix, code=_SCANNER)
    header.set_sform(matrix, code=_SCANNER)
    header["xyzt_units"] = _MM
    header["intent_code"] = _LABEL
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"] = info.model.highest_label
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+1" if short else b"n+2\0\r\n\x1a\n"
    names = ", ".join(f"{label.value} {label.name}" for label in info.model.labels)
    header["descrip"] = f"CryoMamba: {names}".encode("ascii", "replace")[:79]
    return bytes(header.binaryblock) + bytes(4)

"""NIfTI-1 and NIfTI-2 headers, and what can be wrong with them.

Layouts: https://nifti.nimh.nih.gov/nifti-1 and /nifti-2.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Literal

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from cryomamba_backends.formats.channels import check_channels
from cryomamba_backends.formats.lengths import ANGSTROM_PER_M, ANGSTROM_PER_MICROMETRE, ANGSTROM_PER_MM
from cryomamba_backends.formats.sources import GZIP_MAGIC, check_claim, check_size, unpack_start
from cryomamba_backends.formats.stored import Scaling
from cryomamba_core.errors import CorruptFile, TruncatedFile, UnsupportedFile
from cryomamba_core.geometry import Index3, to_index
from cryomamba_core.volumes import HeaderWarning

#: Å for each of the spatial units of ``xyzt_units``.
UNITS = {1: ANGSTROM_PER_M, 2: ANGSTROM_PER_MM, 3: ANGSTROM_PER_MICROMETRE}

#: No real extension is longer.
LARGEST_EXTENSION = 16 << 20

_SIZES = {348: 1, 540: 2}
_MAGIC = {1: (344, b"n+1\0", b"ni1\0"), 2: (4, b"n+2\0", b"ni2\0")}
_FIELDS = {
    1: {
        "dim": (40, "8h"),
        "datatype": (70, "h"),
        "bitpix": (72, "h"),
        "pixdim": (76, "8f"),
        "vox_offset": (108, "f"),
        "scl": (112, "2f"),
        "units": (123, "B"),
        "codes": (252, "2h"),
        "quaternion": (256, "6f"),
        "srow": (280, "12f"),
    },
    2: {
        "dim": (16, "8q"),
        "datatype": (12, "h"),
        "bitpix": (14, "h"),
        "pixdim": (104, "8d"),
        "vox_offset": (168, "q"),
        "scl": (176, "2d"),
        "units": (500, "i"),
        "codes": (344, "2i"),
        "quaternion": (352, "6d"),
        "srow": (400, "12d"),
    },
}
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_UNSUPPORTED_TYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "colours",
    1536: "128-bit numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "colours",
}
_WRITE_AGAIN = "copy the file again from where it was written; if it is whole, write its header again"


@frozen(kw_only=True, eq=False)
class NiftiHeader:
    """A header that has passed every check that needs only itself and the file's size.

    Attributes
    ----------
    compressed
        Whether the file is compressed by gzip.
    stored_shape
        Slowest axis (k) first, of one channel.
    channels
        How many there are, one after the other.
    dtype
        Type of the stored numbers, in the file's byte order.
    data_offset
        Where the first voxel is, in (decompressed) bytes.
    scaling
        What the numbers mean, if not themselves.
    matrix, offset
        Step (x, y, z) along each axis (i, j, k) in the columns, and position of voxel 0, in the header's unit.
    unit
        Å for each of the header's units; None where it names none.
    warnings
        What is odd and was tolerated.
    """

    compressed: bool
    stored_shape: Index3
    channels: int
    dtype: np.dtype[Any]
    data_offset: int
    scaling: Scaling | None
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    unit: float | None
    warnings: tuple[HeaderWarning, ...]

    @property
    def data_end(self) -> int:
        """Where the voxels end, in (decompressed) bytes."""
        return self.data_offset + self.channels * math.prod(self.stored_shape) * self.dtype.itemsize


def looks_like_nifti(first_bytes: bytes) -> bool:
    """Whether the bytes, decompressed if need be, start as a NIfTI header does."""
    start = _unpacked(first_bytes)
    return len(start) >= 4 and _order_and_version(start) is not None and _magic(start) is not None


def parse_header(first_bytes: bytes, size: int) -> NiftiHeader:
    """Check and read a header.

    Parameters
    ----------
    first_bytes
        Start of the file, compressed or not; 4096 bytes are enough.
    size
        Size of the file in bytes.

    Raises
    ------
    CorruptFile, TruncatedFile, UnsupportedFile, HostileFile
    """
    compressed = first_bytes.startswith(GZIP_MAGIC)
    start = _unpacked(first_bytes)
    found = _order_and_version(start) if len(start) >= 4 else None
    if found is None:
        if size < min(_SIZES) and not compressed:
            raise TruncatedFile(f"the file has {size} bytes, less than a NIfTI header", hint=_WRITE_AGAIN)
        raise CorruptFile("this is not a NIfTI file", hint="check that the file is what its name says")
    order, version = found
    header_size = next(size for size, known in _SIZES.items() if known == version)
    if len(start) < header_size:
        raise TruncatedFile("the file ends within its header", hint="copy the file again from where it was written")
    magic = _magic(start)
    if magic is None:
        raise UnsupportedFile("the file is of the older ANALYZE format", hint="convert it to NIfTI")
    if magic == _MAGIC[version][2]:
        raise UnsupportedFile("the voxels are in a second file", hint="convert it to a single .nii file")
    fields = {name: struct.unpack_from(order + code, start, at) for name, (at, code) in _FIELDS[version].items()}
    stored_shape, channels = _stored_shape(fields["dim"])
    dtype = _dtype(int(fields["datatype"][0]), int(fields["bitpix"][0]), order)
    matrix, offset = _affine(fields, exact=version == 2)
    header = NiftiHeader(
        compressed=compressed,
        stored_shape=stored_shape,
        channels=channels,
        dtype=dtype,
        data_offset=_data_offset(fields["vox_offset"][0], header_size + 4),
        scaling=_scaling(*fields["scl"]),
        matrix=matrix,
        offset=offset,
        unit=UNITS.get(int(fields["units"][0]) & 7),
        warnings=check_channels(channels),
    )
    if compressed:
        check_claim(header.data_end, size, "gzip", dtype)
        return header
    return evolve(header, warnings=(*header.warnings, *check_size(header.data_end, size)))


def _unpacked(first_bytes: bytes) -> bytes:
    return unpack_start(first_bytes, max(_SIZES)) if first_bytes.startswith(GZIP_MAGIC) else first_bytes


def _order_and_version(start: bytes) -> tuple[Literal["<", ">"], int] | None:
    if (version := _SIZES.get(int.from_bytes(start[:4], "little"))) is not None:
        return "<", version
    if (version := _SIZES.get(int.from_bytes(start[:4], "big"))) is not None:
        return ">", version
    return None


def _magic(start: bytes) -> bytes | None:
    for at, single, pair in _MAGIC.values():
        if start[at : at + 4] in (single, pair):
            return start[at : at + 4]
    return None


def _stored_shape(dim: tuple[int, ...]) -> tuple[Index3, int]:
    """Shape of one channel, slowest axis first, and their number: along the fourth axis or, as vectors, the fifth."""
    count = dim[0]
    if not 1 <= count <= 7:
        raise CorruptFile(f"the header claims {count} dimensions", hint=_WRITE_AGAIN)
    sizes = dim[1 : count + 1]
    if min(sizes) < 1:
        raise CorruptFile(
            f"the header says that the volume has {' × '.join(map(str, sizes))} voxels", hint=_WRITE_AGAIN
        )
    i, j, k, times, components, *others = (*sizes, *(1,) * (7 - count))
    if (times > 1 and components > 1) or max(others) > 1:
        raise UnsupportedFile(
            f"the file holds {' × '.join(map(str, sizes[3:]))} volumes",
            hint="write each volume, with its channels along the fourth axis, to a file of its own",
        )
    return to_index((k, j, i)), int(times * components)


def _dtype(code: int, bits: int, order: Literal["<", ">"]) -> np.dtype[Any]:
    if code in _UNSUPPORTED_TYPES:
        raise UnsupportedFile(
            f"the voxels are {_UNSUPPORTED_TYPES[code]}, not real grey values",
            hint="convert the file to one with integer or floating-point voxels",
        )
    if code not in _TYPES:
        raise CorruptFile(f"NIfTI has no data type {code}", hint=_WRITE_AGAIN)
    dtype = np.dtype(_TYPES[code]).newbyteorder(order)
    if bits != dtype.itemsize * 8:
        raise CorruptFile(f"the header says both data type {code} and {bits} bits a voxel", hint=_WRITE_AGAIN)
    return dtype


def _data_offset(stated: float, least: int) -> int:
    if stated == 0:
        return least
    if not (math.isfinite(stated) and least - 4 <= stated <= least + LARGEST_EXTENSION and stated == int(stated)):
        raise CorruptFile(f"the header says that the voxels start at byte {stated:g}", hint=_WRITE_AGAIN)
    return int(stated)


def _scaling(slope: float, intercept: float) -> Scaling | None:
    if slope == 0 or not math.isfinite(slope) or (slope, intercept) == (1, 0):
        return None
    if not math.isfinite(intercept):
        raise CorruptFile(f"the header scales the voxels by {slope:g} and {intercept:g}", hint=_WRITE_AGAIN)
    return Scaling(slope=slope, intercept=intercept)


def _affine(fields: dict[str, tuple[Any, ...]], *, exact: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset by the rules of the standard: sform, else qform, else the voxel sizes alone."""
    number = float if exact else _shortest
    qform, sform = fields["codes"]
    if sform > 0:
        rows = np.array([number(part) for part in fields["srow"]]).reshape(3, 4)
        return rows[:, :3], rows[:, 3]
    pixdim = [number(part) for part in fields["pixdim"]]
    if qform <= 0:
        return np.diag(pixdim[1:4]), np.zeros(3)
    b, c, d = (float(part) for part in fields["quaternion"][:3])
    rotation = _rotation(b, c, d)
    if pixdim[0] < 0:
        rotation[:, 2] *= -1
    return rotation * pixdim[1:4], np.array([number(part) for part in fields["quaternion"][3:]])


def _rotation(b: float, c: float, d: float) -> NDArray[np.float64]:
    squares = b * b + c * c + d * d
    if not squares <= 1 + 1e-6:
        raise CorruptFile(f"the header's quaternion ({b:g}, {c:g}, {d:g}) is no rotation", hint=_WRITE_AGAIN)
    a = math.sqrt(max(0.0, 1 - squares))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _shortest(value: float) -> float:
    """The shortest decimal number that float32 rounds to `value`: what the writer meant."""
    return float(str(np.float32(value)))

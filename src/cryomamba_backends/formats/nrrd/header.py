"""NRRD headers, and what can be wrong with them.

Format: https://teem.sourceforge.net/nrrd/format.html. Only attached headers are read: a header that
names other files could make a server read whatever it may.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from cryomamba_backends.formats.channels import check_channels
from cryomamba_backends.formats.lengths import (
    ANGSTROM_PER_M,
    ANGSTROM_PER_MICROMETRE,
    ANGSTROM_PER_MM,
    ANGSTROM_PER_NM,
)
from cryomamba_backends.formats.sources import Compression, check_claim, check_size
from cryomamba_core.errors import CorruptFile, HostileFile, TruncatedFile, UnsupportedFile
from cryomamba_core.geometry import Index3, to_index
from cryomamba_core.volumes import HeaderWarning

#: No header is longer.
LARGEST_HEADER = 1 << 20

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_COMPRESSIONS: dict[str, Compression | None] = {
    "raw": None,
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
}
_UNITS = {
    "m": ANGSTROM_PER_M,
    "mm": ANGSTROM_PER_MM,
    "millimeter": ANGSTROM_PER_MM,
    "millimeters": ANGSTROM_PER_MM,
    "um": ANGSTROM_PER_MICROMETRE,
    "µm": ANGSTROM_PER_MICROMETRE,
    "μm": ANGSTROM_PER_MICROMETRE,
    "micron": ANGSTROM_PER_MICROMETRE,
    "microns": ANGSTROM_PER_MICROMETRE,
    "nm": ANGSTROM_PER_NM,
    "å": 1.0,
    "angstrom": 1.0,
    "angstroms": 1.0,
}
_DOMAIN_KINDS = {"domain", "space", "???", "none"}
#: Fields that say something of each axis.
_PER_AXIS = (
    "sizes",
    "kinds",
    "space directions",
    "spacings",
    "axis mins",
    "centers",
    "units",
)
#: Fields that have a second name, by it.
_SECOND_NAMES = {
    "axismins": "axis mins",
    "byteskip": "byte skip",
    "centerings": "centers",
    "lineskip": "line skip",
}
#: Spaces whose x leads to the left, whose y leads to the posterior; signs (z, y, x) to right, anterior, superior.
_MIRRORED = {
    "left-posterior-superior": (1, -1, -1),
    "lps": (1, -1, -1),
    "left-anterior-superior": (1, 1, -1),
    "las": (1, 1, -1),
}
_MAGIC = re.compile(rb"NRRD000\d\r?\n")
_END = re.compile(rb"\r?\n\r?\n")
_ELSEWHERE = re.compile(rb"^[ \t]*data[ \t]*file[ \t]*:", re.IGNORECASE | re.MULTILINE)
_ENTRY = re.compile(r'"[^"]*"|\([^()]*\)|\S+')
_WORD = re.compile(r'"([^"]*)"|(\S+)')
_WRITE_AGAIN = "copy the file again from where it was written; if it is whole, write its header again"


@frozen(kw_only=True, eq=False)
class NrrdHeader:
    """A header that has passed every check that needs only itself and the file's size.

    Attributes
    ----------
    stored_shape
        Slowest axis first, of one channel.
    channels
        How many there are, one after the other.
    dtype
        Type of the stored numbers, in the file's byte order.
    compression
        How the data are compressed, None for not at all.
    data_start
        Where the (compressed) data start in the file, in bytes.
    matrix, offset
        Step (x, y, z) along each axis, fastest first, in the columns, and position of voxel 0, in the header's unit.
    unit
        Å for each of the header's units; None where it names none.
    mirrored
        Signs (z, y, x) that lead from the header's coordinates to right, anterior, superior.
    warnings
        What is odd and was tolerated.
    """

    stored_shape: Index3
    channels: int
    dtype: np.dtype[Any]
    compression: Compression | None
    data_start: int
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    unit: float | None
    mirrored: Index3
    warnings: tuple[HeaderWarning, ...] = ()

    @property
    def data_size(self) -> int:
        """Size of the data when decompressed, in bytes."""
        return self.channels * math.prod(self.stored_shape) * self.dtype.itemsize


def looks_like_nrrd(first_bytes: bytes) -> bool:
    """Whether the bytes start as NRRD does."""
    return first_bytes.startswith(b"NRRD")


def check_start(first_bytes: bytes, size: int) -> None:
    """Check what of a file's header lies within its first bytes; raises as `parse_header`."""
    _refuse_elsewhere(first_bytes)
    if _END.search(first_bytes) is not None or len(first_bytes) >= size:
        parse_header(first_bytes, size)


def parse_header(start: bytes, size: int) -> NrrdHeader:
    """Check and read a header.

    Parameters
    ----------
    start
        Start of the file, at least the header.
    size
        Size of the file in bytes.

    Raises
    ------
    CorruptFile, TruncatedFile, UnsupportedFile, HostileFile
    """
    _refuse_elsewhere(start)
    end = _END.search(start)
    if end is None:
        if size > LARGEST_HEADER:
            raise CorruptFile("the header does not end", hint=_WRITE_AGAIN)
        raise TruncatedFile("the file ends within its header", hint="copy the file again from where it was written")
    try:
        fields = _fields(start[: end.start()].decode("utf-8", "replace"))
        channels, fields = _split_channels(fields)
        stored_shape = _stored_shape(fields)
        dtype = _dtype(fields)
        header = NrrdHeader(
            stored_shape=stored_shape,
            channels=channels,
            dtype=dtype,
            compression=_compression(fields),
            data_start=end.end(),
            matrix=_matrix(fields),
            offset=_offset(fields),
            unit=_unit(fields),
            mirrored=_MIRRORED.get(fields.get("space", "").lower(), (1, 1, 1)),
            warnings=check_channels(channels),
        )
        skip = int(fields.get("byte skip", "0"))
    except ValueError as error:
        if isinstance(error, (CorruptFile, UnsupportedFile)):
            raise
        raise CorruptFile(f"the header holds a wrong number: {str(error)[:80]}", hint=_WRITE_AGAIN) from error
    return _with_data_found(header, skip, size)


def _with_data_found(header: NrrdHeader, skip: int, size: int) -> NrrdHeader:
    if header.compression is not None:
        if skip != 0:
            raise UnsupportedFile("compressed data that start with a byte skip are not read", hint="write it without")
        check_claim(header.data_size, size - header.data_start, header.compression, header.dtype)
        return header
    if skip == -1:
        check_size(header.data_start + header.data_size, size)
        return evolve(header, data_start=size - header.data_size)
    if skip < 0:
        raise CorruptFile(f"the header says to skip {skip} bytes", hint=_WRITE_AGAIN)
    warnings = check_size(header.data_start + skip + header.data_size, size)
    return evolve(header, data_start=header.data_start + skip, warnings=(*header.warnings, *warnings))


def _refuse_elsewhere(start: bytes) -> None:
    """Refuse, before anything is parsed, a header that names a data file."""
    if not _MAGIC.match(start):
        raise CorruptFile("this is not an NRRD file", hint="check that the file is what its name says")
    end = _END.search(start)
    if _ELSEWHERE.search(start, 0, end.start() if end else len(start)):
        raise HostileFile(
            "the header names another file as its data, which is not followed",
            hint="write header and data into one .nrrd file",
        )


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise CorruptFile(f"the header line {line[:40]!r} is no field", hint=_WRITE_AGAIN)
        if value.startswith("="):
            continue
        name = name.strip().lower()
        name = _SECOND_NAMES.get(name, name)
        if name in fields:
            raise CorruptFile(f"the header gives {name[:40]!r} twice", hint=_WRITE_AGAIN)
        fields[name] = value.strip()
    return fields


def _needed(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise CorruptFile(f"the header lacks the field {name!r}", hint=_WRITE_AGAIN)
    return fields[name]


def _split_channels(fields: dict[str, str]) -> tuple[int, dict[str, str]]:
    """The number of channels, and the fields as they would be of one channel alone."""
    dimension = int(_needed(fields, "dimension"))
    if dimension == 3:
        return 1, fields
    if dimension != 4:
        raise UnsupportedFile(
            f"the array has {dimension} dimensions, not 3 or, with channels, 4",
            hint="write a 3D volume, or one with its channels along a fourth, slowest axis",
        )
    entries = {name: _ENTRY.findall(fields[name]) for name in _PER_AXIS if name in fields}
    for name, of_axes in entries.items():
        if len(of_axes) != 4:
            raise CorruptFile(f"the header's {name} are {len(of_axes)}, its axes 4", hint=_WRITE_AGAIN)
    _needed(fields, "sizes")
    _refuse_other_axes(entries)
    count = int(entries["sizes"][3])
    if count < 1:
        raise CorruptFile(f"the header claims {count} channels", hint=_WRITE_AGAIN)
    return count, {**fields, **{name: " ".join(of_axes[:3]) for name, of_axes in entries.items()}}


def _refuse_other_axes(entries: dict[str, list[str]]) -> None:
    """Refuse four axes of which the last does not count channels, by whatever the header says of them."""
    kinds = [kind.lower() for kind in entries.get("kinds", ())]
    signs = {
        "kinds": [kind not in _DOMAIN_KINDS for kind in kinds],
        "space directions": [direction.lower() == "none" for direction in entries.get("space directions", ())],
        "spacings": [math.isnan(float(spacing)) for spacing in entries.get("spacings", ())],
    }
    if any(any(sign[:3]) for sign in signs.values()):
        raise UnsupportedFile(
            "the channels of a voxel lie next to each other in the file (the channel axis is not the last)",
            hint="write the channels one after the other: the channel axis last, as the slowest",
        )
    has_place = signs["space directions"] and not signs["space directions"][3]
    if has_place or (kinds and kinds[3] in {"domain", "space", "time"}):
        raise UnsupportedFile(
            "the fourth axis of the array is one of space or time, not of channels",
            hint="write a 3D volume; if the axis counts channels, let its kind be 'list' and its direction 'none'",
        )


def _stored_shape(fields: dict[str, str]) -> Index3:
    sizes = [int(part) for part in _needed(fields, "sizes").split()]
    if len(sizes) != 3 or min(sizes) < 1:
        raise CorruptFile(f"the header's sizes {fields['sizes'][:60]!r} are not those of a volume", hint=_WRITE_AGAIN)
    for kind in fields.get("kinds", "").split():
        if kind.lower() not in _DOMAIN_KINDS:
            raise UnsupportedFile(f"an axis of the array is of kind {kind[:40]!r}", hint="write a single 3D volume")
    return to_index(reversed(sizes))


def _dtype(fields: dict[str, str]) -> np.dtype[Any]:
    name = " ".join(_needed(fields, "type").lower().split())
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        raise UnsupportedFile(f"voxels of type {name[:40]!r} are not read", hint="convert them to integers or floats")
    dtype = np.dtype(code)
    if dtype.itemsize == 1:
        return dtype
    endian = _needed(fields, "endian").lower()
    orders: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
    if endian not in orders:
        raise CorruptFile(f"the header's byte order {endian[:40]!r} is none", hint=_WRITE_AGAIN)
    return dtype.newbyteorder(orders[endian])


def _compression(fields: dict[str, str]) -> Compression | None:
    encoding = _needed(fields, "encoding").lower()
    if encoding not in _COMPRESSIONS:
        raise UnsupportedFile(f"the encoding {encoding[:40]!r} is not read", hint="write it as raw or gzip")
    if int(fields.get("line skip", "0")) != 0:
        raise UnsupportedFile("data that start with a line skip are not read", hint="write it without")
    return _COMPRESSIONS[encoding]


def _matrix(fields: dict[str, str]) -> NDArray[np.float64]:
    if "space directions" in fields:
        vectors = re.findall(r"\([^()]*\)|\S+", fields["space directions"])
        if len(vectors) != 3:
            raise CorruptFile("the header's space directions are not three vectors", hint=_WRITE_AGAIN)
        return np.array([_vector(vector) for vector in vectors]).T
    spacings = [float(part) for part in fields.get("spacings", "nan nan nan").split()]
    if len(spacings) != 3:
        raise CorruptFile("the header's spacings are not three", hint=_WRITE_AGAIN)
    return np.diag(spacings)


def _offset(fields: dict[str, str]) -> NDArray[np.float64]:
    """The position of voxel 0, as ITK has it: minima are edges of cells unless nodes are named; all count or none."""
    if "space origin" in fields:
        return np.array(_vector(fields["space origin"]))
    if "axis mins" not in fields:
        return np.zeros(3)
    minima = [float(part) for part in fields["axis mins"].split()]
    if len(minima) != 3:
        raise CorruptFile("the header's axis minima are not three", hint=_WRITE_AGAIN)
    centers = fields.get("centers", "??? ??? ???").lower().split()
    if "spacings" in fields and len(centers) == 3:
        spacings = [float(part) for part in fields["spacings"].split()]
        axes = zip(minima, spacings, centers, strict=True)
        minima = [low if center == "node" else low + size / 2 for low, size, center in axes]
    return np.array(minima) if all(math.isfinite(low) for low in minima) else np.zeros(3)


def _vector(text: str) -> list[float]:
    parts = text.strip().removeprefix("(").removesuffix(")").split(",")
    if len(parts) != 3:
        raise CorruptFile(f"{text[:40]!r} in the header is no vector of three numbers", hint=_WRITE_AGAIN)
    return [float(part) for part in parts]


def _unit(fields: dict[str, str]) -> float | None:
    words = [quoted or bare for quoted, bare in _WORD.findall(fields.get("space units", fields.get("units", "")))]
    units = {_UNITS.get(word.strip().lower()) for word in words}
    return units.pop() if len(units) == 1 else None

"""The 1024 bytes at the start of an MRC file, and what can be wrong with them.

Layout: MRC2014 (Cheng et al., "MRC2014: Extensions to the MRC format header for electron
cryo-microscopy and tomography", 2015), with IMOD's two words in its extra space.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from attrs import frozen

from cryomamba_backends.formats.channels import check_channels
from cryomamba_backends.formats.sources import check_size
from cryomamba_core.errors import CorruptFile, TruncatedFile, UnsupportedFile
from cryomamba_core.geometry import Index3, Vector3, to_index, to_vector
from cryomamba_core.volumes import HeaderWarning

HEADER_SIZE = 1024
MAP_STAMP = b"MAP "

#: No real extended header is longer; a longer one is a damaged number.
LARGEST_EXTENDED_HEADER = 16 << 20

#: MRC2014 adds this to the space group where the file is a stack of volumes.
VOLUME_STACK = 400

#: How far a cell angle may be off 90°. Voxel volumes are then wrong by less than 0.4 %.
LARGEST_SKEW = 5.0

#: ``IMOD`` as a number, and its flags: bytes are signed; the origin has the sign that MRC2014 gives it.
IMOD_STAMP = 1146047817
IMOD_SIGNED = 1
IMOD_ORIGIN = 4

LAYOUT = np.dtype(
    [
        ("counts", "i4", 3),  # columns, rows, sections
        ("mode", "i4"),
        ("nstart", "i4", 3),  # of columns, rows, sections
        ("sampling", "i4", 3),  # along x, y, z, as are cell and origin
        ("cell", "f4", 3),
        ("angles", "f4", 3),
        ("axes", "i4", 3),  # of columns, rows, sections: 1 for x, 2 for y, 3 for z
        ("dmin", "f4"),
        ("dmax", "f4"),
        ("dmean", "f4"),
        ("ispg", "i4"),
        ("nsymbt", "i4"),
        ("extra1", "V8"),
        ("exttyp", "S4"),
        ("nversion", "i4"),
        ("extra2", "V40"),
        ("imod_stamp", "i4"),
        ("imod_flags", "i4"),
        ("extra3", "V36"),
        ("origin", "f4", 3),
        ("map", "S4"),
        ("machst", "u1", 4),
        ("rms", "f4"),
        ("nlabl", "i4"),
        ("labels", "S80", 10),
    ]
)

#: Modes of real numbers, and their types.
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_UNSUPPORTED_MODES = {
    3: "complex 16-bit numbers (a Fourier transform)",
    4: "complex 32-bit numbers (a Fourier transform)",
    16: "colours",
    101: "4-bit numbers",
}
_WRITE_AGAIN = "copy the file again from where it was written; if it is whole, write its header again"


@frozen(kw_only=True)
class MrcHeader:
    """A header that has passed every check that needs only itself and the file's size.

    Attributes
    ----------
    stored_shape
        Sections, rows, columns of one channel.
    channels
        Volumes in the stack; 1 for a plain volume.
    dtype
        Type of the stored numbers, in the file's byte order.
    mode
        The MRC mode.
    data_offset
        Where the first voxel is, in bytes.
    nstart
        Index of the first column, row, section.
    sampling, cell, angles
        Sampling intervals and length (Å) of the unit cell along x, y, z; its angles in degrees.
    axes
        MAPC, MAPR, MAPS.
    origin
        ORIGIN (x, y, z) in Å.
    space_group
        ISPG, of a single volume where the file is a stack.
    imod_flags
        IMOD's flags, None for a file of another program.
    labels
        Texts in use.
    warnings
        What is odd and was tolerated.
    """

    stored_shape: Index3
    channels: int
    dtype: np.dtype[Any]
    mode: int
    data_offset: int
    nstart: Index3
    sampling: Index3
    cell: Vector3
    angles: Vector3
    axes: Index3
    origin: Vector3
    space_group: int
    imod_flags: int | None
    labels: tuple[str, ...]
    warnings: tuple[HeaderWarning, ...]

    @property
    def stored_axes(self) -> Index3:
        """Sections, rows and columns, each by the place of its axis in ZYX."""
        return to_index(3 - axis for axis in reversed(self.axes))

    def to_metadata(self) -> dict[str, Any]:
        """What is needed to write a file that lies on this one; JSON types only."""
        return {
            "mode": self.mode,
            "nstart": list(self.nstart),
            "sampling": list(self.sampling),
            "cell": [part if math.isfinite(part) else 0.0 for part in self.cell],
            "angles": list(self.angles),
            "axes": list(self.axes),
            "origin": list(self.origin),
            "space_group": self.space_group,
            "imod_flags": self.imod_flags,
            "labels": list(self.labels),
        }


def parse_header(first_bytes: bytes, size: int) -> MrcHeader:
    """Check and read a header.

    Parameters
    ----------
    first_bytes
        At least the first 1024 bytes of the file, if it has so many.
    size
        Size of the file in bytes.

    Raises
    ------
    CorruptFile, TruncatedFile, UnsupportedFile
    """
    if len(first_bytes) < HEADER_SIZE:
        raise TruncatedFile(
            f"the file has {size} bytes, an MRC header alone has {HEADER_SIZE}",
            hint="copy the file again from where it was written",
        )
    raw, warnings = _in_its_byte_order(first_bytes[:HEADER_SIZE])
    stored_shape = _stored_shape(raw)
    dtype, more = _dtype(raw)
    warnings += more
    axes = to_index(raw["axes"])
    if sorted(axes) != [1, 2, 3]:
        raise CorruptFile(f"the header's axis order {axes} is not an order of 1, 2 and 3", hint=_WRITE_AGAIN)
    _refuse_images(raw)
    stack = _is_volume_stack(raw)
    channels = _volumes(raw) if stack else 1
    warnings += check_channels(channels)
    nsymbt = int(raw["nsymbt"])
    if not 0 <= nsymbt <= LARGEST_EXTENDED_HEADER:
        raise CorruptFile(f"the header claims an extended header of {nsymbt} bytes", hint=_WRITE_AGAIN)
    warnings += check_size(HEADER_SIZE + nsymbt + math.prod(stored_shape) * dtype.itemsize, size)
    angles, more = _angles(raw)
    warnings += more
    imod = int(raw["imod_stamp"]) == IMOD_STAMP
    return MrcHeader(
        stored_shape=(stored_shape[0] // channels, *stored_shape[1:]),
        channels=channels,
        dtype=dtype,
        mode=int(raw["mode"]),
        data_offset=HEADER_SIZE + nsymbt,
        nstart=to_index(raw["nstart"]),
        sampling=to_index(raw["sampling"]),
        cell=to_vector(_shortest(part) for part in raw["cell"]),
        angles=angles,
        axes=axes,
        origin=_origin(raw),
        space_group=int(raw["ispg"]) - VOLUME_STACK if stack else int(raw["ispg"]),
        imod_flags=int(raw["imod_flags"]) if imod else None,
        labels=_labels(raw),
        warnings=warnings,
    )


def _in_its_byte_order(header: bytes) -> tuple[np.void, tuple[HeaderWarning, ...]]:
    """The fields, and what had to be guessed.

    The machine stamp says the byte order, but some programs leave it out or write it wrong: the
    order in which mode, dimensions and axes make sense has the last word.
    """
    little = np.frombuffer(header, LAYOUT.newbyteorder("<"))[0]
    big = np.frombuffer(header, LAYOUT.newbyteorder(">"))[0]
    stamp = header[212:214]
    stamped = {b"DD": little, b"DA": little, b"\x11\x11": big}.get(stamp)
    candidates = [raw for raw in (stamped, little, big) if raw is not None]
    has_map_stamp = header[208:211] == MAP_STAMP[:3]
    sensible = next((raw for raw in candidates if _makes_sense(raw)), None)
    if sensible is None and not has_map_stamp:
        raise CorruptFile(
            "this is not an MRC file", hint="check that the file is what its name says, and that it was copied whole"
        )
    raw = candidates[0] if sensible is None else sensible
    warnings: tuple[HeaderWarning, ...] = ()
    if not has_map_stamp:
        warnings += (HeaderWarning(code="header/no-map-stamp", message="the header lacks the word MAP of MRC files"),)
    if stamped is None or raw is not stamped:
        order = "little" if raw is little else "big"
        warnings += (
            HeaderWarning(
                code="header/machine-stamp",
                message=f"the machine stamp {stamp.hex()} is wrong; the numbers make sense in {order}-endian order",
            ),
        )
    return raw, warnings


def _makes_sense(raw: np.void) -> bool:
    known_mode = int(raw["mode"]) in MODES or int(raw["mode"]) in _UNSUPPORTED_MODES
    return known_mode and min(raw["counts"]) > 0 and sorted(raw["axes"]) == [1, 2, 3]


def _stored_shape(raw: np.void) -> Index3:
    columns, rows, sections = to_index(raw["counts"])
    if min(columns, rows, sections) < 1:
        raise CorruptFile(
            f"the header says that the volume has {columns} × {rows} × {sections} voxels (x, y, z as stored)",
            hint=_WRITE_AGAIN,
        )
    return sections, rows, columns


def _dtype(raw: np.void) -> tuple[np.dtype[Any], tuple[HeaderWarning, ...]]:
    mode = int(raw["mode"])
    if mode in _UNSUPPORTED_MODES:
        raise UnsupportedFile(
            f"MRC mode {mode} holds {_UNSUPPORTED_MODES[mode]}, not real grey values",
            hint="convert it to mode 0, 1, 2, 6 or 12, for example with: newstack -mode 2 FILE OUT",
        )
    if mode not in MODES:
        raise CorruptFile(f"MRC has no mode {mode}", hint=_WRITE_AGAIN)
    dtype = np.dtype(MODES[mode])
    if not raw.dtype["mode"].isnative:
        dtype = dtype.newbyteorder()
    if mode != 0:
        return dtype, ()
    if int(raw["imod_stamp"]) == IMOD_STAMP:
        if int(raw["imod_flags"]) & IMOD_SIGNED:
            return dtype, ()
        message = "IMOD marked the bytes as unsigned: they are read as 0 to 255"
        return np.dtype("u1"), (HeaderWarning(code="header/unsigned-bytes", message=message),)
    if float(raw["dmin"]) >= 0 and 127 < float(raw["dmax"]) <= 255:
        return dtype, (
            HeaderWarning(
                code="header/bytes-sign",
                message=f"the header's density range {raw['dmin']:g} to {raw['dmax']:g} is that of unsigned bytes, "
                "but mode 0 is signed and is read so",
                hint="if grey values above 127 turn negative, convert the file to mode 1",
            ),
        )
    return dtype, ()


def _refuse_images(raw: np.void) -> None:
    """Refuse a stack of images. Many tomograms have ISPG 0 as stacks do, but MZ equal to NZ as volumes do."""
    space_group, sections, per_volume = int(raw["ispg"]), int(raw["counts"][2]), int(raw["sampling"][2])
    if space_group == 0 and per_volume == 1 and sections > 1:
        raise UnsupportedFile(
            f"the file is a stack of {sections} images (space group 0, MZ = 1), not a volume",
            hint="if it is a tomogram, say so in its header: "
            """python -c "import mrcfile; mrcfile.mmap('FILE', 'r+').set_volume()\"""",
        )


def _is_volume_stack(raw: np.void) -> bool:
    return VOLUME_STACK + 1 <= int(raw["ispg"]) <= VOLUME_STACK + 230


def _volumes(raw: np.void) -> int:
    """How many volumes, of MZ sections each, lie in a stack of volumes."""
    sections, per_volume = int(raw["counts"][2]), int(raw["sampling"][2])
    if int(raw["axes"][2]) != 3:
        raise UnsupportedFile(
            "the file is a stack of volumes whose sections do not follow each other along z",
            hint="write each volume to a file of its own and give one of those",
        )
    if per_volume < 1 or sections % per_volume != 0:
        raise CorruptFile(
            f"the header says that {sections} sections are a stack of volumes of {per_volume} sections each",
            hint=_WRITE_AGAIN,
        )
    return sections // per_volume


def _angles(raw: np.void) -> tuple[Vector3, tuple[HeaderWarning, ...]]:
    angles = to_vector(_shortest(part) for part in raw["angles"])
    if angles == (0.0, 0.0, 0.0):
        return (90.0, 90.0, 90.0), ()
    if not all(abs(angle - 90.0) <= LARGEST_SKEW for angle in angles):
        named = ", ".join(f"{angle:g}" for angle in angles)
        raise UnsupportedFile(
            f"the unit cell is skewed: its angles are ({named})°", hint="resample the map to a right-angled cell"
        )
    off = max(abs(angle - 90.0) for angle in angles)
    if off < 1e-3:
        return angles, ()
    return angles, (
        HeaderWarning(
            code="header/skewed-cell",
            message=f"a cell angle is off 90° by {off:.3g}°; lengths along the axes are right, "
            f"but the axes are taken for perpendicular (volumes are off by {1 - math.cos(math.radians(off)):.1%})",
            hint="mask.mrc keeps the angles and lies on the source exactly",
        ),
    )


def _origin(raw: np.void) -> Vector3:
    origin = to_vector(_shortest(part) for part in raw["origin"])
    return origin if all(math.isfinite(part) for part in origin) else (0.0, 0.0, 0.0)


def _labels(raw: np.void) -> tuple[str, ...]:
    texts = (bytes(label).decode("ascii", "replace").replace("\0", " ").strip() for label in raw["labels"])
    return tuple(text for text in texts if text)


def _shortest(value: np.float32) -> float:
    """The shortest decimal number that float32 rounds to `value`: what the writer meant."""
    return float(str(np.float32(value)))

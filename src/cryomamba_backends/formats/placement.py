"""Affine maps of NIfTI and NRRD headers, from and to a `VoxelGrid`.

Both formats place the array by a matrix whose columns say where each array axis leads. A grid has
no negative voxel sizes: an axis that leads backwards is described in the mirrored coordinate, in
which it leads forwards. The array is not touched, and `Frame.signs` remembers which coordinates were
mirrored, so that a mask written for the same source gets the source's own matrix back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.formats.lengths import ANGSTROM_PER_MM, LengthUnit, check_voxel_size, is_length, length_unit
from cryomamba_core.errors import UnsupportedFile
from cryomamba_core.geometry import Index3, Vector3, VoxelGrid, to_index, to_vector
from cryomamba_core.volumes import HeaderWarning

#: How far a direction may be off its axis, as a part of its length, before it counts as oblique.
OBLIQUE = 1e-3

_IDENTITY = ((0, 1, 2), (1, 1, 1))


@frozen(kw_only=True)
class Frame:
    """How the coordinates of a source's header relate to those of its grid.

    Attributes
    ----------
    signs
        For (z, y, x): −1 where the coordinate towards superior, anterior, right is the grid's negated.
    angstrom
        Å for each unit of the header's lengths.
    """

    signs: Index3 = (1, 1, 1)
    angstrom: float = ANGSTROM_PER_MM

    @classmethod
    def of_source(cls, metadata: Mapping[str, Any]) -> Self | None:
        """The frame that a NIfTI or NRRD source had, from `SourceFile.metadata`; None for other sources."""
        for name in ("nifti", "nrrd"):
            kept = metadata.get(name)
            if isinstance(kept, Mapping) and "signs" in kept and "angstrom_per_unit" in kept:
                return cls(signs=to_index(kept["signs"]), angstrom=float(kept["angstrom_per_unit"]))
        return None

    def to_metadata(self) -> dict[str, Any]:
        """As JSON types."""
        return {"signs": list(self.signs), "angstrom_per_unit": self.angstrom}


@frozen(kw_only=True)
class Placement:
    """A grid from a header's matrix, and what was decided on the way."""

    grid: VoxelGrid
    frame: Frame
    warnings: tuple[HeaderWarning, ...]


def place(
    *,
    stored_shape: Index3,
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    unit: float | None,
    mirrored: Index3 = (1, 1, 1),
    override: Vector3 | None = None,
) -> Placement:
    """Turn a header's matrix into a grid.

    Parameters
    ----------
    stored_shape
        Slowest axis first.
    matrix
        3 × 3; column i is the step (x, y, z) along the i-th fastest axis, in the header's unit.
    offset
        Position (x, y, z) of voxel 0, in the header's unit.
    unit
        Å for each of the header's units; None where it names none.
    mirrored
        Signs (z, y, x) that lead from the header's coordinates to right, anterior, superior.
    override
        Voxel size (z, y, x) in Å to use instead of the header's.

    Raises
    ------
    UnsupportedFile
        If the axes are oblique.
    UnusableVoxelSize
        If a step has no length and there is no `override`.
    """
    steps = np.linalg.norm(matrix, axis=0)
    stored_axes, directions = _IDENTITY
    if all(is_length(float(step)) for step in steps):
        stored_axes, directions = _directions(matrix / steps)
    by_axis = dict(zip(stored_axes, map(float, reversed(steps)), strict=True))
    sizes = to_vector(by_axis[axis] for axis in range(3))
    length = length_unit(sizes, unit)
    voxel_size, warnings = _voxel_size(sizes, length, override)
    if not np.isfinite(offset).all():
        offset = np.zeros(3)
        warnings += (
            HeaderWarning(code="header/no-position", message="the position of voxel 0 is not finite; 0 is used"),
        )
    if -1 in directions:
        names = ", ".join("zyx"[axis] for axis in (2, 1, 0) if directions[axis] < 0)
        warnings += (
            HeaderWarning(
                code="header/axis-backwards",
                message=f"the array leads towards lower {names}; no voxel is moved, {names} is counted backwards",
                hint="masks written as NIfTI and NRRD still lie on the source",
            ),
        )
    start = [float(f"{part * length.angstrom:.12g}") for part in offset[::-1]]
    grid = VoxelGrid(
        shape=to_index(stored_shape[stored_axes.index(axis)] for axis in range(3)),
        voxel_size=voxel_size,
        origin=to_vector(part * sign or 0.0 for part, sign in zip(start, directions, strict=True)),
        stored_axes=stored_axes,
    )
    signs = to_index(a * b for a, b in zip(directions, mirrored, strict=True))
    return Placement(grid=grid, frame=Frame(signs=signs, angstrom=length.angstrom), warnings=warnings)


def matrix_of(grid: VoxelGrid, frame: Frame, axes: Index3) -> NDArray[np.float64]:
    """The 4 × 4 matrix from indices, fastest axis first, to (x, y, z) in the frame's unit.

    Parameters
    ----------
    grid
        The grid.
    frame
        Coordinates and unit to write.
    axes
        Order in which the array is written, slowest axis first, each named by its place in ZYX.
    """
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for column, axis in enumerate(reversed(axes)):
        matrix[2 - axis, column] = frame.signs[axis] * grid.voxel_size[axis] / frame.angstrom
    for axis in range(3):
        matrix[2 - axis, 3] = frame.signs[axis] * grid.origin[axis] / frame.angstrom or 0.0
    return matrix


def output_frame(grid: VoxelGrid, metadata: Mapping[str, Any], *, angstrom_as_mm: bool) -> tuple[Frame, Index3, str]:
    """How NIfTI and NRRD masks are placed: both alike, so that they agree with each other and with the source.

    Returns
    -------
    frame, axes
        To be given to `matrix_of`.
    note
        One sentence for the manifest.
    """
    source = Frame.of_source(metadata)
    axes = (0, 1, 2) if source is None else grid.stored_axes
    signs = (1, 1, 1) if source is None else source.signs
    if angstrom_as_mm or (source is not None and source.angstrom == 1.0):
        reason = "as was asked for" if angstrom_as_mm else "as in the source"
        return Frame(signs=signs, angstrom=1.0), axes, f"lengths are written as 1 Å = 1 mm, {reason}"
    return Frame(signs=signs), axes, "lengths are written in mm (1 Å = 1e-7 mm)"


def _directions(cosines: NDArray[np.float64]) -> tuple[Index3, Index3]:
    """Stored axes, slowest first, and for (z, y, x) the sign with which the array leads along it."""
    main = np.abs(cosines).argmax(axis=0)
    off_axis = cosines.copy()
    off_axis[main, range(3)] = 0.0
    if np.abs(off_axis).max() > OBLIQUE or sorted(main) != [0, 1, 2]:
        raise UnsupportedFile(
            "the array's axes are oblique to the coordinates",
            hint="resample the volume to a grid that is parallel to its axes, or clear the rotation in its header",
        )
    stored_axes = to_index(2 - axis for axis in reversed(main))
    signs = {2 - int(row): 1 if cosines[row, column] > 0 else -1 for column, row in enumerate(main)}
    return stored_axes, to_index(signs[axis] for axis in range(3))


def _voxel_size(
    sizes: Vector3, length: LengthUnit, override: Vector3 | None
) -> tuple[Vector3, tuple[HeaderWarning, ...]]:
    if override is not None:
        return override, ()
    # .12g: 10.519999999999998 is 10.52 that has been multiplied
    in_angstrom = to_vector(float(f"{size * length.angstrom:.12g}") for size in sizes)
    return in_angstrom, (*length.warnings, *check_voxel_size(in_angstrom))

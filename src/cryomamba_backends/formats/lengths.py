"""Voxel sizes as headers write them: what is a length, what is hardly one, and in which unit it is."""

from __future__ import annotations

import math

from attrs import frozen

from cryomamba_core.errors import UnusableVoxelSize
from cryomamba_core.geometry import Vector3
from cryomamba_core.volumes import HeaderWarning

ANGSTROM_PER_M = 1e10
ANGSTROM_PER_MM = 1e7
ANGSTROM_PER_MICROMETRE = 1e4
ANGSTROM_PER_NM = 10.0

#: A voxel larger than this (1 µm) is no tomogram's: the number is an Å value in a format that has no Å.
LARGEST_IN_MM = 10_000.0

#: Voxel sizes in Å outside this range are said to be implausible.
PLAUSIBLE = (0.1, 1000.0)

_OVERRIDE = "give the true one with --voxel-size, in Å"


@frozen(kw_only=True)
class LengthUnit:
    """How the lengths of a header become Å.

    Attributes
    ----------
    angstrom
        Å for each unit of the header.
    warnings
        What had to be assumed.
    """

    angstrom: float
    warnings: tuple[HeaderWarning, ...] = ()


def is_length(size: float) -> bool:
    """Whether a number can be a voxel size."""
    return math.isfinite(size) and size > 0


def check_voxel_size(voxel_size: Vector3) -> tuple[HeaderWarning, ...]:
    """Judge a voxel size (z, y, x) in Å from a header.

    Raises
    ------
    UnusableVoxelSize
        If it is no length.

    Returns
    -------
    warnings
        What looks wrong.
    """
    sizes = ", ".join(f"{size:g}" for size in voxel_size)
    if not all(is_length(size) for size in voxel_size):
        raise UnusableVoxelSize(f"the header's voxel size is ({sizes}) Å (z, y, x), which is no length", hint=_OVERRIDE)
    if all(size == 1.0 for size in voxel_size):
        return (
            HeaderWarning(
                code="header/voxel-size-one",
                message="the voxel size is exactly 1 Å, as programs write it that do not know it",
                hint=_OVERRIDE,
            ),
        )
    if not all(PLAUSIBLE[0] <= size <= PLAUSIBLE[1] for size in voxel_size):
        return (
            HeaderWarning(
                code="header/voxel-size-implausible",
                message=f"the voxel size ({sizes}) Å (z, y, x) is not that of a tomogram",
                hint=_OVERRIDE,
            ),
        )
    return ()


def length_unit(voxel_size: Vector3, stated: float | None) -> LengthUnit:
    """Decide the unit of a header's lengths.

    Parameters
    ----------
    voxel_size
        The header's voxel size (z, y, x), in its unit.
    stated
        Å for each of the stated units, None where none is stated.
    """
    if stated is None:
        return LengthUnit(
            angstrom=1.0,
            warnings=(
                HeaderWarning(
                    code="header/no-length-unit",
                    message="the header names no unit of length; its numbers are taken as Å",
                    hint=_OVERRIDE,
                ),
            ),
        )
    known = [size for size in voxel_size if is_length(size)]
    if stated >= ANGSTROM_PER_MM and known and max(known) * stated > LARGEST_IN_MM:
        return LengthUnit(
            angstrom=1.0,
            warnings=(
                HeaderWarning(
                    code="header/angstrom-as-mm",
                    message=f"voxels of {max(known) * stated / ANGSTROM_PER_MM:g} mm are no tomogram's; "
                    "the header's numbers are taken as Å",
                    hint=_OVERRIDE,
                ),
            ),
        )
    return LengthUnit(angstrom=stated)

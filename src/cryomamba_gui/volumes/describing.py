"""A tomogram in words, for a panel."""

from __future__ import annotations

from cryomamba_core import wording
from cryomamba_core.geometry import VoxelGrid
from cryomamba_gui.volumes.overview import Overview
from cryomamba_gui.volumes.tomogram import Tomogram

ANGSTROM_PER_NM = 10.0

_USUAL_AXES = (0, 1, 2)


def describe(tomogram: Tomogram) -> list[tuple[str, str]]:
    """What the header says, as rows of a name and a value; lengths are x × y × z, as people in the field say them."""
    grid = tomogram.grid
    rows = [
        ("File", tomogram.path.name),
        ("Folder", str(tomogram.path.absolute().parent)),
        ("Format", tomogram.reader.upper()),
        ("Size", f"{wording.shape(reversed(grid.shape))} voxels (x × y × z)"),
        ("Voxel size", wording.lengths(reversed(grid.voxel_size), "Å")),
        ("Extent", wording.lengths(reversed(extent_nm(grid)), "nm")),
        ("Origin", ", ".join(f"{part:.6g}" for part in reversed(grid.origin)) + " Å (x, y, z)"),
        ("Voxel type", _voxel_type(tomogram)),
    ]
    if grid.stored_axes != _USUAL_AXES:
        rows.append(("Stored axes", ", ".join("zyx"[axis] for axis in grid.stored_axes) + " (slowest first)"))
    rows.append(("File size", wording.byte_size(tomogram.size)))
    return rows


def describe_overview(overview: Overview) -> list[tuple[str, str]]:
    """What the voxels say, once all have been read."""
    grey = overview.statistics
    rows = [
        ("Minimum", f"{grey.minimum:.6g}"),
        ("Maximum", f"{grey.maximum:.6g}"),
        ("Mean", f"{grey.mean:.6g}"),
        ("Standard deviation", f"{grey.standard_deviation:.6g}"),
    ]
    if overview.not_finite:
        rows.append(("Not a number", wording.plural(overview.not_finite, "voxel")))
    return rows


def extent_nm(grid: VoxelGrid) -> tuple[float, float, float]:
    """Physical extent (z, y, x) in nm."""
    z, y, x = (size * length / ANGSTROM_PER_NM for size, length in zip(grid.shape, grid.voxel_size, strict=True))
    return z, y, x


def _voxel_type(tomogram: Tomogram) -> str:
    mode = tomogram.metadata.get("mrc", {}).get("mode")
    return tomogram.dtype.name if mode is None else f"{tomogram.dtype.name} (mode {mode})"

"""Masks as TIFF stacks: an exporter for CryoMamba that uses what any third party may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray

cryomamba_api_version = 1

#: Å in a nm, and in a cm.
NANOMETRE, CENTIMETRE = 10.0, 1e8

#: Files below this size are written in ImageJ's own format, which ends at 4 GB; larger ones as BigTIFF.
IMAGEJ_LIMIT = 4 * 10**9


class TiffExporter(Exporter):
    """Writes one section a page, uncompressed, with the voxel size where ImageJ looks for it."""

    name = "tiff"
    artifact = "mask.tif"
    suffix = ".tif"
    media_type = "image/tiff"

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the stack; see `Exporter.write`."""
        import tifffile

        depth, height, width = grid.voxel_size
        imagej = grid.voxels * labels.dtype.itemsize < IMAGEJ_LIMIT
        unit = NANOMETRE if imagej else CENTIMETRE
        with tifffile.TiffWriter(path, imagej=imagej, bigtiff=not imagej) as tiff:
            tiff.write(
                _sections(labels),
                shape=grid.shape,
                dtype=labels.dtype.newbyteorder("="),
                resolution=(unit / width, unit / height),
                resolutionunit="NONE" if imagej else "CENTIMETER",
                photometric="minisblack",
                metadata={"axes": "ZYX", "spacing": depth / NANOMETRE, "unit": "nm"},
            )
        if imagej:
            return ("TIFF keeps the voxel size in nm, and no origin",)
        return ("BigTIFF keeps voxels per cm along x and y, the distance of sections in nm, and no origin",)


def _sections(labels: LabelArray) -> Iterator[NDArray[Any]]:
    for z in range(labels.shape[0]):
        yield labels[z : z + 1][0].astype(labels.dtype.newbyteorder("="), copy=False)


@hookimpl
def cryomamba_register_exporters(register: Callable[[Exporter], None]) -> None:
    """Register the exporter."""
    register(TiffExporter())

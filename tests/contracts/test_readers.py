"""The built-in readers pass the suite that strangers use; the files are written by other people's libraries."""

import gzip
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import nibabel
import nrrd
import numpy as np

from cryomamba_backends.formats.mrc.reader import MrcReader
from cryomamba_backends.formats.nifti.reader import NiftiReader
from cryomamba_backends.formats.nrrd.reader import NrrdReader
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import VolumeReader
from cryomamba_core.testing.readers import ReaderConformance


class TestMrcOfMrcfile(ReaderConformance):
    suffix = ".mrc"

    def make_reader(self) -> VolumeReader:
        return MrcReader()

    def write_file(self, path: Path, voxels: Any, grid: VoxelGrid) -> None:
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(voxels)
            mrc.voxel_size = grid.voxel_size[::-1]
            mrc.header.origin = grid.origin[::-1]


class TestCcp4OfGemmi(ReaderConformance):
    suffix = ".ccp4"
    dtype = np.float32

    def make_reader(self) -> VolumeReader:
        return MrcReader()

    def write_file(self, path: Path, voxels: Any, grid: VoxelGrid) -> None:
        ccp4 = gemmi.Ccp4Map()
        ccp4.grid = gemmi.FloatGrid(np.ascontiguousarray(voxels.T))
        z, y, x = (size * count for size, count in zip(grid.voxel_size, grid.shape, strict=True))
        ccp4.grid.set_unit_cell(gemmi.UnitCell(x, y, z, 90, 90, 90))
        ccp4.grid.spacegroup = gemmi.SpaceGroup("P1")
        ccp4.update_ccp4_header()
        for word, value in zip((52, 51, 50), grid.origin, strict=True):
            ccp4.set_header_float(word, value)
        ccp4.write_ccp4_map(str(path))


class NiftiConformance(ReaderConformance):
    def make_reader(self) -> VolumeReader:
        return NiftiReader()

    def write_file(self, path: Path, voxels: Any, grid: VoxelGrid) -> None:
        affine = np.diag([*(size * 1e-7 for size in grid.voxel_size[::-1]), 1.0])
        affine[:3, 3] = [part * 1e-7 for part in grid.origin[::-1]]
        image = nibabel.Nifti1Image(voxels.T, affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)


class TestNifti(NiftiConformance):
    suffix = ".nii"


class TestCompressedNifti(NiftiConformance):
    suffix = ".nii.gz"
    size_is_known = False


class NrrdConformance(ReaderConformance):
    suffix = ".nrrd"
    encoding = "raw"

    def make_reader(self) -> VolumeReader:
        return NrrdReader()

    def write_file(self, path: Path, voxels: Any, grid: VoxelGrid) -> None:
        header = {
            "space": "right-anterior-superior",
            "space directions": np.diag(grid.voxel_size[::-1]) * 1e-7,
            "space origin": np.array(grid.origin[::-1]) * 1e-7,
            "space units": ["mm", "mm", "mm"],
            "kinds": ["domain", "domain", "domain"],
            "encoding": self.encoding,
        }
        nrrd.write(str(path), voxels.T, header, compression_level=1)


class TestNrrd(NrrdConformance):
    pass


class TestGzipNrrd(NrrdConformance):
    encoding = "gzip"
    size_is_known = False


class TestBzip2Nrrd(NrrdConformance):
    encoding = "bzip2"
    size_is_known = False


class TestNiftiOfSeveralGzipMembers(NiftiConformance):
    """As bgzip and pigz write them: the size in the trailer is that of the last member only."""

    suffix = ".nii.gz"
    size_is_known = False

    def write_file(self, path: Path, voxels: Any, grid: VoxelGrid) -> None:
        plain = path.with_name("plain.nii")
        super().write_file(plain, voxels, grid)
        content = plain.read_bytes()
        plain.unlink()
        pieces = (content[:500], content[500:-7], content[-7:])
        path.write_bytes(b"".join(gzip.compress(piece, compresslevel=1) for piece in pieces))

"""Where other people's libraries find a companion: on its mask, or, binned, on the middle of the voxels of each bin."""

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest

from cryomamba_backends.formats.mrc.exporter import MrcExporter
from cryomamba_backends.formats.mrc.reader import MrcReader
from cryomamba_backends.formats.nifti.exporter import NiftiExporter
from cryomamba_backends.formats.nrrd.exporter import NrrdExporter
from cryomamba_core.artifacts import SourceFile
from cryomamba_core.companions import Companion
from cryomamba_core.testing.exporters import example_run

SHAPE, BINNING = (7, 10, 12), 3
DOUBT = Companion(name="doubt", meaning="255 for zero")
COARSE = Companion(name="doubt", meaning="255 for zero", binning=BINNING)

#: Å; headers of MRC and NIfTI files hold float32.
TOLERANCE = 1e-4


@pytest.fixture
def source(tmp_path):
    """Grid and run of an MRC file whose unit cell is larger than the volume and starts elsewhere."""
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
        mrc.header.mx, mrc.header.my, mrc.header.mz = 48, 40, 28
        mrc.header.cella = (48 * 5.0, 40 * 6.0, 28 * 7.0)
        mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = 4, -2, 9
    with MrcReader().open(path) as volume:
        file = SourceFile(
            name="a.mrc", size=1, sha256="00" * 32, format="mrc", dtype="float32", metadata=dict(volume.metadata)
        )
        return volume.grid, example_run(source=file, grid=volume.grid)


def written(exporter, companion, source, tmp_path):
    grid, run = source
    coarse = grid.coarsen(companion.binning)
    values = np.random.default_rng(1).integers(0, 256, coarse.shape, dtype=np.uint8)
    path = tmp_path / exporter.companion_artifact(companion)
    exporter.write_companion(values, coarse, companion, run, path)
    return path


def test_an_mrc_file_has_the_header_of_the_mask(source, tmp_path):
    grid, run = source
    MrcExporter().write(np.zeros(SHAPE, np.uint8), grid, run, tmp_path / "mask.mrc")
    with (
        mrcfile.open(written(MrcExporter(), DOUBT, source, tmp_path)) as mrc,
        mrcfile.open(tmp_path / "mask.mrc") as mask,
    ):
        for name in ("mx", "mz", "cella", "nxstart", "nzstart", "origin", "mapc", "ispg"):
            assert mrc.header[name] == mask.header[name], name
        assert (mrc.header.mx, mrc.header.nzstart) == (48, 9)
        assert [bytes(text).strip() for text in mrc.header.label[:2]] == [b"CryoMamba doubt of a.mrc", b"255 for zero"]
        assert mrc.header.mode == 6
        assert float(mrc.header.dmean) == pytest.approx(mrc.data.mean(), rel=1e-6)
    assert mrcfile.validate(tmp_path / "doubt.mrc")


def test_a_binned_mrc_file_lies_on_its_bins(source, tmp_path):
    grid, _ = source
    with mrcfile.open(written(MrcExporter(), COARSE, source, tmp_path)) as mrc:
        assert mrc.voxel_size.tolist() == pytest.approx((15.0, 18.0, 21.0), abs=TOLERANCE)
        assert (mrc.header.mx, mrc.header.nxstart) == (4, 0)
        middle = [at + size for at, size in zip(grid.origin, grid.voxel_size, strict=True)]
        assert list(mrc.header.origin.tolist()) == pytest.approx(middle[::-1], abs=TOLERANCE)
    assert mrcfile.validate(tmp_path / "doubt.mrc")


@pytest.mark.parametrize("companion", [DOUBT, COARSE], ids=["full", "binned"])
def test_nifti_and_nrrd_files_lie_on_their_bins(companion, source, tmp_path):
    grid, _ = source
    image = nibabel.load(written(NiftiExporter(), companion, source, tmp_path))
    _, header = nrrd.read(str(written(NrrdExporter(), companion, source, tmp_path)))
    middle = np.array(grid.origin) + np.array(grid.voxel_size) * (companion.binning - 1) / 2
    steps = np.array(grid.voxel_size)[::-1] * companion.binning
    angstrom = 1e7  # in a mm
    np.testing.assert_allclose(image.affine[:3, 3] * angstrom, middle[::-1], atol=TOLERANCE)
    np.testing.assert_allclose(np.diag(image.affine)[:3] * angstrom, steps, atol=TOLERANCE)
    np.testing.assert_allclose(header["space origin"] * angstrom, middle[::-1], atol=TOLERANCE)
    np.testing.assert_allclose(np.diag(header["space directions"]) * angstrom, steps, atol=TOLERANCE)
    assert header["meaning"] == "255 for zero"
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_intent()[0] == "none"

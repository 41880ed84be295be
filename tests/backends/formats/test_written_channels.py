"""Files of several channels that we write, as mrcfile, nibabel, SimpleITK, pynrrd and our own readers find them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK

from cryomamba_backends.formats.nifti.exporter import NiftiExporter
from cryomamba_core.channels import Channel
from cryomamba_core.errors import InputError
from cryomamba_core.plugins import PluginHost
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.volumes import Volume

Open = Callable[..., Volume]

SHAPE = (5, 7, 11)  # sections, rows, columns as stored
VOXELS = np.random.default_rng(2).normal(size=(2, *SHAPE)).astype(np.float32)
SUFFIXES = [".mrc", ".rec", ".nii", ".nii.gz", ".nrrd"]

#: Å; headers of MRC and NIfTI files hold float32.
TOLERANCE = 1e-4


def save_mrc(path: Path, stored: Any, **fields: Any) -> Path:
    with mrcfile.new(path) as mrc:
        mrc.set_data(stored)
        mrc.voxel_size = (9.25, 10.5, 13.5)
        for field, value in fields.items():
            mrc.header[field] = value
    return path


def save_nifti(path: Path, stored: Any, steps: Any = ((9.25, 0, 0), (0, 10.5, 0), (0, 0, 13.5))) -> Path:
    """`steps` are the columns of the matrix, in Å."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(steps).T * 1e-7
    affine[:3, 3] = (-101e-7, 52.5e-7, 7e-7)
    image = nibabel.Nifti1Image(stored.T, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def save_nrrd(path: Path, stored: Any) -> Path:
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array([[9.25, 0, 0], [0, 0, 10.5], [0, -13.5, 0]]),
        "space origin": np.array([-101, 52.5, 7]),
        "space units": ["angstrom"] * 3,
    }
    nrrd.write(str(path), stored.T, header)
    return path


SOURCES: dict[str, Callable[[Path, Any], Path]] = {
    "origin.mrc": lambda path, stored: save_mrc(path, stored, origin=(8.5, -21, 400.25)),
    "start.mrc": lambda path, stored: save_mrc(path, stored, nxstart=4, nystart=-2, nzstart=9),
    "cell.mrc": lambda path, stored: save_mrc(path, stored, mx=48, mz=28, cella=(48 * 9.25, 7 * 10.5, 28 * 13.5)),
    "columns along y.mrc": lambda path, stored: save_mrc(
        path, stored, mapc=2, mapr=1, nxstart=4, nystart=-2, nzstart=9, mx=7, my=11, cella=(70, 121, 65)
    ),
    "sections along y.mrc": lambda path, stored: save_mrc(
        path, stored, mapc=3, mapr=1, maps=2, nxstart=4, nystart=-2, nzstart=9, mx=7, my=5, mz=11, cella=(70, 60, 121)
    ),
    "forwards.nii": save_nifti,
    "backwards.nii.gz": lambda path, stored: save_nifti(path, stored, ((-9.25, 0, 0), (0, -10.5, 0), (0, 0, 13.5))),
    "permuted.nii": lambda path, stored: save_nifti(path, stored, ((0, 0, 9.25), (10.5, 0, 0), (0, -13.5, 0))),
    "a.nrrd": save_nrrd,
}


@pytest.fixture
def write(host: PluginHost, open_volume: Open, tmp_path: Path) -> Callable[..., Path]:
    """Write the channels of files to one; a file that is given as a volume counts as opened."""

    def write_them(files: Sequence[Path | Volume], name: str) -> Path:
        volumes = [file if isinstance(file, Volume) else open_volume(file) for file in files]
        names = [f"{index}: {getattr(file, 'name', 'volume')}" for index, file in enumerate(files)]
        channels = [Channel(volume, name=name) for volume, name in zip(volumes, names, strict=True)]
        host.channel_exporter_for(name).write_channels(channels, tmp_path / name)
        return tmp_path / name

    return write_them


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., list[Path]]:
    """Save the channels in files of their own."""

    def save_them(source: str, voxels: Any = VOXELS) -> list[Path]:
        return [SOURCES[source](tmp_path / f"{index} {source}", stored) for index, stored in enumerate(voxels)]

    return save_them


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_channel_is_its_file_again(
    source: str, suffix: str, save: Callable[..., list[Path]], write: Callable[..., Path], open_volume: Open
) -> None:
    files = save(source)
    backwards = source in ("backwards.nii.gz", "permuted.nii", "a.nrrd")
    if backwards and suffix in (".mrc", ".rec"):
        with pytest.raises(InputError, match="backwards") as caught:
            write(files, f"joined{suffix}")
        assert ".nrrd" in caught.value.hint
        return
    joined = open_volume(write(files, f"joined{suffix}"))
    assert len(joined.channels) == len(files)
    for path, channel in zip(files, joined.channels, strict=True):
        alone = open_volume(path)
        assert channel.dtype == alone.dtype
        assert channel.grid.shape == alone.grid.shape
        np.testing.assert_allclose(channel.grid.voxel_size, alone.grid.voxel_size, rtol=1e-6)
        np.testing.assert_allclose(channel.grid.origin, alone.grid.origin, atol=TOLERANCE)
        np.testing.assert_array_equal(channel.read(channel.grid.whole), alone.read(alone.grid.whole))
    expected = {"header/several-channels", "header/axis-backwards", "header/angstrom-as-mm"}
    assert {warning.code for warning in joined.warnings} <= expected


@pytest.mark.parametrize("source", ["forwards.nii", "backwards.nii.gz", "permuted.nii"])
def test_a_nifti_file_keeps_matrix_and_array_of_its_sources(
    source: str, save: Callable[..., list[Path]], write: Callable[..., Path]
) -> None:
    files = save(source)
    image = nibabel.load(write(files, "joined.nii.gz"))
    alone = nibabel.load(files[0])
    np.testing.assert_allclose(image.affine, alone.affine, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, VOXELS)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent()[0] == "none"
    assert bytes(image.header["descrip"].tobytes()).startswith(b"CryoMamba channels: 0: ")


@pytest.mark.parametrize("source", ["forwards.nii", "backwards.nii.gz", "permuted.nii"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_itk_finds_every_channel_where_its_file_is(
    source: str, suffix: str, save: Callable[..., list[Path]], write: Callable[..., Path]
) -> None:
    files = save(source)
    joined = SimpleITK.ReadImage(str(write(files, f"joined{suffix}")))
    for index, path in enumerate(files):
        alone = SimpleITK.ReadImage(str(path))
        channel = (
            joined[:, :, :, index] if joined.GetDimension() == 4 else SimpleITK.VectorIndexSelectionCast(joined, index)
        )
        assert channel.GetSize() == alone.GetSize()
        np.testing.assert_allclose(channel.GetSpacing(), alone.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(channel.GetOrigin(), alone.GetOrigin(), rtol=1e-6)
        np.testing.assert_allclose(channel.GetDirection(), alone.GetDirection(), atol=1e-6)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(channel), SimpleITK.GetArrayFromImage(alone))


def test_pynrrd_finds_a_list_of_volumes_with_their_names(
    save: Callable[..., list[Path]], write: Callable[..., Path]
) -> None:
    data, header = nrrd.read(str(write(save("a.nrrd"), "joined.nrrd")))
    np.testing.assert_array_equal(data.T, VOXELS)
    assert header["kinds"] == ["domain", "domain", "domain", "list"]
    assert np.isnan(header["space directions"][3]).all()
    assert header["encoding"] == "raw"
    assert header["channel1"] == "1: 1 a.nrrd"


@pytest.mark.parametrize(("space_group", "written"), [(0, 401), (1, 401), (19, 419), (401, 401), (999, 630)])
def test_mrcfile_finds_a_valid_stack_of_volumes(
    space_group: int, written: int, write: Callable[..., Path], tmp_path: Path
) -> None:
    files = [
        save_mrc(tmp_path / f"{index}.mrc", stored, ispg=space_group, nystart=-2, origin=(1, 2, 3))
        for index, stored in enumerate(VOXELS)
    ]
    path = write(files, "joined.mrc")
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.is_volume_stack()
        np.testing.assert_array_equal(mrc.data, VOXELS)
        header = mrc.header
        assert (header.ispg, header.mz, header.nz, header.nystart) == (written, 5, 10, -2)
        assert header.origin.tolist() == (1, 2, 3)
        assert mrc.voxel_size.tolist() == pytest.approx((9.25, 10.5, 13.5))
        assert [bytes(text).strip() for text in header.label[: header.nlabl]] == [
            b"CryoMamba: 2 channels of one volume",
            b"0: 0: 0.mrc",
            b"1: 1: 1.mrc",
        ]
        for name, value in (("dmin", VOXELS.min()), ("dmax", VOXELS.max()), ("dmean", VOXELS.mean())):
            assert float(header[name]) == pytest.approx(float(value), rel=1e-5)
        assert float(header.rms) == pytest.approx(float(VOXELS.std()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Data array contains (NaN|infinite) values", "ignore:invalid value")
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_kept_and_leaves_the_statistics_open(
    odd: float, write: Callable[..., Path]
) -> None:
    voxels = VOXELS.copy()
    voxels[1, 2, 3, 4] = odd
    path = write([ArrayVolume(channel) for channel in voxels], "joined.mrc")
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.header.dmin > mrc.header.dmax > mrc.header.dmean
        assert mrc.header.rms < 0
        np.testing.assert_array_equal(mrc.data, voxels)


def test_the_real_map_keeps_angles_and_place_in_another_axis_order(
    write: Callable[..., Path], open_volume: Open, shared_data: Path
) -> None:
    real = shared_data / "EMD-3001.map"
    path = write([real, real], "joined.mrc")
    joined, alone = open_volume(path), open_volume(real)
    assert (alone.grid.stored_axes, joined.grid.stored_axes) == ((1, 2, 0), (0, 1, 2))
    assert alone.grid.differences(joined.grid) == ()
    assert joined.grid.origin == pytest.approx(alone.grid.origin, abs=TOLERANCE)
    np.testing.assert_array_equal(joined.channels[1].read(alone.grid.whole), alone.read(alone.grid.whole))
    assert mrcfile.validate(path)
    with mrcfile.open(real) as one, mrcfile.open(path) as both:
        assert both.header.cellb == one.header.cellb
        assert [start_along(both, axis) for axis in range(3)] == [start_along(one, axis) for axis in range(3)]
        assert any(start_along(both, axis) for axis in range(3))


def start_along(mrc: Any, axis: int) -> int:
    """NSTART along x, y or z, whichever of columns, rows and sections that is."""
    maps = [int(mrc.header[name]) - 1 for name in ("mapc", "mapr", "maps")]
    return int(mrc.header[("nxstart", "nystart", "nzstart")[maps.index(axis)]])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_skewed_cell_is_written_where_there_is_room_for_angles(
    suffix: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    files = [save_mrc(tmp_path / f"{index}.mrc", VOXELS[0], cellb=(90, 93, 90)) for index in range(2)]
    with pytest.raises(InputError, match=r"0\.mrc has the angles \(90, 93, 90\)°") as caught:
        write(files, f"joined{suffix}")
    assert caught.value.hint.endswith(": .mrc")
    with mrcfile.open(write(files, "joined.mrc")) as mrc:
        assert mrc.header.cellb.tolist() == (90, 93, 90)


@pytest.mark.parametrize("suffix", [".mrc", ".nii.gz", ".nrrd"])
def test_cells_of_different_angles_are_not_one_grid(suffix: str, write: Callable[..., Path], tmp_path: Path) -> None:
    files = [save_mrc(tmp_path / f"{beta}.mrc", VOXELS[0], cellb=(90, beta, 90)) for beta in (90, 91)]
    with pytest.raises(InputError, match=r"the cell of 1: 91\.mrc has the angles"):
        write(files, f"joined{suffix}")
    assert not (tmp_path / f"joined{suffix}").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_axes_that_lead_different_ways_are_not_one_grid(
    suffix: str, save: Callable[..., list[Path]], write: Callable[..., Path], tmp_path: Path
) -> None:
    forwards = save_nifti(tmp_path / "forwards.nii", VOXELS[0])
    backwards = save_nifti(tmp_path / "backwards.nii", VOXELS[1], ((-9.25, 0, 0), (0, -10.5, 0), (0, 0, 13.5)))
    with pytest.raises(InputError, match=r"1: backwards\.nii counts x, y the other way than 0: forwards\.nii"):
        write([forwards, backwards], f"joined{suffix}")
    assert not (tmp_path / f"joined{suffix}").exists()


def test_scaled_voxels_are_written_as_what_they_mean(
    write: Callable[..., Path], open_volume: Open, tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "a.nii", (VOXELS[0] * 100).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.25, -3], np.float32).tobytes()
    path.write_bytes(content)
    joined = nibabel.load(write([path, path], "joined.nii"))
    assert joined.get_data_dtype() == np.float32
    np.testing.assert_allclose(joined.get_fdata()[..., 1], nibabel.load(path).get_fdata(), rtol=1e-6)


def test_more_rows_than_nifti_1_counts_become_nifti_2(write: Callable[..., Path], open_volume: Open) -> None:
    voxels = np.arange(40_000, dtype=np.int32).reshape(1, 1, -1)
    path = write([ArrayVolume(voxels), ArrayVolume(-voxels)], "joined.nii.gz")
    assert isinstance(nibabel.load(path), nibabel.Nifti2Image)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.channels[1].read(volume.grid.whole), -voxels)


@pytest.mark.parametrize("as_mm", [False, True])
def test_lengths_are_written_as_those_of_masks(as_mm: bool, tmp_path: Path) -> None:
    channels = [Channel(ArrayVolume(VOXELS[0]), name=name) for name in "ab"]
    (note,) = NiftiExporter(angstrom_as_mm=as_mm).write_channels(channels, tmp_path / "a.nii")
    assert ("1 Å = 1 mm" in note) is as_mm
    assert nibabel.load(tmp_path / "a.nii").affine[0, 0] == pytest.approx(10 if as_mm else 10e-7)

"""Files of several channels, as mrcfile, nibabel, SimpleITK and pynrrd write them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from cryomamba_backends.formats.channels import MOST_CHANNELS
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.geometry import Region
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import Volume

VOXELS = np.random.default_rng(3).integers(-999, 999, (3, 4, 5, 6)).astype(np.int16)  # channels, z, y, x
PART = Region(start=(1, 2, 3), stop=(3, 5, 4))

Open = Callable[..., Volume]


def save_mrc(path: Path, voxels: NDArray[Any] = VOXELS) -> Path:
    with mrcfile.new(path) as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = (10.0, 11.0, 12.0)
    return path


def save_nifti(path: Path, voxels: NDArray[Any] = VOXELS, kind: Any = nibabel.Nifti1Image) -> Path:
    image = kind(voxels.transpose(3, 2, 1, 0), np.diag([10e-7, 11e-7, 12e-7, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def save_nifti_vectors(path: Path) -> Path:
    image = nibabel.Nifti1Image(VOXELS.transpose(3, 2, 1, 0)[:, :, :, np.newaxis], np.diag([10e-7, 11e-7, 12e-7, 1]))
    image.header.set_xyzt_units("mm")
    image.header.set_intent("vector")
    nibabel.save(image, path)
    return path


def save_by_itk(path: Path) -> Path:
    image = SimpleITK.GetImageFromArray(np.moveaxis(VOXELS, 0, -1).copy(), isVector=True)
    image.SetSpacing((10e-7, 11e-7, 12e-7))
    SimpleITK.WriteImage(image, str(path))
    return path


def save_nrrd(path: Path, voxels: NDArray[Any] = VOXELS, *, leave_out: str = "", **fields: Any) -> Path:
    header = {
        "encoding": "raw",
        "space": "right-anterior-superior",
        "kinds": ["domain", "domain", "domain", "list"],
        "space directions": np.array([[10.0, 0, 0], [0, 11, 0], [0, 0, 12], [np.nan] * 3]),
        "space origin": np.zeros(3),
        "space units": ["angstrom"] * 3,
        **{name.replace("_", " "): value for name, value in fields.items()},
    }
    header.pop(leave_out, None)
    nrrd.write(str(path), voxels.transpose(3, 2, 1, 0), header)
    return path


SAVED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "mrcfile": ("a.mrc", save_mrc),
    "nibabel": ("a.nii", save_nifti),
    "nibabel, compressed": ("a.nii.gz", save_nifti),
    "nibabel, version 2": ("a.nii", lambda path: save_nifti(path, kind=nibabel.Nifti2Image)),
    "nibabel, vectors": ("a.nii", save_nifti_vectors),
    "nibabel, vectors, compressed": ("a.nii.gz", save_nifti_vectors),
    "SimpleITK, vectors": ("a.nii.gz", save_by_itk),
    "pynrrd": ("a.nrrd", save_nrrd),
    "pynrrd, gzip": ("a.nrrd", lambda path: save_nrrd(path, encoding="gzip")),
    "pynrrd, bzip2": ("a.nrrd", lambda path: save_nrrd(path, encoding="bzip2")),
    "pynrrd, vectors": ("a.nrrd", lambda path: save_nrrd(path, kinds=["space"] * 3 + ["RGB-color"])),
    "pynrrd, no kinds": ("a.nrrd", lambda path: save_nrrd(path, leave_out="kinds")),
}


@pytest.mark.parametrize("case", SAVED)
def test_each_channel_is_what_the_other_program_wrote(case: str, open_volume: Open, tmp_path: Path) -> None:
    name, save = SAVED[case]
    volume = open_volume(save(tmp_path / name))
    assert volume.grid.shape == VOXELS.shape[1:]
    assert volume.grid.voxel_size == pytest.approx((12, 11, 10), rel=1e-6)
    assert volume.channels[0] is volume
    assert len(volume.channels) == len(VOXELS)
    for channel, voxels in zip(volume.channels, VOXELS, strict=True):
        assert channel.grid == volume.grid
        assert channel.dtype == volume.dtype == np.int16
        np.testing.assert_array_equal(channel.read(channel.grid.whole), voxels)
        np.testing.assert_array_equal(channel.read(PART), voxels[PART.slices])
    for channel in volume.channels[1:]:
        assert channel.channels == (channel,)


@pytest.mark.parametrize("case", SAVED)
def test_it_is_said_that_only_the_first_is_shown(case: str, open_volume: Open, tmp_path: Path) -> None:
    name, save = SAVED[case]
    warnings = {warning.code: warning for warning in open_volume(save(tmp_path / name)).warnings}
    if case.startswith("SimpleITK"):
        del warnings["header/axis-backwards"]
    assert list(warnings) == ["header/several-channels"]
    assert warnings["header/several-channels"].message == (
        "the file holds 3 channels, and only models that take so many use more than the first"
    )
    assert warnings["header/several-channels"].hint


@pytest.mark.parametrize("case", SAVED)
def test_the_first_channel_closes_the_file_and_no_other_does(
    case: str, open_volume: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, save = SAVED[case]
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    volume = open_volume(save(tmp_path / name))
    with volume.channels[2] as last:
        last.read(PART)
    np.testing.assert_array_equal(volume.channels[1].read(PART), VOXELS[1][PART.slices])
    volume.close()
    for channel in volume.channels:
        with pytest.raises(ValueError, match="closed"):
            channel.read(PART)
    assert list(folder.iterdir()) == []


def test_scaling_is_that_of_every_channel(open_volume: Open, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.25, -3], np.float32).tobytes()
    path.write_bytes(content)
    expected = nibabel.load(path).get_fdata().T
    for channel, voxels in zip(open_volume(path).channels, expected, strict=True):
        assert channel.dtype == np.float32
        np.testing.assert_allclose(channel.read(channel.grid.whole), voxels, rtol=1e-6)


def test_channels_of_permuted_axes_are_brought_into_order(open_volume: Open, tmp_path: Path) -> None:
    steps = np.array([[0, 0, 12.0], [10.0, 0, 0], [0, 11.0, 0], [np.nan] * 3])  # array axes lead along z, x, y
    volume = open_volume(save_nrrd(tmp_path / "a.nrrd", space_directions=steps))
    assert volume.grid.shape == (6, 4, 5)
    for channel, voxels in zip(volume.channels, VOXELS, strict=True):
        np.testing.assert_array_equal(channel.read(channel.grid.whole), voxels.transpose(2, 0, 1))


def test_spacings_place_a_file_without_a_space(open_volume: Open, tmp_path: Path) -> None:
    header = {
        "encoding": "raw",
        "spacings": [10.0, 11.0, 12.0, np.nan],
        "axis mins": [1.0, 2.0, 3.0, np.nan],
        "centerings": ["cell", "node", "cell", "none"],
        "units": ["angstrom", "angstrom", "angstrom", ""],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS.transpose(3, 2, 1, 0), header)
    volume = open_volume(tmp_path / "a.nrrd")
    assert volume.grid.voxel_size == (12, 11, 10)
    assert volume.grid.origin == (9, 2, 6)
    assert [warning.code for warning in volume.warnings] == ["header/several-channels"]
    np.testing.assert_array_equal(volume.channels[2].read(volume.grid.whole), VOXELS[2])


@pytest.mark.parametrize("skip", [-1, 7])
def test_bytes_before_the_first_channel_are_skipped(skip: int, open_volume: Open, tmp_path: Path) -> None:
    path = save_nrrd(tmp_path / "a.nrrd")
    head, data = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head + f"\nbyte skip: {skip}\n\n".encode() + b"1234567" + data)
    volume = open_volume(path)
    for channel, voxels in zip(volume.channels, VOXELS, strict=True):
        np.testing.assert_array_equal(channel.read(channel.grid.whole), voxels)


@pytest.mark.parametrize("save", [save_mrc, save_nifti, save_nrrd])
def test_one_channel_gives_no_warning(save: Callable[..., Path], open_volume: Open, tmp_path: Path) -> None:
    name = {save_mrc: "a.mrc", save_nifti: "a.nii", save_nrrd: "a.nrrd"}[save]
    volume = open_volume(save(tmp_path / name, VOXELS[:1]))
    assert volume.channels == (volume,)
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS[0])


@pytest.mark.parametrize("save", [save_mrc, save_nifti, save_nrrd])
def test_more_volumes_than_a_model_has_channels_are_refused(
    save: Callable[..., Path], open_volume: Open, tmp_path: Path
) -> None:
    name = {save_mrc: "a.mrc", save_nifti: "a.nii", save_nrrd: "a.nrrd"}[save]
    voxels = np.zeros((MOST_CHANNELS + 1, 2, 3, 4), np.int16)
    assert len(open_volume(save(tmp_path / f"most-{name}", voxels[1:])).channels) == MOST_CHANNELS
    with pytest.raises(CryoMambaError) as caught:
        open_volume(save(tmp_path / name, voxels))
    assert caught.value.code == "input/unsupported-file"
    assert caught.value.hint


@pytest.mark.parametrize("save", [save_mrc, save_nifti, save_nrrd])
def test_a_file_that_lacks_the_end_of_its_last_channel_is_refused(
    save: Callable[..., Path], open_volume: Open, tmp_path: Path
) -> None:
    path = save(tmp_path / {save_mrc: "a.mrc", save_nifti: "a.nii", save_nrrd: "a.nrrd"}[save])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CryoMambaError) as caught:
        open_volume(path)
    assert caught.value.code == "input/truncated-file"


def test_vectors_whose_components_lie_next_to_each_other_are_refused(open_volume: Open, tmp_path: Path) -> None:
    with pytest.raises(CryoMambaError) as caught:
        open_volume(save_by_itk(tmp_path / "a.nrrd"))
    assert caught.value.code == "input/unsupported-file"
    assert "the channel axis last" in caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"kinds": ["domain"] * 4},
        {"kinds": ["domain"] * 3 + ["time"]},
        {"space_directions": np.array([[10.0, 0, 0], [0, 11, 0], [0, 0, 12], [0, 0, 13]])},
    ],
)
def test_a_fourth_axis_of_space_or_time_counts_no_channels(
    fields: dict[str, Any], open_volume: Open, tmp_path: Path
) -> None:
    with pytest.raises(CryoMambaError) as caught:
        open_volume(save_nrrd(tmp_path / "a.nrrd", **fields))
    assert caught.value.code == "input/unsupported-file"
    assert "space or time" in caught.value.message


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_stack_of_volumes_is_read_in_both_byte_orders(order: str, open_volume: Open, tmp_path: Path) -> None:
    volume = open_volume(save_mrc(tmp_path / "a.mrc", VOXELS.astype(np.dtype(np.int16).newbyteorder(order))))
    for channel, voxels in zip(volume.channels, VOXELS, strict=True):
        np.testing.assert_array_equal(channel.read(channel.grid.whole), voxels)


@pytest.mark.parametrize("space_group", [401, 419, 630])
def test_the_mask_of_a_stack_of_volumes_is_a_plain_volume(
    space_group: int, host: PluginHost, open_volume: Open, run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    path = save_mrc(tmp_path / "a.mrc")
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.ispg = space_group
    volume = open_volume(path)
    labels = (np.arange(volume.grid.voxels) % 3).astype(np.uint8).reshape(volume.grid.shape)
    for exporter in map(host.exporters.get, ("mrc", "nifti", "nrrd")):
        exporter.write(labels, volume.grid, run_of(path, volume), tmp_path / exporter.artifact)
        mask = open_volume(tmp_path / exporter.artifact)
        assert mask.grid.shape == volume.grid.shape
        assert mask.grid.voxel_size == pytest.approx(volume.grid.voxel_size)
        assert mask.channels == (mask,)
    assert mrcfile.validate(tmp_path / "mask.mrc")
    with mrcfile.open(tmp_path / "mask.mrc") as mrc:
        assert mrc.is_volume()
        assert mrc.header.ispg == space_group - 400
        assert mrc.header.mz == mrc.header.nz == 4
        np.testing.assert_array_equal(mrc.data, labels)
        assert mrc.voxel_size.z == pytest.approx(12)

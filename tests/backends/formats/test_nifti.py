"""NIfTI as nibabel writes and reads it."""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryomamba_backends.formats import sources
from cryomamba_backends.formats.nifti.reader import NiftiReader
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.plugins import PluginHost
from cryomamba_core.testing.exporters import example_run
from cryomamba_core.volumes import Volume

VOXELS = (np.arange(4 * 5 * 6).reshape(4, 5, 6) % 97).astype(np.int16)  # i, j, k

Open = Callable[..., Volume]


def save(
    path: Path, *, affine: Any = None, unit: str | None = "mm", voxels: Any = VOXELS, kind: Any = nibabel.Nifti1Image
) -> Path:
    image = kind(voxels, np.diag([1e-6, 1.5e-6, 2e-6, 1]) if affine is None else affine)
    if unit:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def codes(volume: Volume) -> list[str]:
    return [warning.code for warning in volume.warnings]


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [
        ("mm", 1e-7, []),
        ("micron", 1e-4, []),
        ("meter", 1e-10, []),
        ("mm", 1.0, ["header/angstrom-as-mm"]),
        (None, 1.0, ["header/no-length-unit"]),
    ],
)
def test_lengths_become_angstrom(
    unit: str | None, scale: float, expected: list[str], open_volume: Open, tmp_path: Path
) -> None:
    affine = np.diag([10.52 * scale, 11 * scale, 12 * scale, 1])
    affine[:3, 3] = np.array([-100, 20.5, 3]) * scale
    volume = open_volume(save(tmp_path / "a.nii", affine=affine, unit=unit))
    assert volume.grid.voxel_size == pytest.approx((12, 11, 10.52), rel=1e-6)
    assert volume.grid.origin == pytest.approx((3, 20.5, -100), rel=1e-6)
    assert codes(volume) == expected


def test_one_angstrom_as_mm_is_doubted_twice(open_volume: Open, tmp_path: Path) -> None:
    volume = open_volume(save(tmp_path / "a.nii", affine=np.eye(4)))
    assert codes(volume) == ["header/angstrom-as-mm", "header/voxel-size-one"]
    assert open_volume(tmp_path / "a.nii", voxel_size=(5, 5, 5)).warnings == ()


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "i8", "u8", ">i2", ">f4"])
def test_every_type_and_version_is_read(dtype: str, suffix: str, kind: Any, open_volume: Open, tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.dtype(dtype).newbyteorder("="))
    header = kind.header_class(endianness=dtype[0] if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype))
    image = kind(voxels, np.diag([1e-6, 1e-6, 1e-6, 1]), header)
    image.header.set_xyzt_units("mm")
    path = tmp_path / f"a{suffix}"
    nibabel.save(image, path)
    volume = open_volume(path)
    assert volume.dtype == voxels.dtype
    np.testing.assert_array_equal(volume.read(volume.grid.whole), voxels.T)
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.uint8, np.float32), (np.int16, np.float32), (np.int32, np.float64)]
)
def test_scaled_voxels_are_what_nibabel_makes_of_them(
    dtype: Any, expected: Any, open_volume: Open, tmp_path: Path
) -> None:
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(VOXELS.astype(dtype), np.diag([1e-6, 1e-6, 1e-6, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.25, -3], np.float32).tobytes()
    path.write_bytes(content)
    volume = open_volume(path)
    assert volume.dtype == expected
    np.testing.assert_allclose(volume.read(volume.grid.whole), nibabel.load(path).get_fdata().T, rtol=1e-6)


@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf, 0])
@pytest.mark.parametrize("intercept", [0, 3, np.nan, np.inf])
def test_a_slope_that_is_no_number_scales_nothing_as_nibabel_has_it(
    intercept: float, slope: float, open_volume: Open, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], np.float32).tobytes()
    path.write_bytes(content)
    volume = open_volume(path)
    assert volume.dtype == VOXELS.dtype
    np.testing.assert_array_equal(volume.read(volume.grid.whole), nibabel.load(path).get_fdata().T)


def test_trailing_dimensions_of_one_are_a_volume(open_volume: Open, tmp_path: Path) -> None:
    volume = open_volume(save(tmp_path / "a.nii", voxels=VOXELS[..., None, None]))
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)


def test_a_rotation_by_quarter_turns_in_the_qform_permutes_axes(open_volume: Open, tmp_path: Path) -> None:
    affine = np.array([[0, 0, 1.2e-6, 1e-5], [1e-6, 0, 0, 2e-5], [0, 1.1e-6, 0, 3e-5], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(VOXELS, None)
    image.header.set_qform(affine, code=1)
    image.header.set_sform(None, code=0)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert volume.grid.stored_axes == (2, 0, 1)
    assert volume.grid.voxel_size == pytest.approx((11, 10, 12), rel=1e-6)
    assert volume.grid.origin == pytest.approx((300, 200, 100), rel=1e-6)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.transpose(1, 0, 2))


def test_backward_axes_are_named_and_nothing_is_flipped(open_volume: Open, tmp_path: Path) -> None:
    affine = np.diag([-1e-6, -1e-6, 1e-6, 1])
    affine[:3, 3] = (1e-5, -2e-5, 3e-5)
    volume = open_volume(save(tmp_path / "a.nii", affine=affine))
    assert codes(volume) == ["header/axis-backwards"]
    assert "x, y" in volume.warnings[0].message
    assert volume.grid.origin == pytest.approx((300, 200, -100), rel=1e-6)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)


def test_a_header_without_any_voxel_size_is_read_with_a_given_one(open_volume: Open, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[80:92] = bytes(12)  # pixdim
    content[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(content)
    with pytest.raises(CryoMambaError) as caught:
        open_volume(path)
    assert caught.value.code == "input/voxel-size"
    volume = open_volume(path, voxel_size=(3, 2, 1))
    assert volume.grid.voxel_size == (3, 2, 1)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)


def test_a_compressed_file_is_unpacked_only_when_voxels_are_asked_for_and_leaves_nothing(
    open_volume: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.nii.gz")
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)
    assert list(folder.iterdir()) == []
    volume.close()
    with pytest.raises(ValueError, match="closed"):
        volume.read(volume.grid.whole)


@pytest.mark.parametrize("junk", [b"\0" * 100, b"junk at the end of the file"])
def test_junk_after_compressed_voxels_is_tolerated(junk: bytes, open_volume: Open, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + junk)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)


def test_a_mask_says_what_it_is_and_in_which_unit(host: PluginHost, tmp_path: Path) -> None:
    grid = VoxelGrid(shape=(3, 4, 5), voxel_size=(13.5, 10.5, 9.25), origin=(3.0, 2.0, 1.0))
    exporter = host.exporters.get("nifti")
    (note,) = exporter.write(np.zeros(grid.shape, np.uint8), grid, example_run(), tmp_path / "mask.nii.gz")
    assert note == "mask.nii.gz: lengths are written in mm (1 Å = 1e-7 mm)"
    header = nibabel.load(tmp_path / "mask.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_intent()[0] == "label"
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_data_dtype() == np.uint8
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), rtol=1e-6)
    assert bytes(header["descrip"].item()) == b"CryoMamba: 1 membrane, 2 ribosome"
    assert (tmp_path / "mask.nii.gz").read_bytes()[4:8] == bytes(4)  # no time: the same labels give the same bytes


def test_a_mask_with_a_very_long_axis_is_nifti_2(host: PluginHost, tmp_path: Path) -> None:
    grid = VoxelGrid(shape=(1, 2, 40000), voxel_size=(10, 10, 10))
    labels = np.zeros(grid.shape, np.uint8)
    labels[0, 1, 39999] = 2
    host.exporters.get("nifti").write(labels, grid, example_run(grid=grid), tmp_path / "mask.nii.gz")
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert isinstance(image, nibabel.Nifti2Image)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels)


def test_our_own_mask_is_read_back(
    host: PluginHost, open_volume: Open, run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    grid = VoxelGrid(shape=(3, 4, 5), voxel_size=(13.5, 10.5, 9.25), origin=(3.0, -2.0, 1.0))
    labels = np.arange(60, dtype=np.uint8).reshape(grid.shape) % 3
    for name in ("mrc", "nifti", "nrrd"):
        exporter = host.exporters.get(name)
        exporter.write(labels, grid, example_run(), tmp_path / exporter.artifact)
        volume = open_volume(tmp_path / exporter.artifact)
        assert volume.grid == grid
        np.testing.assert_array_equal(volume.read(grid.whole), labels)
        assert volume.warnings == ()


@pytest.mark.parametrize("value", [2, 300])
@pytest.mark.parametrize("name", ["nifti", "nrrd"])
def test_our_own_mask_that_is_nearly_all_background_is_read_back(
    name: str, value: int, host: PluginHost, open_volume: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "HOSTILE_BYTES", 1 << 20)
    grid = VoxelGrid(shape=(32, 256, 256), voxel_size=(10, 10, 10))
    labels = np.zeros(grid.shape, np.uint8 if value < 256 else np.uint16)
    labels[16, 100:110, 100:110] = value
    exporter = host.exporters.get(name)
    path = tmp_path / exporter.artifact
    exporter.write(labels, grid, example_run(names={value: "gold"}, grid=grid), path)
    assert path.stat().st_size * sources.HOSTILE_RATIO < labels.nbytes
    volume = open_volume(path)
    assert volume.dtype == labels.dtype
    np.testing.assert_array_equal(volume.read(grid.whole), labels)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_to_a_header_gives_a_volume_or_an_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    good = tmp_path / "good.nii"
    content = bytearray((good if good.exists() else save(good)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 174)) * 2
        content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4) | st.just(np.float32(np.nan).tobytes()))
    compressed = data.draw(st.booleans())
    path = tmp_path / ("fuzzed.nii.gz" if compressed else "fuzzed.nii")
    written = gzip.compress(content, compresslevel=1) if compressed else bytes(content)
    path.write_bytes(written[: data.draw(st.integers(0, len(written)))] if data.draw(st.booleans()) else written)
    reader = NiftiReader()
    try:
        reader.validate(written[:4096], path.stat().st_size)
        with reader.open(path) as volume:
            assert volume.read(volume.grid.whole).shape == volume.grid.shape
    except CryoMambaError as error:
        assert error.code.startswith(("input/", "storage/full"))  # noqa: PT017  # which one differs

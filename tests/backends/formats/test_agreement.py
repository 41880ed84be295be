"""Every mask of a job lies on its source: gemmi, SimpleITK, nibabel and pynrrd say where the labels are."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from attrs import evolve

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import Volume

#: Positions agree to this many Å: headers hold float32.
TOLERANCE = 2e-3

ANGSTROM_PER_MM = 1e7

HEADERS = {
    "as usual": {},
    "starts away from zero": {"nxstart": -3, "nystart": 5, "nzstart": 17},
    "origin": {"origin": (40.5, -21.25, 300.0)},
    "origin and start": {"origin": (40.5, -21.25, 300.0), "nxstart": -3, "nystart": 5, "nzstart": 17},
    "extended header": {"extended": bytes(range(160)), "nxstart": 4},
    "big-endian": {"big_endian": True, "nystart": -2},
    "big-endian with everything": {"big_endian": True, "extended": b"x" * 80, "origin": (1.5, 2.5, -3.5)},
    "tomogram without a space group": {"ispg": 0},
    "cell larger than the map": {"mx": 22, "my": 9, "mz": 40, "cella": (22 * 9.25, 9 * 10.5, 40 * 13.5)},
}


class Masks:
    """The masks of a job, and the position (x, y, z) in Å of a label's only voxel by each judge."""

    def __init__(self, folder: Path, angstrom: float = 1 / ANGSTROM_PER_MM) -> None:
        self.mrc, self.nifti, self.nrrd = (str(folder / name) for name in ("mask.mrc", "mask.nii.gz", "mask.nrrd"))
        self.angstrom = angstrom

    def by_gemmi(self, label: int) -> Any:
        return along_cell(self.mrc, label)

    def by_nibabel(self, label: int) -> Any:
        image = nibabel.load(self.nifti)
        (index,) = np.argwhere(np.asarray(image.dataobj) == label)
        return nibabel.affines.apply_affine(image.affine, index) / self.angstrom

    def by_pynrrd(self, label: int) -> Any:
        array, header = nrrd.read(self.nrrd)
        (index,) = np.argwhere(array == label)
        return (index @ header["space directions"] + header["space origin"]) / self.angstrom

    def by_simpleitk(self, label: int, path: str) -> Any:
        image = SimpleITK.ReadImage(path)
        ((z, y, x),) = np.argwhere(SimpleITK.GetArrayFromImage(image) == label)
        position = image.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
        return np.array(position) * (-1, -1, 1) / self.angstrom  # ITK counts to the left and to the back


def along_cell(path: str, value: int) -> Any:
    """Position (x, y, z) along the cell's edges of the only voxel with a value, by gemmi.

    gemmi brings the axes into order x, y, z. Positions on its own grid are of no use here: it folds the
    map into the unit cell, which the real one exceeds, and it knows NSTART but not ORIGIN.
    """
    ccp4 = gemmi.read_ccp4_map(path)
    ccp4.setup(0, gemmi.MapSetup.ReorderOnly)
    (index,) = np.argwhere(np.asarray(ccp4.grid) == value)
    start = [ccp4.header_i32(word) for word in (5, 6, 7)]
    sampling = [ccp4.header_i32(word) for word in (8, 9, 10)]
    origin = np.array([ccp4.header_float(word) for word in (50, 51, 52)])
    cell = ccp4.grid.unit_cell
    step = np.array([cell.a, cell.b, cell.c]) / sampling
    return index * step + (origin if origin.any() else start * step)


def same_place(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)


def export(host: PluginHost, labels: Any, volume: Volume, run: RunInfo, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("mrc", "nifti", "nrrd"):
        exporter = host.exporters.get(name)
        exporter.write(labels, volume.grid, run, folder / exporter.artifact)


def spots(shape: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """Label → voxel (z, y, x): both ends of the volume and something in between."""
    z, y, x = shape
    return {1: (0, 0, 0), 2: (z // 2, y // 3, x - 2), 3: (z - 2, y - 2, x // 4), 4: (z // 3, 1, 1)}


def check_masks(host: PluginHost, path: Path, volume: Volume, run: RunInfo, folder: Path) -> None:
    labels = np.zeros(volume.grid.shape, np.uint8)
    for label, voxel in spots(volume.grid.shape).items():
        labels[voxel] = label
    export(host, labels, volume, run, folder)
    masks = Masks(folder)
    assert mrcfile.validate(masks.mrc)
    for label, voxel in spots(volume.grid.shape).items():
        expected = volume.grid.position(voxel)[::-1]
        same_place(masks.by_gemmi(label), expected)
        same_place(masks.by_nibabel(label), expected)
        same_place(masks.by_pynrrd(label), expected)
        same_place(masks.by_simpleitk(label, masks.nifti), expected)
        same_place(masks.by_simpleitk(label, masks.nrrd), expected)
    same_header(path, Path(masks.mrc))


def same_header(source: Path, mask: Path) -> None:
    """Every word that says where the voxels are is the source's, by gemmi's reading of both."""
    ours, theirs = gemmi.read_ccp4_map(str(mask)), gemmi.read_ccp4_map(str(source))
    for word in (1, 2, 3, 5, 6, 7, 8, 9, 10, 17, 18, 19, 23):
        assert ours.header_i32(word) == theirs.header_i32(word), word
    for word in (11, 12, 13, 14, 15, 16, 50, 51, 52):
        assert ours.header_float(word) == pytest.approx(theirs.header_float(word), rel=1e-6), word


@pytest.fixture
def names() -> dict[int, str]:
    return {1: "membrane", 2: "ribosome", 3: "microtubule", 4: "vesicle"}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3))))
def test_masks_lie_on_the_source_for_every_header_and_axis_order(
    case: str,
    axes: tuple[int, int, int],
    host: PluginHost,
    write_mrc: Callable[..., Path],
    open_volume: Callable[..., Volume],
    run_of: Callable[..., RunInfo],
    names: dict[int, str],
    tmp_path: Path,
) -> None:
    path = write_mrc(axes=axes, **HEADERS[case])
    volume = open_volume(path)
    check_masks(host, path, volume, run_of(path, volume, names), tmp_path / "out")


@pytest.mark.parametrize("name", ["13pf_MT.mrc", "EMD-3001.map"])
def test_masks_of_real_files_lie_on_them(
    name: str,
    shared_data: Path,
    host: PluginHost,
    open_volume: Callable[..., Volume],
    run_of: Callable[..., RunInfo],
    names: dict[int, str],
    tmp_path: Path,
) -> None:
    path = shared_data / name
    volume = open_volume(path)
    check_masks(host, path, volume, run_of(path, volume, names), tmp_path / "out")


@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3))))
@pytest.mark.parametrize(("mode", "big_endian"), [(0, False), (1, False), (2, False), (6, False), (2, True)])
def test_voxels_are_those_that_gemmi_reads(
    mode: int,
    big_endian: bool,  # only of mode 2: gemmi 0.7.5 swaps the bytes of other modes after it has made them float32
    axes: tuple[int, int, int],
    write_mrc: Callable[..., Path],
    open_volume: Callable[..., Volume],
) -> None:
    path = write_mrc(as_mode=mode, axes=axes, big_endian=big_endian, extended=b"ext " * 20)
    ccp4 = gemmi.read_ccp4_map(str(path))
    ccp4.setup(0, gemmi.MapSetup.ReorderOnly)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), np.asarray(ccp4.grid).T)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_voxels_and_type_are_those_that_mrcfile_reads(
    mode: int,
    big_endian: bool,
    write_mrc: Callable[..., Path],
    open_volume: Callable[..., Volume],
) -> None:
    path = write_mrc(as_mode=mode, big_endian=big_endian)
    volume = open_volume(path)
    with mrcfile.open(path) as mrc:
        assert volume.dtype == mrc.data.dtype.newbyteorder("=")
        np.testing.assert_array_equal(volume.read(volume.grid.whole), mrc.data)
        size = mrc.voxel_size.tolist()
        assert volume.grid.voxel_size[::-1] == pytest.approx(size, rel=1e-6)


def test_the_real_map_is_read_along_its_own_axes(shared_data: Path, open_volume: Callable[..., Volume]) -> None:
    path = shared_data / "EMD-3001.map"
    ccp4 = gemmi.read_ccp4_map(str(path))
    ccp4.setup(0, gemmi.MapSetup.ReorderOnly)
    volume = open_volume(path)
    assert volume.grid.stored_axes == (1, 2, 0)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), np.asarray(ccp4.grid).T)
    assert volume.grid.voxel_size == pytest.approx((33.03 / 72, 4.71 / 12, 17.93 / 40))
    assert [warning.code for warning in volume.warnings] == ["header/skewed-cell"]


def test_a_given_voxel_size_goes_into_every_mask(
    host: PluginHost,
    write_mrc: Callable[..., Path],
    open_volume: Callable[..., Volume],
    run_of: Callable[..., RunInfo],
    names: dict[int, str],
    tmp_path: Path,
) -> None:
    path = write_mrc(axes=(3, 1, 2), nxstart=4, nystart=-2)
    volume = open_volume(path, voxel_size=(8.0, 6.0, 5.0))
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[2, 3, 4] = 1
    export(host, labels, volume, run_of(path, volume, names), tmp_path / "out")
    masks = Masks(tmp_path / "out")
    with mrcfile.open(masks.mrc) as mrc:
        assert mrc.voxel_size.tolist() == pytest.approx((5.0, 6.0, 8.0))
        assert (mrc.header.nxstart, mrc.header.nystart) == (4, -2)
    expected = volume.grid.position((2, 3, 4))[::-1]
    same_place(masks.by_gemmi(1), expected)
    same_place(masks.by_nibabel(1), expected)
    same_place(masks.by_simpleitk(1, masks.nrrd), expected)


def test_angstrom_as_mm_moves_nothing_but_the_unit(
    write_mrc: Callable[..., Path],
    open_volume: Callable[..., Volume],
    run_of: Callable[..., RunInfo],
    host: PluginHost,
    tmp_path: Path,
) -> None:
    from cryomamba_backends.formats.nifti import plugin as nifti_plugin
    from cryomamba_backends.formats.nrrd import plugin as nrrd_plugin
    from cryomamba_core.settings import Settings

    asked = PluginHost(Settings(data_dir=tmp_path, nifti_angstrom_as_mm=True))
    asked.register(nifti_plugin, name="nifti")
    asked.register(nrrd_plugin, name="nrrd")
    path = write_mrc(nxstart=3)
    volume = open_volume(path)
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[2, 3, 4] = 1
    for exporter in asked.exporters:
        (note,) = exporter.write(labels, volume.grid, run_of(path, volume), tmp_path / exporter.artifact)
        assert "1 Å = 1 mm, as was asked for" in note
    masks = Masks(tmp_path, angstrom=1.0)
    expected = volume.grid.position((2, 3, 4))[::-1]
    for found in (
        masks.by_nibabel(1),
        masks.by_pynrrd(1),
        masks.by_simpleitk(1, masks.nifti),
        masks.by_simpleitk(1, masks.nrrd),
    ):
        same_place(found, expected)


def test_a_mask_on_another_grid_than_the_header_s_is_placed_by_the_grid(
    host: PluginHost,
    write_mrc: Callable[..., Path],
    open_volume: Callable[..., Volume],
    run_of: Callable[..., RunInfo],
    tmp_path: Path,
) -> None:
    path = write_mrc(nxstart=3, nystart=4, nzstart=5)
    volume = open_volume(path)
    grid = evolve(volume.grid, origin=(0.0, 10.0, 20.0))
    out = tmp_path / "mask.mrc"
    host.exporters.get("mrc").write(np.zeros(grid.shape, np.uint8), grid, run_of(path, volume), out)
    with mrcfile.open(out) as mrc:
        assert mrc.header.origin.tolist() == (20.0, 10.0, 0.0)
        assert mrc.header.nxstart == 0


def test_masks_of_a_nifti_source_have_its_matrix(
    host: PluginHost, open_volume: Callable[..., Volume], run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    affine = np.array([[0, -2e-6, 0, 5e-5], [1.5e-6, 0, 0, -1e-4], [0, 0, 3e-6, 2e-5], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), affine)
    image.header.set_xyzt_units("mm")
    path = tmp_path / "source.nii"
    nibabel.save(image, path)
    volume = open_volume(path)
    assert volume.grid.voxel_size == pytest.approx((30.0, 15.0, 20.0))
    assert volume.grid.stored_axes == (0, 2, 1)
    np.testing.assert_array_equal(
        volume.read(volume.grid.whole),
        np.asarray(image.dataobj).transpose(2, 0, 1),  # k → z, i → y, j → x
    )
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[4, 1, 3] = 1
    export(host, labels, volume, run_of(path, volume), tmp_path / "out")
    mask = nibabel.load(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, affine, rtol=1e-6, atol=1e-12)
    assert np.asarray(mask.dataobj)[1, 3, 4] == 1
    masks = Masks(tmp_path / "out")
    where = nibabel.affines.apply_affine(affine, (1, 3, 4)) * ANGSTROM_PER_MM
    same_place(masks.by_nibabel(1), where)
    same_place(masks.by_simpleitk(1, masks.nifti), where)
    same_place(masks.by_simpleitk(1, masks.nrrd), where)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_masks_of_a_source_that_itk_wrote_lie_on_it_in_itk(
    suffix: str, host: PluginHost, open_volume: Callable[..., Volume], run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    image = SimpleITK.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6))
    image.SetSpacing((10.0, 11.0, 12.0))  # Å written as mm
    image.SetOrigin((-100.0, 50.0, 7.0))
    path = tmp_path / f"source{suffix}"
    SimpleITK.WriteImage(image, str(path))
    volume = open_volume(path)
    assert volume.grid.origin == pytest.approx((7.0, 50.0, -100.0))
    assert volume.grid.voxel_size == pytest.approx((12.0, 11.0, 10.0))
    np.testing.assert_array_equal(volume.read(volume.grid.whole), SimpleITK.GetArrayFromImage(image))
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[3, 1, 2] = 1
    export(host, labels, volume, run_of(path, volume), tmp_path / "out")
    for name in ("mask.nii.gz", "mask.nrrd"):
        mask = SimpleITK.ReadImage(str(tmp_path / "out" / name))
        assert SimpleITK.GetArrayFromImage(mask)[3, 1, 2] == 1
        assert mask.GetSpacing() == pytest.approx(image.GetSpacing())
        assert mask.GetOrigin() == pytest.approx(image.GetOrigin())
        assert mask.GetDirection() == pytest.approx(image.GetDirection())

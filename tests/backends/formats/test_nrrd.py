"""NRRD as pynrrd and SimpleITK write and read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryomamba_backends.formats.nrrd.reader import NrrdReader
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.plugins import PluginHost
from cryomamba_core.testing.exporters import example_run
from cryomamba_core.volumes import Volume

VOXELS = (np.arange(4 * 5 * 6).reshape(4, 5, 6) % 97).astype(np.int16)  # fastest axis first

Open = Callable[..., Volume]


def save(path: Path, voxels: Any = VOXELS, **fields: Any) -> Path:
    header = {"encoding": "raw", "space": "right-anterior-superior", **fields}
    nrrd.write(str(path), voxels, {name.replace("_", " "): value for name, value in header.items()})
    return path


def directions(scale: float) -> dict[str, Any]:
    return {
        "space_directions": np.diag([10.52, 11, 12]) * scale,
        "space_origin": np.array([-100, 20.5, 3]) * scale,
    }


def codes(volume: Volume) -> list[str]:
    return [warning.code for warning in volume.warnings]


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [
        ("mm", 1e-7, []),
        ("um", 1e-4, []),
        ("nm", 0.1, []),
        ("angstrom", 1.0, []),
        ("mm", 1.0, ["header/angstrom-as-mm"]),
        ("parsec", 1.0, ["header/no-length-unit"]),
    ],
)
def test_lengths_become_angstrom(
    unit: str, scale: float, expected: list[str], open_volume: Open, tmp_path: Path
) -> None:
    volume = open_volume(save(tmp_path / "a.nrrd", **directions(scale), space_units=[unit] * 3))
    assert volume.grid.voxel_size == pytest.approx((12, 11, 10.52))
    assert volume.grid.origin == pytest.approx((3, 20.5, -100))
    assert codes(volume) == expected


def test_a_file_without_a_unit_is_taken_as_angstrom(open_volume: Open, tmp_path: Path) -> None:
    volume = open_volume(save(tmp_path / "a.nrrd", **directions(1.0)))
    assert volume.grid.voxel_size == pytest.approx((12, 11, 10.52))
    assert codes(volume) == ["header/no-length-unit"]


def test_spacings_and_axis_minima_place_a_file_without_a_space(open_volume: Open, tmp_path: Path) -> None:
    header = {
        "encoding": "raw",
        "spacings": [10.0, 11.0, 12.0],
        "axis mins": [1.0, 2.0, 3.0],
        "centerings": ["cell", "node", "cell"],
        "units": ["angstrom"] * 3,
    }
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, header)
    volume = open_volume(tmp_path / "a.nrrd")
    assert volume.grid.voxel_size == (12, 11, 10)
    assert volume.grid.origin == (9, 2, 6)


@pytest.mark.parametrize("minima", ["", "axis mins: 1 2 3\n", "axismins: 1 2 3\n", "axis mins: nan 2 3\n"])
@pytest.mark.parametrize(
    "centers", ["", "centers: cell Cell cell\n", "centerings: cell node ???\n", "centers: node node node\n"]
)
def test_voxel_0_of_a_file_without_a_space_is_where_simpleitk_has_it(
    centers: str, minima: str, open_volume: Open, tmp_path: Path
) -> None:
    head = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\nspacings: 10 11 12\n"
    path = tmp_path / "a.nrrd"
    path.write_bytes(f"{head}{minima}{centers}\n".encode() + bytes(range(24)))
    assert open_volume(path).grid.origin[::-1] == SimpleITK.ReadImage(str(path)).GetOrigin()


def test_a_file_without_any_spacing_is_read_with_a_given_voxel_size(open_volume: Open, tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, {"encoding": "raw"})
    with pytest.raises(CryoMambaError) as caught:
        open_volume(tmp_path / "a.nrrd")
    assert caught.value.code == "input/voxel-size"
    assert open_volume(tmp_path / "a.nrrd", voxel_size=(3, 2, 1)).grid.voxel_size == (3, 2, 1)


@pytest.mark.parametrize("space", ["left-posterior-superior", "LPS", "right-anterior-superior", "RAS", "scanner-xyz"])
def test_numbers_are_kept_whatever_the_space(space: str, open_volume: Open, tmp_path: Path) -> None:
    volume = open_volume(save(tmp_path / "a.nrrd", space=space, **directions(1.0), space_units=["angstrom"] * 3))
    assert volume.grid.origin == pytest.approx((3, 20.5, -100))
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)


def test_permuted_axes_are_brought_into_order(open_volume: Open, tmp_path: Path) -> None:
    steps = np.array([[0, 0, 12.0], [10.0, 0, 0], [0, 11.0, 0]])  # array axes lead along z, x, y
    path = save(tmp_path / "a.nrrd", space_directions=steps, space_origin=np.zeros(3), space_units=["angstrom"] * 3)
    volume = open_volume(path)
    assert volume.grid.voxel_size == (12, 11, 10)
    assert volume.grid.stored_axes == (1, 2, 0)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.transpose(0, 2, 1))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "<u4", ">i4", "<f4", ">f4", "<f8", ">f8", "<i8", "<u8"])
def test_every_type_and_encoding_is_read(dtype: str, encoding: str, open_volume: Open, tmp_path: Path) -> None:
    fields = {"encoding": encoding, "endian": "big" if dtype[0] == ">" else "little"}
    path = save(tmp_path / "a.nrrd", VOXELS.astype(dtype), **directions(1e-7), space_units=["mm"] * 3, **fields)
    volume = open_volume(path)
    assert volume.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(volume.read(volume.grid.whole), nrrd.read(str(path))[0].T)


@pytest.mark.parametrize("field", ["byte skip", "byteskip"])
@pytest.mark.parametrize("skip", [-1, 7])
def test_bytes_before_the_voxels_are_skipped(skip: int, field: str, open_volume: Open, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", **directions(1e-7), space_units=["mm"] * 3)
    head, data = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head + f"\n{field}: {skip}\n\n".encode() + b"1234567" + data)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), nrrd.read(str(path))[0].T)


def test_lines_may_end_as_on_windows(open_volume: Open, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", **directions(1e-7), space_units=["mm"] * 3)
    head, data = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + data)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(volume.grid.whole), VOXELS.T)


def test_key_value_pairs_are_no_fields(open_volume: Open, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", **directions(1e-7), space_units=["mm"] * 3, made_by="type: nothing")
    assert open_volume(path).warnings == ()


def test_segments_of_a_mask_have_names_and_colours(host: PluginHost, tmp_path: Path) -> None:
    grid = VoxelGrid(shape=(3, 4, 5), voxel_size=(13.5, 10.5, 9.25), origin=(3.0, 2.0, 1.0))
    path = tmp_path / "mask.nrrd"
    host.exporters.get("nrrd").write(np.zeros(grid.shape, np.uint8), grid, example_run(), path)
    header = nrrd.read_header(str(path))
    assert header["Segment0_Name"] == "membrane"
    assert header["Segment1_LabelValue"] == "2"
    assert header["Segment1_Extent"] == "0 4 0 3 0 2"
    assert header["space"] == "right-anterior-superior"
    assert header["space units"] == ["mm", "mm", "mm"]
    image = SimpleITK.ReadImage(str(path))
    assert image.GetMetaData("Segment0_Name") == "membrane"
    red, green, blue = (float(part) for part in image.GetMetaData("Segment0_Color").split())
    assert (red, green, blue) == pytest.approx((0x56 / 255, 0xB4 / 255, 0xE9 / 255), abs=1e-5)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_to_a_header_gives_a_volume_or_an_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    good = tmp_path / "good.nrrd"
    if not good.exists():
        save(good, **directions(1e-7), space_units=["mm"] * 3)
    lines = good.read_bytes().split(b"\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 11))
        name, colon, value = lines[at].partition(b": ")
        words = st.sampled_from([b"", b"0", b"-1", b"nan", b"inf", b"1e999", b"()", b"(1,2)", b"none", b"\xff", b":="])
        change = data.draw(words | st.binary(max_size=12).map(lambda text: text.replace(b"\n", b"")))
        kept = data.draw(st.sampled_from([b"", value, value[: len(value) // 2]]))
        lines[at] = name + colon + kept + change
    content = b"\n".join(lines)
    path = tmp_path / "fuzzed.nrrd"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    reader = NrrdReader()
    try:
        reader.validate(content[:4096], path.stat().st_size)
        with reader.open(path) as volume:
            assert volume.read(volume.grid.whole).shape == volume.grid.shape
    except CryoMambaError as error:
        assert error.code.startswith("input/")  # noqa: PT017  # which one differs

"""What MRC files look like in the wild, and what is said of it."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryomamba_backends.formats.mrc.reader import MrcReader
from cryomamba_core.artifacts import RunInfo
from cryomamba_core.errors import CryoMambaError, PluginFault
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import Volume
from cryomamba_core.wire import dump_json

Write = Callable[..., Path]
Open = Callable[..., Volume]


def codes(volume: Volume) -> list[str]:
    return [warning.code for warning in volume.warnings]


def patch(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def test_a_good_file_gives_no_warning(write_mrc: Write, open_volume: Open) -> None:
    assert open_volume(write_mrc()).warnings == ()


def test_a_voxel_size_of_exactly_one_is_doubted_until_it_is_given(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc(voxel_size_xyz=(1, 1, 1))
    (warning,) = open_volume(path).warnings
    assert warning.code == "header/voxel-size-one"
    assert "--voxel-size" in warning.hint
    assert open_volume(path, voxel_size=(10, 10, 10)).warnings == ()


@pytest.mark.parametrize("size", [0.01, 5000.0])
def test_a_voxel_size_of_no_tomogram_is_doubted(size: float, write_mrc: Write, open_volume: Open) -> None:
    assert codes(open_volume(write_mrc(voxel_size_xyz=(size,) * 3))) == ["header/voxel-size-implausible"]


def test_a_voxel_size_of_zero_is_replaced_by_the_given_one(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc(cella=(0, 0, 0), mx=0, my=0, mz=0, nxstart=2)
    volume = open_volume(path, voxel_size=(10, 11, 12))
    assert volume.grid.voxel_size == (10, 11, 12)
    assert volume.grid.origin == (0, 0, 24)


@pytest.mark.parametrize("length", [np.nan, np.inf, -np.inf])
def test_a_cell_of_no_length_is_replaced_by_the_given_voxel_size(
    length: float, host: PluginHost, write_mrc: Write, open_volume: Open, run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    path = write_mrc(cella=(length, 70, length))
    volume = open_volume(path, voxel_size=(10, 11, 12))
    run = run_of(path, volume)
    assert json.loads(dump_json(run))["source"]["metadata"]["mrc"]["cell"] == [0, 70, 0]
    out = tmp_path / "mask.mrc"
    host.exporters.get("mrc").write(np.ones(volume.grid.shape, np.uint8), volume.grid, run, out)
    assert mrcfile.open(out).voxel_size.tolist() == (12, 11, 10)


@pytest.mark.parametrize("size", [(0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_a_given_voxel_size_must_be_a_length(size: Any, write_mrc: Write, open_volume: Open) -> None:
    with pytest.raises(CryoMambaError) as caught:
        open_volume(write_mrc(), voxel_size=size)
    assert caught.value.code == "input/voxel-size"


def test_bytes_after_the_voxels_are_ignored_and_said(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc()
    path.write_bytes(path.read_bytes() + b"junk")
    volume = open_volume(path)
    assert codes(volume) == ["header/trailing-bytes"]
    assert "4 bytes" in volume.warnings[0].message
    assert volume.read(volume.grid.whole)[4, 6, 10] == 384 % 120


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\xff\xff\0\0"])
def test_a_wrong_machine_stamp_is_seen_through(
    stamp: bytes, big_endian: bool, write_mrc: Write, open_volume: Open
) -> None:
    path = write_mrc(as_mode=1, big_endian=big_endian)
    patch(path, 212, stamp)
    volume = open_volume(path)
    assert codes(volume) == ["header/machine-stamp"]
    np.testing.assert_array_equal(volume.read(volume.grid.whole).ravel(), np.arange(385) % 120)


def test_a_machine_stamp_of_the_other_byte_order_is_seen_through(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc(as_mode=1, big_endian=True)
    patch(path, 212, b"DD\0\0")
    volume = open_volume(path)
    assert codes(volume) == ["header/machine-stamp"]
    np.testing.assert_array_equal(volume.read(volume.grid.whole).ravel(), np.arange(385) % 120)


def test_a_file_from_before_the_word_map_is_read(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc()
    patch(path, 208, b"\0\0\0\0")
    assert codes(open_volume(path)) == ["header/no-map-stamp"]


def test_a_tomogram_with_space_group_0_is_a_volume(write_mrc: Write, open_volume: Open) -> None:
    assert open_volume(write_mrc(ispg=0)).warnings == ()


def test_the_hint_for_an_image_stack_makes_it_a_volume(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc(ispg=0, mz=1)
    with pytest.raises(CryoMambaError) as caught:
        open_volume(path)
    command = caught.value.hint.partition('python -c "')[2].rstrip('"').replace("FILE", str(path))
    exec(compile(command, "hint", "exec"))
    assert open_volume(path).grid.shape == (5, 7, 11)


def test_bytes_that_imod_marked_as_unsigned_are_read_so(write_mrc: Write, open_volume: Open) -> None:
    path = write_mrc(as_mode=0)
    patch(path, 1024, bytes([200]))
    patch(path, 152, (1146047817).to_bytes(4, "little") + (0).to_bytes(4, "little"))
    volume = open_volume(path)
    assert codes(volume) == ["header/unsigned-bytes"]
    assert volume.dtype == np.uint8
    assert volume.read(volume.grid.whole)[0, 0, 0] == 200
    patch(path, 156, (1).to_bytes(4, "little"))
    assert open_volume(path).dtype == np.int8


def test_bytes_whose_range_is_that_of_unsigned_ones_are_read_as_mrc_says_but_doubted(
    write_mrc: Write, open_volume: Open
) -> None:
    volume = open_volume(write_mrc(as_mode=0, dmin=0, dmax=255))
    assert codes(volume) == ["header/bytes-sign"]
    assert volume.dtype == np.int8


@pytest.mark.parametrize("flags", [0, 1, 4, 5])
def test_the_mask_of_an_imod_file_has_the_sign_of_its_origin(
    flags: int, host: PluginHost, write_mrc: Write, open_volume: Open, run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    path = write_mrc(origin=(-40, 50, -60))
    patch(path, 152, (1146047817).to_bytes(4, "little") + flags.to_bytes(4, "little"))
    volume = open_volume(path)
    out = tmp_path / "mask.mrc"
    host.exporters.get("mrc").write(np.ones(volume.grid.shape, np.uint8), volume.grid, run_of(path, volume), out)
    mask = out.read_bytes()
    assert mask[152:156] == b"IMOD"
    assert int.from_bytes(mask[156:160], "little") == (flags & 4) | 1
    assert mask[196:208] == path.read_bytes()[196:208]


@pytest.mark.parametrize(("highest", "mode"), [(1, 0), (127, 0), (128, 6), (255, 6), (256, 6), (65535, 6)])
def test_the_mask_s_mode_follows_the_highest_label_and_its_statistics_are_right(
    highest: int,
    mode: int,
    host: PluginHost,
    write_mrc: Write,
    open_volume: Open,
    run_of: Callable[..., RunInfo],
    tmp_path: Path,
) -> None:
    path = write_mrc()
    volume = open_volume(path)
    labels = np.zeros(volume.grid.shape, np.uint8 if highest < 256 else np.uint16)
    labels[1:3, 2:4, 3:7] = highest
    out = tmp_path / "mask.mrc"
    run = run_of(path, volume, {1: "one", highest: "last"})
    host.exporters.get("mrc").write(labels, volume.grid, run, out)
    assert mrcfile.validate(out)
    with mrcfile.open(out) as mrc:
        assert mrc.header.mode == mode
        assert (mrc.header.dmin, mrc.header.dmax) == (0, highest)
        assert mrc.header.dmean == pytest.approx(labels.mean())
        assert mrc.header.rms == pytest.approx(labels.std())
        assert mrc.get_labels()[0].strip() == "CryoMamba mask of tomogram.mrc"
        np.testing.assert_array_equal(mrc.data, labels)


@pytest.mark.parametrize("value", [0, 2])
def test_a_mask_of_one_value_is_valid(
    value: int, host: PluginHost, write_mrc: Write, open_volume: Open, run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    path = write_mrc()
    volume = open_volume(path)
    out = tmp_path / "mask.mrc"
    host.exporters.get("mrc").write(np.full(volume.grid.shape, value, np.uint8), volume.grid, run_of(path, volume), out)
    assert mrcfile.validate(out)


def test_a_label_that_the_model_does_not_have_is_the_runner_s_fault(
    host: PluginHost, write_mrc: Write, open_volume: Open, run_of: Callable[..., RunInfo], tmp_path: Path
) -> None:
    path = write_mrc()
    volume = open_volume(path)
    labels = np.full(volume.grid.shape, 200, np.uint8)
    with pytest.raises(PluginFault, match="the labels reach 200"):
        host.exporters.get("mrc").write(labels, volume.grid, run_of(path, volume), tmp_path / "mask.mrc")


def test_rows_longer_than_a_chunk_are_read_in_pieces(
    write_mrc: Write, open_volume: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryomamba_backends.formats import stored
    from cryomamba_core.geometry import Region

    stored_voxels = np.arange(6 * 30 * 40).reshape(6, 30, 40) % 997
    volume = open_volume(write_mrc(stored=stored_voxels, as_mode=1))
    for chunk, short_row in itertools.product((8, 100, 1000, 2400, 5000), (0, 1000)):
        monkeypatch.setattr(stored, "CHUNK", chunk)
        monkeypatch.setattr(stored, "SHORT_ROW", short_row)
        for region in (
            volume.grid.whole,
            Region(start=(1, 3, 4), stop=(5, 29, 39)),
            Region(start=(0, 0, 17), stop=(6, 30, 19)),
            Region(start=(2, 0, 0), stop=(5, 30, 40)),
        ):
            np.testing.assert_array_equal(volume.read(region), stored_voxels[region.slices])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_to_a_header_gives_a_volume_or_an_error_of_ours(
    data: st.DataObject, write_mrc: Write, tmp_path: Path
) -> None:
    good = tmp_path / "good.mrc"
    content = bytearray((good if good.exists() else write_mrc("good.mrc")).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        word = data.draw(st.integers(0, 60))
        content[4 * word : 4 * word + 4] = data.draw(
            st.binary(min_size=4, max_size=4)
            | st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]).map(lambda n: n.to_bytes(4, "little", signed=True))
            | st.sampled_from([np.nan, np.inf, -np.inf, 1e38, 1e-45]).map(lambda x: np.float32(x).tobytes())
        )
    path = tmp_path / "fuzzed.mrc"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    reader = MrcReader()
    try:
        reader.validate(bytes(content[:4096]), path.stat().st_size)
        with reader.open(path) as volume:
            assert volume.read(volume.grid.whole).shape == volume.grid.shape
            assert np.isfinite(volume.grid.affine()).all()
    except CryoMambaError as error:
        assert error.code.startswith("input/")  # noqa: PT017  # which error it is differs from example to example

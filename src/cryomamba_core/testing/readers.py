"""The conformance suite for `VolumeReader`: what every part of CryoMamba takes for granted of a reader."""

from __future__ import annotations

import gc
import json
import os
import tracemalloc
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from cryomamba_core.errors import CorruptFile, InputError, MissingFile, TruncatedFile
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.interfaces import VolumeReader
from cryomamba_core.interfaces.readers import FIRST_BYTES
from cryomamba_core.volumes import HeaderWarning

GRID = VoxelGrid(shape=(5, 7, 11), voxel_size=(13.5, 10.5, 9.25), origin=(40.0, -21.0, 8.5))

REGIONS = (
    Region(start=(0, 0, 0), stop=(5, 7, 11)),
    Region(start=(2, 0, 0), stop=(3, 7, 11)),
    Region(start=(1, 2, 3), stop=(4, 6, 10)),
    Region(start=(4, 6, 10), stop=(5, 7, 11)),
    Region(start=(0, 3, 5), stop=(5, 4, 6)),
    Region(start=(2, 2, 2), stop=(2, 5, 5)),
)

#: Bytes that a read of a small region may take besides the region.
ALLOWANCE = 12 << 20


class ReaderConformance:
    """Subclass it, say how to make a reader and a file, and run it with pytest.

    ::

        class TestMyReader(ReaderConformance):
            suffix = ".my"

            def make_reader(self):
                return MyReader()

            def write_file(self, path, voxels, grid):
                my_library.write(path, voxels, spacing=grid.voxel_size[::-1], offset=grid.origin[::-1])

    `write_file` should use somebody else's library for the format, so that reader and suite do not
    share a misunderstanding.
    """

    #: Ending of the files that `write_file` makes.
    suffix: ClassVar[str]
    #: Type of the voxels that are handed to `write_file`.
    dtype: ClassVar[Any] = np.int16
    #: Whether the size of a file follows from its header, so that `validate` sees that bytes are missing.
    size_is_known: ClassVar[bool] = True
    #: How far positions may be off, as a part of their value.
    precision: ClassVar[float] = 1e-6

    @abstractmethod
    def make_reader(self) -> VolumeReader:
        """A new reader."""

    @abstractmethod
    def write_file(self, path: Path, voxels: NDArray[Any], grid: VoxelGrid) -> None:
        """Write ZYX `voxels` that lie on `grid` to `path`."""

    @pytest.fixture
    def reader(self) -> VolumeReader:
        """The reader under test."""
        return self.make_reader()

    @pytest.fixture
    def voxels(self) -> NDArray[Any]:
        """What is in the file, ZYX."""
        count = GRID.voxels
        return (np.arange(count).reshape(GRID.shape) * 5 % 127).astype(self.dtype)

    @pytest.fixture
    def file(self, tmp_path: Path, voxels: NDArray[Any]) -> Path:
        """A small good file."""
        path = tmp_path / f"tomogram{self.suffix}"
        self.write_file(path, voxels, GRID)
        return path

    def test_a_reader_has_a_name_and_suffixes(self, reader: VolumeReader) -> None:
        assert isinstance(reader, VolumeReader)
        assert reader.name
        assert reader.suffixes
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in reader.suffixes)
        assert self.suffix in reader.suffixes

    def test_its_own_file_is_recognised_and_valid(self, reader: VolumeReader, file: Path) -> None:
        first_bytes = file.read_bytes()[:FIRST_BYTES]
        assert reader.can_read(file, first_bytes) is True
        reader.validate(first_bytes, file.stat().st_size)

    def test_can_read_answers_for_any_bytes_and_any_name(self, reader: VolumeReader) -> None:
        for name in ("a", "tomogram", "ä ö.txt", ".hidden"):
            for junk in (b"", b"\0", b"\xff" * 4000, bytes(range(256)) * 16, b"\x1f\x8b\x08"):
                assert reader.can_read(Path(name), junk) is False
                assert reader.can_read(Path(name + self.suffix), junk) in (True, False)

    def test_can_read_and_validate_do_not_touch_the_disk(
        self, reader: VolumeReader, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first_bytes, size = file.read_bytes()[:FIRST_BYTES], file.stat().st_size
        reader.can_read(file, first_bytes)  # whatever is imported at the first call is imported now
        reader.validate(first_bytes, size)

        def refuse(*_: object, **__: object) -> NoReturn:
            raise AssertionError("the disk was touched")

        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", refuse)
            patch.setattr("io.open", refuse)
            patch.setattr(os, "open", refuse)
            patch.setattr(os, "stat", refuse)
            assert reader.can_read(Path("/nowhere") / file.name, first_bytes)
            reader.validate(first_bytes, size)

    @pytest.mark.parametrize("junk", [b"", b"\0" * 2000, b"\xff" * 5000, b"not a tomogram\n" * 300])
    def test_validate_refuses_what_is_not_of_the_format(self, reader: VolumeReader, junk: bytes) -> None:
        with pytest.raises(InputError) as caught:
            reader.validate(junk[:FIRST_BYTES], len(junk))
        assert caught.value.message
        assert caught.value.hint

    def test_validate_refuses_a_file_that_is_cut_within_its_header(self, reader: VolumeReader, file: Path) -> None:
        start = file.read_bytes()[:20]
        with pytest.raises((TruncatedFile, CorruptFile)):
            reader.validate(start, len(start))

    def test_validate_sees_missing_bytes_from_the_size_alone(self, reader: VolumeReader, file: Path) -> None:
        if not self.size_is_known:
            pytest.skip("how large such a file is cannot be told from its header")
        whole = file.read_bytes()
        with pytest.raises(TruncatedFile) as caught:
            reader.validate(whole[:FIRST_BYTES], len(whole) - 1)
        assert caught.value.hint

    def test_no_voxel_of_a_truncated_file_is_returned(self, reader: VolumeReader, file: Path) -> None:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) - 9])
        with pytest.raises((TruncatedFile, CorruptFile)), reader.open(file) as volume:
            volume.read(volume.grid.whole)

    def test_grid_and_type_are_those_of_the_file(self, reader: VolumeReader, file: Path) -> None:
        with reader.open(file) as volume:
            assert volume.grid.shape == GRID.shape
            assert volume.grid.voxel_size == pytest.approx(GRID.voxel_size, rel=self.precision)
            assert volume.grid.origin == pytest.approx(GRID.origin, rel=self.precision)
            assert volume.dtype == np.dtype(self.dtype)

    def test_a_given_voxel_size_replaces_the_header_s(self, reader: VolumeReader, file: Path) -> None:
        with reader.open(file, voxel_size=(8.0, 7.0, 6.0)) as volume:
            assert volume.grid.voxel_size == (8.0, 7.0, 6.0)
            assert volume.grid.shape == GRID.shape

    @pytest.mark.parametrize("region", REGIONS)
    def test_any_region_is_what_the_whole_holds_there(
        self, reader: VolumeReader, file: Path, voxels: NDArray[Any], region: Region
    ) -> None:
        with reader.open(file) as volume:
            np.testing.assert_array_equal(volume.read(region), voxels[region.slices])

    @pytest.mark.parametrize("region", REGIONS)
    def test_arrays_are_native_contiguous_and_the_caller_s_own(
        self, reader: VolumeReader, file: Path, region: Region
    ) -> None:
        with reader.open(file) as volume:
            first = volume.read(region)
            assert first.shape == region.shape
            assert first.dtype == volume.dtype
            assert first.dtype.isnative
            assert first.flags.c_contiguous
            assert first.flags.writeable
            kept = first.copy()
            first[...] = 0
            np.testing.assert_array_equal(volume.read(region), kept)

    def test_channels_are_on_one_grid_and_the_first_is_the_volume(self, reader: VolumeReader, file: Path) -> None:
        with reader.open(file) as volume:
            whole = volume.grid.whole
            np.testing.assert_array_equal(volume.channels[0].read(whole), volume.read(whole))
            for channel in volume.channels:
                assert channel.grid == volume.grid
                assert channel.read(whole).dtype == channel.dtype

    def test_a_region_outside_the_grid_is_refused(self, reader: VolumeReader, file: Path) -> None:
        with reader.open(file) as volume, pytest.raises(ValueError, match=r"."):
            volume.read(Region(start=(0, 0, 0), stop=(6, 7, 11)))

    def test_metadata_is_json_under_one_key_and_warnings_are_header_warnings(
        self, reader: VolumeReader, file: Path
    ) -> None:
        with reader.open(file) as volume:
            assert len(volume.metadata) <= 1
            assert json.loads(json.dumps(volume.metadata, allow_nan=False)) == volume.metadata
            assert all(isinstance(warning, HeaderWarning) for warning in volume.warnings)

    def test_a_volume_may_be_closed_twice(self, reader: VolumeReader, file: Path) -> None:
        volume = reader.open(file)
        volume.close()
        volume.close()

    def test_files_are_not_left_open(self, reader: VolumeReader, file: Path) -> None:
        folder = Path("/dev/fd")
        if not folder.is_dir():
            pytest.skip("open files are not listed here")
        reader.open(file).close()
        before = len(os.listdir(folder))  # noqa: PTH208  # iterdir's own descriptor would be counted at another time
        with reader.open(file) as volume:
            volume.read(volume.grid.whole)
        broken = file.with_name(f"broken{self.suffix}")
        broken.write_bytes(file.read_bytes()[:20])
        with pytest.raises(InputError):
            reader.open(broken)
        gc.collect()
        assert len(os.listdir(folder)) == before  # noqa: PTH208  # as above

    def test_what_is_not_a_file_is_refused_without_waiting(self, reader: VolumeReader, tmp_path: Path) -> None:
        pipe = tmp_path / f"pipe{self.suffix}"
        os.mkfifo(pipe)
        for path in (pipe, tmp_path, tmp_path / f"none{self.suffix}"):
            with pytest.raises(MissingFile) as caught:
                reader.open(path)
            assert caught.value.hint

    def test_a_small_region_of_a_large_file_needs_little_memory(self, reader: VolumeReader, tmp_path: Path) -> None:
        grid = VoxelGrid(shape=(64, 512, 256), voxel_size=GRID.voxel_size)
        path = tmp_path / f"large{self.suffix}"
        pattern = np.random.default_rng(5).integers(0, 100, (512, 256)).astype(self.dtype)
        self.write_file(path, np.broadcast_to(pattern, grid.shape).copy(), grid)
        tracemalloc.start()
        try:
            with reader.open(path) as volume:
                volume.read(Region(start=(50, 10, 10), stop=(51, 90, 90)))
                volume.read(Region(start=(0, 300, 0), stop=(64, 301, 4)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < ALLOWANCE

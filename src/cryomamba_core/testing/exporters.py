"""The conformance suite for `Exporter`: what the worker takes for granted of one."""

from __future__ import annotations

import hashlib
import tracemalloc
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from attrs import evolve
from numpy.typing import NDArray

from cryomamba_core.artifacts import RunInfo, SourceFile
from cryomamba_core.channels import Channel
from cryomamba_core.companions import BinnedArray, Companion
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray, LabelFile
from cryomamba_core.labels import name_labels
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.models import ModelInfo
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.volumes import MOST_CHANNELS, IntensityStatistics

GRID = VoxelGrid(shape=(6, 9, 13), voxel_size=(13.5, 10.5, 9.25), origin=(40.0, -21.0, 8.5))

#: Bytes that writing may take, whatever the size of the volume.
ALLOWANCE = 24 << 20


def example_run(
    *, names: dict[int, str] | None = None, source: SourceFile | None = None, grid: VoxelGrid = GRID
) -> RunInfo:
    """A run to be told of, with made-up statistics.

    Parameters
    ----------
    names
        Value → name of the labels; two if not given.
    source
        The tomogram; a file of an unknown format if not given.
    grid
        Its grid.
    """
    model = ModelInfo(
        name="example", runner="example", labels=name_labels(names or {1: "membrane", 2: "ribosome"}), digest="ab" * 32
    )
    statistics = (
        LabelStatistics(
            value=label.value,
            name=label.name,
            voxels=index,
            volume_nm3=index * grid.voxel_volume / 1000,
            surface_area_nm2=float(index),
            components=index,
            bounding_box=Region.of_shape(grid.shape) if index else None,
            centroid=grid.origin if index else None,
        )
        for index, label in enumerate(model.labels)
    )
    return RunInfo(
        job_id="019a0000-0000-7000-8000-000000000000",
        label="tomogram",
        source=source or SourceFile(name="tomogram.xyz", size=1, sha256="00" * 32, format="xyz", dtype="int8"),
        intensity=IntensityStatistics(minimum=-1.0, maximum=2.0, mean=0.5, standard_deviation=0.25),
        model=model,
        params={"threshold": 0.5},
        statistics=tuple(statistics),
    )


def example_voxels(dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """CZYX voxels on `GRID`, the extremes of their type among them."""
    shape = (channels, *GRID.shape)
    generator = np.random.default_rng(7)
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    voxels = generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    voxels[-1, 0, 0, :2] = limits.min, limits.max
    return voxels


class _Described(ArrayVolume):
    """A volume in memory with a header."""

    def __init__(self, array: NDArray[Any], grid: VoxelGrid, metadata: Mapping[str, Any]) -> None:
        super().__init__(array, grid=grid)
        self._metadata = metadata

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The header."""
        return self._metadata


def _channels(
    voxels: NDArray[Any],
    grid: VoxelGrid = GRID,
    *,
    names: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    on_read: Callable[[int], None] | None = None,
) -> list[Channel]:
    """CZYX voxels as channels."""
    return [
        Channel(
            _Described(channel, grid, metadata or {}),
            name=names[index] if index < len(names) else f"{index}.xyz",
            on_read=on_read,
        )
        for index, channel in enumerate(voxels)
    ]


class ExporterConformance:
    """Subclass it, say how to make an exporter and how to read its file back, and run it with pytest.

    ::

        class TestMyExporter(ExporterConformance):
            def make_exporter(self):
                return MyExporter()

            def read_back(self, path):
                return my_library.read(path)

    One that writes channels overrides `read_channels_back` too.
    """

    #: Whether the file holds the labels; if not, `read_back` is not called.
    holds_labels: ClassVar[bool] = True

    @abstractmethod
    def make_exporter(self) -> Exporter:
        """A new exporter."""

    def read_back(self, path: Path) -> NDArray[Any]:
        """The ZYX labels in a file, by somebody else's library."""
        pytest.fail(f"{type(self).__name__} has to override read_back, or to say holds_labels = False: {path}")

    def read_channels_back(self, path: Path) -> NDArray[Any]:
        """The CZYX voxels in a file of channels, by somebody else's library; for an exporter that writes such files."""
        pytest.fail(f"{type(self).__name__} has to override read_channels_back: {path}")

    @pytest.fixture
    def exporter(self) -> Exporter:
        """The exporter under test."""
        return self.make_exporter()

    @pytest.fixture
    def labels(self) -> NDArray[Any]:
        """ZYX labels 0, 1 and 2 on `GRID`."""
        return np.random.default_rng(3).integers(0, 3, GRID.shape, dtype=np.uint8)

    def test_an_exporter_says_what_it_makes(self, exporter: Exporter) -> None:
        assert isinstance(exporter, Exporter)
        assert exporter.name
        assert exporter.artifact.endswith(exporter.suffix)
        assert exporter.artifact == Path(exporter.artifact).name
        assert exporter.suffix.startswith(".")
        assert exporter.media_type.count("/") == 1

    def test_one_file_is_written_and_notes_are_sentences(
        self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path
    ) -> None:
        notes = exporter.write(labels, GRID, example_run(), tmp_path / exporter.artifact)
        assert [path.name for path in tmp_path.iterdir()] == [exporter.artifact]
        assert isinstance(notes, tuple)
        assert all(isinstance(note, str) and note for note in notes)

    def test_labels_come_back(self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path) -> None:
        self._needs_labels()
        path = tmp_path / exporter.artifact
        exporter.write(labels, GRID, example_run(), path)
        np.testing.assert_array_equal(self.read_back(path), labels)

    @pytest.mark.parametrize("highest", [127, 128, 255, 256, 65535])
    def test_labels_of_every_size_come_back(self, exporter: Exporter, tmp_path: Path, highest: int) -> None:
        self._needs_labels()
        labels = np.zeros(GRID.shape, np.uint8 if highest < 256 else np.uint16)
        labels[1, 2, 3] = highest
        labels[5, 8, 12] = 1
        path = tmp_path / exporter.artifact
        exporter.write(labels, GRID, example_run(names={1: "one", highest: "last"}), path)
        np.testing.assert_array_equal(self.read_back(path), labels)

    @pytest.mark.parametrize("stored_axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1)])
    def test_labels_of_a_source_with_any_axis_order_come_back(
        self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path, stored_axes: tuple[int, int, int]
    ) -> None:
        path = tmp_path / exporter.artifact
        exporter.write(labels, evolve(GRID, stored_axes=stored_axes), example_run(), path)
        if self.holds_labels:
            np.testing.assert_array_equal(self.read_back(path), labels)

    def test_the_same_labels_give_the_same_bytes(
        self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path
    ) -> None:
        paths = (tmp_path / f"a{exporter.suffix}", tmp_path / f"b{exporter.suffix}")
        for path in paths:
            exporter.write(labels, GRID, example_run(), path)
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        assert len(digests) == 1

    def test_labels_may_lie_in_a_file_and_are_not_changed(
        self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path
    ) -> None:
        with _in_file(tmp_path / "labels.raw", labels) as stored:
            before = (tmp_path / "labels.raw").read_bytes()
            path = tmp_path / exporter.artifact
            exporter.write(stored, GRID, example_run(), path)
            assert (tmp_path / "labels.raw").read_bytes() == before
        if self.holds_labels:
            np.testing.assert_array_equal(self.read_back(path), labels)

    def test_metadata_of_an_unknown_format_is_ignored(
        self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path
    ) -> None:
        run = example_run()
        plain, odd = tmp_path / f"a{exporter.suffix}", tmp_path / f"b{exporter.suffix}"
        exporter.write(labels, GRID, run, plain)
        metadata = {"somebody-else": {"anything": [1, None, "x"]}}
        exporter.write(labels, GRID, evolve(run, source=evolve(run.source, metadata=metadata)), odd)
        assert plain.read_bytes() == odd.read_bytes()

    def test_names_in_any_script_are_written(self, exporter: Exporter, labels: NDArray[Any], tmp_path: Path) -> None:
        run = example_run(names={1: "Membran (außen) 膜\nline", 2: 'with "quotes": and \\ and := ' + "long " * 60})
        source = evolve(run.source, name="Tomogramm ö 7.mrc")
        path = tmp_path / exporter.artifact
        exporter.write(labels, GRID, evolve(run, source=source), path)
        if self.holds_labels:
            np.testing.assert_array_equal(self.read_back(path), labels)

    def test_memory_does_not_grow_with_the_volume(self, exporter: Exporter, tmp_path: Path) -> None:
        grid = VoxelGrid(shape=(128, 512, 512), voxel_size=GRID.voxel_size)
        labels = np.zeros((1, 1, 1), np.uint8)
        with _in_file(tmp_path / "labels.raw", np.broadcast_to(labels, grid.shape)) as stored:
            tracemalloc.start()
            try:
                exporter.write(stored, grid, example_run(grid=grid), tmp_path / exporter.artifact)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < ALLOWANCE

    @pytest.mark.parametrize("binning", [1, 3])
    @pytest.mark.parametrize("stored_axes", [(0, 1, 2), (2, 0, 1)])
    def test_a_companion_comes_back(
        self, exporter: Exporter, tmp_path: Path, binning: int, stored_axes: tuple[int, int, int]
    ) -> None:
        if not exporter.writes_companions:
            pytest.skip("the exporter writes no companions")
        companion = Companion(name="doubt", meaning="0 is sure; 255 (außen) is not: =\n" * 9, binning=binning)
        grid = evolve(GRID, stored_axes=stored_axes).coarsen(binning)
        values = np.random.default_rng(5).integers(0, 256, grid.shape, dtype=np.uint8)
        name = exporter.companion_artifact(companion)
        assert name == f"doubt{exporter.suffix}"
        paths = (tmp_path / name, tmp_path / f"again{exporter.suffix}")
        for path in paths:
            notes = exporter.write_companion(values, grid, companion, example_run(), path)
            assert all(isinstance(note, str) and note for note in notes)
        np.testing.assert_array_equal(self.read_back(paths[0]), values)
        assert paths[0].read_bytes() == paths[1].read_bytes()

    def test_memory_does_not_grow_with_a_companion(self, exporter: Exporter, tmp_path: Path) -> None:
        if not exporter.writes_companions:
            pytest.skip("the exporter writes no companions")
        companion = Companion(name="doubt", meaning="", binning=4)
        fine = VoxelGrid(shape=(256, 512, 512), voxel_size=GRID.voxel_size)
        with _in_file(tmp_path / "doubt.raw", np.broadcast_to(np.zeros((1, 1, 1), np.uint8), fine.shape)) as stored:
            values, grid = BinnedArray(stored, companion.binning), fine.coarsen(companion.binning)
            path = tmp_path / exporter.companion_artifact(companion)
            tracemalloc.start()
            try:
                exporter.write_companion(values, grid, companion, example_run(grid=fine), path)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < ALLOWANCE

    def test_an_exporter_of_channels_says_which_files_and_types(self, exporter: Exporter) -> None:
        assert bool(exporter.channel_suffixes) == bool(exporter.channel_types)
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in exporter.channel_suffixes)
        types = [np.dtype(name) for name in exporter.channel_types]
        assert [dtype.itemsize for dtype in types] == sorted(dtype.itemsize for dtype in types)

    def test_channels_of_every_type_come_back(self, exporter: Exporter, tmp_path: Path) -> None:
        self._needs_channels(exporter)
        for name in exporter.channel_types:
            voxels = example_voxels(np.dtype(name), 3)
            for suffix in (*exporter.channel_suffixes, exporter.channel_suffixes[0].upper()):
                path = tmp_path / f"{name}{suffix}"
                notes = exporter.write_channels(_channels(voxels), path)
                assert all(isinstance(note, str) and note for note in notes)
                back = self.read_channels_back(path)
                assert back.dtype.newbyteorder("=") == voxels.dtype
                np.testing.assert_array_equal(back, voxels)

    @pytest.mark.parametrize("stored_axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1)])
    def test_channels_of_sources_with_any_axis_order_come_back(
        self, exporter: Exporter, tmp_path: Path, stored_axes: tuple[int, int, int]
    ) -> None:
        self._needs_channels(exporter)
        voxels = example_voxels(np.dtype(exporter.channel_types[-1]), 2)
        path = tmp_path / f"channels{exporter.channel_suffixes[0]}"
        exporter.write_channels(_channels(voxels, evolve(GRID, stored_axes=stored_axes)), path)
        np.testing.assert_array_equal(self.read_channels_back(path), voxels)

    def test_the_same_channels_give_the_same_bytes_and_are_read_once(self, exporter: Exporter, tmp_path: Path) -> None:
        self._needs_channels(exporter)
        voxels = example_voxels(np.dtype(exporter.channel_types[0]), 2)
        suffix = exporter.channel_suffixes[0]
        read: list[int] = []
        for name in "ab":
            exporter.write_channels(_channels(voxels, on_read=read.append), tmp_path / f"{name}{suffix}")
        assert sum(read) == 2 * voxels.size
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()

    def test_channels_may_have_any_names_and_metadata_of_unknown_formats(
        self, exporter: Exporter, tmp_path: Path
    ) -> None:
        self._needs_channels(exporter)
        voxels = example_voxels(np.dtype(exporter.channel_types[0]), MOST_CHANNELS)
        names = ['Membran (außen) 膜\nline: "=" := \\', "\udcff" + "long " * 99]
        path = tmp_path / f"channels{exporter.channel_suffixes[0]}"
        exporter.write_channels(_channels(voxels, names=names, metadata={"somebody-else": {"x": [1, None]}}), path)
        np.testing.assert_array_equal(self.read_channels_back(path), voxels)

    def test_memory_does_not_grow_with_channels(self, exporter: Exporter, tmp_path: Path) -> None:
        self._needs_channels(exporter)
        grid = VoxelGrid(shape=(64, 512, 512), voxel_size=GRID.voxel_size)
        voxels = np.broadcast_to(np.zeros((1, 1, 1, 1), exporter.channel_types[-1]), (2, *grid.shape))
        channels = _channels(voxels, grid)
        tracemalloc.start()
        try:
            exporter.write_channels(channels, tmp_path / f"channels{exporter.channel_suffixes[0]}")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < ALLOWANCE

    def _needs_channels(self, exporter: Exporter) -> None:
        if not exporter.channel_suffixes:
            pytest.skip("the exporter writes no channels")

    def _needs_labels(self) -> None:
        if not self.holds_labels:
            pytest.skip("the file does not hold the labels")


@contextmanager
def _in_file(path: Path, labels: NDArray[Any]) -> Iterator[LabelArray]:
    z, y, x = labels.shape
    with LabelFile(path, (z, y, x), labels.dtype, create=True) as writing:
        for region in Region.of_shape((z, y, x)).slabs(16):
            writing.write(region, labels[region.slices])
    with LabelFile(path, (z, y, x), labels.dtype) as reading:
        yield reading

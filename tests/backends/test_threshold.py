"""The threshold runner, judged by scikit-image."""

import numpy as np
import pytest
from skimage.data import binary_blobs
from skimage.filters import threshold_otsu

from cryomamba_backends import threshold
from cryomamba_backends.threshold import BINS, ThresholdParams, ThresholdRunner, otsu_split
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.wire import from_plain

SHAPE = (20, 24, 28)


def segment(array, final_rows=0, **params):
    runner, volume = ThresholdRunner(), ArrayVolume(array)
    context = RecordingContext(runner.model(None), volume, final_rows=final_rows)
    labels = np.full(volume.grid.shape, 99, np.uint8)
    for block in runner.segment(volume, ThresholdParams(**params), context):
        labels[block.region.slices] = block.labels
    return labels, context


@pytest.fixture
def blobs():
    truth = binary_blobs(max(SHAPE), blob_size_fraction=0.3, n_dim=3, rng=3)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return truth * 5.0 + np.random.default_rng(4).normal(size=SHAPE)


@pytest.mark.parametrize(
    ("scale", "offset", "dtype"),
    [
        (1, 0, np.float32),
        (10, 60, np.uint8),
        (10, -20, np.int8),
        (1000, 5000, np.int16),
        (1000, 20_000, np.uint16),
        (1, 0, np.float16),
        (1e-3, 1e4, np.float64),
        (1e30, 0, np.float32),
        (1, 1e6, np.float32),
    ],
)
def test_otsu_agrees_with_scikit_image(blobs, scale, offset, dtype, monkeypatch):
    monkeypatch.setattr(threshold, "SLAB_VOXELS", 3 * SHAPE[1] * SHAPE[2])
    array = (blobs * scale + offset).astype(dtype)
    wide = array.astype(np.float64)
    expected, width = threshold_otsu(wide, nbins=BINS), (wide.max() - wide.min()) / BINS
    labels, context = segment(array)
    unsure = np.abs(wide - expected) <= 1.01 * width
    np.testing.assert_array_equal(labels[~unsure], (wide > expected)[~unsure])
    assert len(context.notes) == 1
    assert unsure.mean() < 0.01 or np.issubdtype(dtype, np.integer)


def test_two_grey_values_are_separated():
    array = np.where(np.arange(2 * 3 * 4).reshape(2, 3, 4) % 5, np.float32(7.25), np.float32(7.5))
    labels, _ = segment(array)
    np.testing.assert_array_equal(labels, array > 7.3)


def test_the_split_is_between_the_two_heaps():
    assert otsu_split(np.array([5, 4, 0, 0, 0, 3, 5])) in (2, 3, 4, 5)
    assert otsu_split(np.array([1, 1])) == 1
    assert otsu_split(np.array([10**12, 0, 1])) in (1, 2)


def test_a_given_value_belongs_to_the_foreground():
    array = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    np.testing.assert_array_equal(segment(array, value=7)[0], array >= 7)
    np.testing.assert_array_equal(segment(array, value=7, dark=True)[0], array < 7)
    np.testing.assert_array_equal(segment(array, value=6.5)[0], array >= 7)
    np.testing.assert_array_equal(segment(array, value=1e6)[0], np.zeros_like(array))
    np.testing.assert_array_equal(segment(array.astype(np.float16), value=1e6)[0], np.zeros_like(array))


def test_a_given_value_needs_no_look_at_the_whole_volume_and_no_note():
    volume = ArrayVolume(np.arange(24.0).reshape(4, 3, 2))
    runner = ThresholdRunner()
    context = RecordingContext(runner.model(None), volume, final_rows=3)
    volume.reads.clear()
    list(runner.segment(volume, ThresholdParams(value=3.0), context))
    assert [region.start for region in volume.reads] == [(3, 0, 0)]
    assert context.notes == []


def test_final_sections_are_left_out_but_count_for_the_threshold(blobs):
    whole, first = segment(blobs)
    rest, second = segment(blobs, final_rows=13)
    assert (rest[:13] == 99).all()
    np.testing.assert_array_equal(rest[13:], whole[13:])
    assert first.notes == second.notes


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(InvalidParameter, match="value"):
        from_plain({"value": value}, ThresholdParams)


def test_progress_counts_the_slabs_of_the_plan(blobs, monkeypatch):
    monkeypatch.setattr(threshold, "SLAB_VOXELS", 3 * SHAPE[1] * SHAPE[2])
    runner = ThresholdRunner()
    grid = VoxelGrid(shape=SHAPE, voxel_size=(1, 1, 1))
    for params, passes in ((ThresholdParams(), 2), (ThresholdParams(value=1), 1)):
        plan = runner.plan(runner.model(None), grid, params, "cpu")
        assert plan.tiles == passes * 7
        _, context = segment(blobs, value=params.value)
        assert context.reports == [(n, plan.tiles, "slabs") for n in range(1, plan.tiles + 1)]


def test_memory_does_not_depend_on_the_number_of_sections():
    runner = ThresholdRunner()
    plans = [
        runner.plan(runner.model(None), VoxelGrid(shape=(z, 400, 400), voxel_size=(1, 1, 1)), ThresholdParams(), "cpu")
        for z in (100, 1000)
    ]
    assert plans[0].ram_bytes == plans[1].ram_bytes


def test_memory_stays_within_the_plan():
    import tracemalloc

    grid = VoxelGrid(shape=(40, 512, 512), voxel_size=(1, 1, 1))
    array = np.random.default_rng(1).normal(size=grid.shape).astype(np.float32)
    runner = ThresholdRunner()
    volume = ArrayVolume(array)
    context = RecordingContext(runner.model(None), volume)
    tracemalloc.start()
    try:
        for _ in runner.segment(volume, ThresholdParams(), context):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= runner.plan(runner.model(None), grid, ThresholdParams(), "cpu").ram_bytes


def test_it_registers_as_a_plugin(tmp_path):
    host = PluginHost(Settings(data_dir=tmp_path))
    assert host.register(threshold, name="threshold").provides == {"runner": ("threshold",)}

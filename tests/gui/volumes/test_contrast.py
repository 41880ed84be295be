import numpy as np
import pytest

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_gui.volumes import contrast
from cryomamba_gui.volumes.contrast import BINS, histogram_edges, sample_contrast


def grid_of(shape, axes):
    return VoxelGrid(shape=shape, voxel_size=(1, 1, 1), stored_axes=axes)


def test_the_limits_leave_out_the_darkest_and_the_brightest():
    array = np.random.default_rng(1).normal(100, 7, size=(5, 400, 300)).astype(np.float32)
    array[2, 5, 5] = 1e6  # a hot pixel
    found = sample_contrast(ArrayVolume(array))
    assert found.limits == pytest.approx(np.percentile(array, (0.5, 99.5)))
    assert found.middle == pytest.approx(np.median(array))
    span = found.limits[1] - found.limits[0]
    assert found.range == pytest.approx((found.limits[0] - span, found.limits[1] + span))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=str)
def test_a_few_sections_of_the_file_are_read(axes):
    shape = [50, 50, 50]
    shape[axes[1]], shape[axes[2]] = 600, 700
    volume = ArrayVolume(np.random.default_rng(1).normal(size=shape), grid=grid_of(shape, axes))
    found = sample_contrast(volume)
    assert [region.start[axes[0]] for region in volume.reads] == [5, 15, 25, 35, 45]
    assert {region.size for region in volume.reads} == {600 * 700}
    assert found.limits == pytest.approx((-2.576, 2.576), abs=0.1)


def test_of_large_sections_bands_are_read(monkeypatch):
    monkeypatch.setattr(contrast, "BAND_VOXELS", 8 * 100)
    array = np.random.default_rng(1).normal(size=(50, 120, 100))
    volume = ArrayVolume(array)
    found = sample_contrast(volume)
    assert {region.shape for region in volume.reads} == {(1, 1, 100)}
    assert sorted({region.start[1] for region in volume.reads}) == [0, 17, 34, 51, 68, 85, 102, 119]
    assert len(volume.reads) == contrast.SECTIONS * contrast.BANDS
    assert found.limits == pytest.approx((-2.576, 2.576), abs=0.3)


@pytest.mark.parametrize("sections", [1, 2, 3, 4, 6])
def test_no_section_is_read_twice(sections):
    volume = ArrayVolume(np.zeros((sections, 4, 4)))
    sample_contrast(volume)
    assert len(volume.reads) == min(sections, 5)
    assert len({region.start for region in volume.reads}) == len(volume.reads)


@pytest.mark.parametrize(
    "array",
    [
        np.full((3, 4, 5), np.nan, np.float32),
        np.full((3, 4, 5), np.inf, np.float32),
        np.full((3, 4, 5), 7, np.int8),
        np.full((3, 4, 5), -128, np.int8),
        np.full((3, 4, 5), 255, np.uint8),
        np.full((3, 4, 5), 3e30, np.float32),
        np.full((3, 4, 5), -1.5e300, np.float64),
        np.full((3, 4, 5), 6e4, np.float16),
        np.where(np.arange(10000).reshape(1, 100, 100) == 77, np.float32(9), np.float32(0)),
    ],
    ids=["NaN", "infinite", "equal", "lowest", "highest", "large", "huge", "half", "one voxel"],
)
def test_there_are_limits_whatever_the_voxels_are(array):
    found = sample_contrast(ArrayVolume(array))
    assert np.isfinite([*found.limits, *found.range, found.middle]).all()
    assert found.range[0] <= found.limits[0] < found.limits[1] <= found.range[1]
    assert (np.diff(histogram_edges(found, array.dtype)) > 0).all()


def test_voxels_that_are_not_finite_do_not_count():
    array = np.random.default_rng(1).normal(size=(5, 40, 50)).astype(np.float32)
    holed = array.copy()
    holed[:, ::3, ::7] = np.nan
    holed[:, 1, 1] = -np.inf
    assert sample_contrast(ArrayVolume(holed)).limits == pytest.approx(
        sample_contrast(ArrayVolume(array)).limits, abs=0.2
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_each_value_of_a_byte_has_a_bin_of_its_own(dtype):
    bounds = np.iinfo(dtype)
    array = np.arange(bounds.min, bounds.max + 1, dtype=dtype).reshape(1, 16, 16)
    found = sample_contrast(ArrayVolume(array))
    assert found.range == (bounds.min, bounds.max)
    edges = histogram_edges(found, array.dtype)
    np.testing.assert_array_equal(edges, np.arange(BINS + 1) + bounds.min - 0.5)


def test_bins_of_whole_numbers_hold_as_many_each():
    array = np.random.default_rng(1).normal(3000, 900, size=(5, 60, 70)).astype(np.int16)
    found = sample_contrast(ArrayVolume(array))
    edges = histogram_edges(found, array.dtype)
    assert edges[0] <= found.range[0]
    assert found.range[1] <= edges[-1]
    assert (edges % 1 == 0.5).all()
    assert len(set(np.diff(edges))) == 1

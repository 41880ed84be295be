from itertools import permutations

import numpy as np
import pytest
from tomograms import spread

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_gui.volumes import coarse as coarse_module
from cryomamba_gui.volumes import surveying
from cryomamba_gui.volumes.coarse import CoarseVolume, coarse_factor
from cryomamba_gui.volumes.surveying import survey

EDGES = np.linspace(-3, 3, 257)
FILL = 0.25


def look(array, factor, *, axes=(0, 1, 2), edges=EDGES, on_progress=lambda *_: None, cancelled=lambda: False):
    grid = VoxelGrid(shape=array.shape, voxel_size=(2, 3, 4), origin=(5, 6, 7), stored_axes=axes)
    coarse = CoarseVolume.blank(grid, factor, FILL)
    volume = ArrayVolume(array, grid=grid)
    return survey(volume, coarse, edges=edges, on_progress=on_progress, cancelled=cancelled), coarse, volume


def means_of(array, factor):
    """Means of the finite voxels of each cube, the slow and plain way."""
    shape = [-(-size // factor) for size in array.shape]
    means = np.empty(shape)
    for index in np.ndindex(*shape):
        cube = array[tuple(slice(i * factor, (i + 1) * factor) for i in index)].astype(np.float64)
        cube = cube[np.isfinite(cube)]
        means[index] = cube.mean() if cube.size else FILL
    return means


@pytest.fixture(params=[1, 200, 1 << 22], ids="tiles of {} voxels".format)
def tile(request, monkeypatch):
    monkeypatch.setattr(surveying, "TILE_VOXELS", request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_an_overview_is_what_numpy_makes_of_all_voxels(axes, factor):
    array = np.random.default_rng(3).normal(size=(7, 12, 11)).astype(np.float32)
    found, _, volume = look(array, factor, axes=axes)
    exact = array.astype(np.float64)
    np.testing.assert_allclose(found.voxels, means_of(array, factor), rtol=1e-5, atol=1e-6)
    assert found.voxels.dtype == np.float32
    assert not found.voxels.flags.writeable
    assert found.grid == volume.grid.coarsen(factor)
    grey = found.statistics
    assert (grey.minimum, grey.maximum) == (exact.min(), exact.max())
    assert (grey.mean, grey.standard_deviation) == (pytest.approx(exact.mean()), pytest.approx(exact.std()))
    np.testing.assert_array_equal(found.histogram, np.histogram(np.clip(exact, -2.999, 2.999), EDGES)[0])
    assert found.histogram.dtype == np.int64
    assert found.not_finite == 0
    assert sum(region.size for region in volume.reads) == array.size


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_voxels_that_are_not_finite_are_counted_and_left_out(dtype):
    array = np.random.default_rng(3).normal(size=(7, 12, 11)).astype(dtype)
    array[0:2, 0:2, 0:2] = np.nan
    array[3, 4, 5], array[6, 11, 10] = np.inf, -np.inf
    found, _, _ = look(array, 2)
    finite = array[np.isfinite(array)].astype(np.float64)
    assert found.not_finite == 10
    np.testing.assert_allclose(found.voxels, means_of(array, 2), rtol=1e-5, atol=1e-6)
    assert found.voxels[0, 0, 0] == np.float32(FILL)
    assert found.statistics.mean == pytest.approx(finite.mean())
    assert found.statistics.standard_deviation == pytest.approx(finite.std())
    assert found.histogram.sum() == finite.size


def test_a_volume_without_a_finite_voxel_has_an_overview():
    found, _, _ = look(np.full((5, 6, 7), np.nan, np.float32), 2)
    assert found.not_finite == 210
    assert np.isnan(found.statistics.mean)
    assert (found.voxels == np.float32(FILL)).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_whole_numbers_are_counted_as_they_are(dtype):
    bounds = np.iinfo(dtype)
    array = np.random.default_rng(3).integers(bounds.min, bounds.max, size=(9, 10, 11), dtype=dtype, endpoint=True)
    edges = np.arange(257) * (2 ** (bounds.bits - 8)) + bounds.min - 0.5
    found, _, _ = look(array, 4, edges=edges)
    np.testing.assert_array_equal(found.histogram, np.histogram(array, edges)[0])
    np.testing.assert_allclose(found.voxels, means_of(array, 4), rtol=1e-5, atol=1e-4)


def test_numbers_that_float32_cannot_hold_break_nothing():
    array = np.zeros((4, 4, 4))
    array[0], array[1] = 1e300, -1e300
    found, _, _ = look(array, 2)
    assert np.isfinite(found.voxels).all()
    assert (found.statistics.minimum, found.statistics.maximum) == (-1e300, 1e300)
    assert (found.histogram[0], found.histogram[-1]) == (16, 16)


def test_a_large_offset_costs_no_precision():
    array = (np.random.default_rng(3).normal(size=(8, 32, 32)) + 1e6).astype(np.float32)
    found, _, _ = look(array, 2)
    assert found.statistics.standard_deviation == pytest.approx(array.astype(np.float64).std(), rel=1e-9)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0)], ids=str)
def test_progress_is_told_in_sections_of_the_file(monkeypatch, axes):
    monkeypatch.setattr(surveying, "TILE_VOXELS", 1)
    told = []
    look(spread((7, 4, 5)), 2, axes=axes, on_progress=lambda done, sections: told.append((done, sections)))
    sections = (7, 4, 5)[axes[0]]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (sections, sections)
    assert {count for _, count in told} == {sections}


def test_a_cancelled_survey_leaves_what_it_has_seen(monkeypatch):
    monkeypatch.setattr(surveying, "TILE_VOXELS", 1)
    array = spread((8, 4, 4))
    told = []
    found, coarse, volume = look(
        array, 2, on_progress=lambda done, _: told.append(done), cancelled=lambda: told[-1:] == [4]
    )
    assert found is None
    assert max(region.stop[0] for region in volume.reads) == 4
    np.testing.assert_allclose(coarse.voxels[0], means_of(array, 2)[0], rtol=1e-5)
    assert (coarse.voxels[2:] == np.float32(FILL)).all()


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((128, 256, 256), 1),
        ((1, 1, 1), 1),
        ((200, 1024, 1024), 2),
        ((1024, 1024, 1024), 4),
        ((512, 4096, 4096), 7),
        ((4, 4097, 4), 5),
        ((1, 1, 1025), 2),
    ],
)
def test_an_overview_is_as_fine_as_3d_bears(shape, factor):
    assert coarse_factor(shape) == factor
    grid = VoxelGrid(shape=shape, voxel_size=(1, 1, 1)).coarsen(factor)
    assert max(grid.shape) <= coarse_module.LONGEST_AXIS
    assert grid.voxels <= coarse_module.MOST_VOXELS


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.float16, np.float32])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_coarse_plane_has_the_size_and_the_type_of_a_fine_one(dtype, factor):
    grid = VoxelGrid(shape=(5, 6, 7), voxel_size=(1, 1, 1))
    means = np.random.default_rng(3).normal(100, 90, size=grid.coarsen(factor).shape).astype(np.float32)
    coarse = CoarseVolume(fine=grid, factor=factor, voxels=means)
    whole = means.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)[:5, :6, :7]
    if np.dtype(dtype).kind in "iu":
        whole = np.clip(np.rint(whole), np.iinfo(dtype).min, np.iinfo(dtype).max)
    for axis in range(3):
        for index in range(grid.shape[axis]):
            plane = coarse.plane(axis, index, np.dtype(dtype))
            assert plane.dtype == dtype
            np.testing.assert_array_equal(plane, np.take(whole, index, axis).astype(dtype))

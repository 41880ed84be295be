import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cryomamba_core.errors import InputError, UnusableVoxelSize
from cryomamba_core.geometry import Region, VoxelGrid, slab_depth

shapes = st.tuples(*[st.integers(1, 40)] * 3)
sizes = st.tuples(*[st.floats(0.1, 50)] * 3)
origins = st.tuples(*[st.floats(-1e4, 1e4)] * 3)


@given(shapes, sizes, origins, st.integers(1, 7))
def test_a_coarse_voxel_lies_at_the_mean_position_of_the_voxels_it_covers(shape, size, origin, factor):
    fine = VoxelGrid(shape=shape, voxel_size=size, origin=origin)
    coarse = fine.coarsen(factor)
    covered = [fine.position((float(i),) * 3) for i in range(factor)]
    assert coarse.origin == pytest.approx(np.mean(covered, axis=0), abs=1e-6)
    assert coarse.shape == tuple(-(-n // factor) for n in shape)


@given(shapes, sizes, origins, st.data())
def test_a_crop_keeps_every_voxel_at_its_place(shape, size, origin, data):
    grid = VoxelGrid(shape=shape, voxel_size=size, origin=origin)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    cropped = grid.crop(Region(start=start, stop=stop))
    assert cropped.position((0, 0, 0)) == pytest.approx(grid.position(start))
    assert cropped.shape == tuple(b - a for a, b in zip(start, stop, strict=True))


@given(shapes, sizes, origins)
def test_the_affine_agrees_with_the_positions(shape, size, origin):
    grid = VoxelGrid(shape=shape, voxel_size=size, origin=origin)
    index = (1.0, 2.0, 3.0)
    assert (grid.affine() @ [*index, 1])[:3] == pytest.approx(grid.position(index))


@given(shapes, st.integers(1, 50))
def test_slabs_cover_a_volume_once_and_in_order(shape, depth):
    seen = np.zeros(shape, int)
    starts = []
    for slab in Region.of_shape(shape).slabs(depth):
        seen[slab.slices] += 1
        starts.append(slab.start[0])
    assert (seen == 1).all()
    assert starts == sorted(starts)


@pytest.mark.parametrize("size", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan")), (float("inf"), 1, 1)])
def test_a_voxel_size_that_is_no_length_is_refused_with_the_override_that_fixes_it(size):
    with pytest.raises(UnusableVoxelSize) as caught:
        VoxelGrid(shape=(1, 1, 1), voxel_size=size)
    assert "--voxel-size" in caught.value.hint


def test_a_grid_without_voxels_is_refused():
    with pytest.raises(InputError, match="no voxels"):
        VoxelGrid(shape=(4, 0, 4), voxel_size=(1, 1, 1))


def test_axes_that_are_no_permutation_are_refused():
    with pytest.raises(InputError, match="order of the three axes"):
        VoxelGrid(shape=(1, 1, 1), voxel_size=(1, 1, 1), stored_axes=(0, 0, 2))


def test_a_region_that_ends_before_it_starts_is_refused():
    with pytest.raises(InputError, match="not a range"):
        Region(start=(0, 5, 0), stop=(1, 4, 1))


def test_regions_that_do_not_meet_share_nothing():
    a, b = Region(start=(0, 0, 0), stop=(2, 2, 2)), Region(start=(5, 5, 5), stop=(6, 6, 6))
    assert a.intersection(b).size == 0


def test_a_crop_outside_the_grid_is_refused():
    with pytest.raises(InputError, match="outside"):
        VoxelGrid(shape=(2, 2, 2), voxel_size=(1, 1, 1)).crop(Region(start=(0, 0, 0), stop=(3, 2, 2)))


def test_the_stored_shape_follows_the_stored_axes():
    grid = VoxelGrid(shape=(2, 3, 4), voxel_size=(1, 1, 1), stored_axes=(1, 2, 0))
    assert grid.stored_shape == (3, 4, 2)


def test_a_slab_is_never_empty_and_never_deeper_than_the_volume():
    assert slab_depth((10, 10_000, 10_000), voxels=5) == 1
    assert slab_depth((3, 2, 2), voxels=10**6) == 3


LONG = VoxelGrid(shape=(200, 1000, 1000), voxel_size=(10, 10, 10), origin=(0, -50, 7), stored_axes=(0, 1, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"stored_axes": (2, 0, 1)},
        {"voxel_size": (10.0004, 10, 9.99991)},  # 0.008 and 0.009 voxels at the far end
        {"origin": (0.09, -50.09, 7)},
    ],
)
def test_grids_that_differ_by_less_than_headers_round_are_one_grid(change):
    assert LONG.differences(evolve(LONG, **change)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (200, 1000, 999)}, ["200 × 1000 × 999 voxels (z, y, x) instead of 200 × 1000 × 1000"]),
        ({"voxel_size": (10, 10, 10.00011)}, ["a voxel size of (10, 10, 10.00011) Å instead of (10, 10, 10) Å"]),
        ({"origin": (0, -50, 7.2)}, ["its origin at (0, -50, 7.2) Å instead of (0, -50, 7) Å"]),
        (
            {"voxel_size": (12, 10, 10), "origin": (0, 0, 0)},
            ["a voxel size of (12, 10, 10) Å instead of (10, 10, 10) Å", "its origin at (0, 0, 0) Å instead of"],
        ),
    ],
)
def test_what_keeps_two_grids_from_lying_on_each_other_is_said_in_words(change, words):
    differences = LONG.differences(evolve(LONG, **change))
    assert len(differences) == len(words)
    for said, expected in zip(differences, words, strict=True):
        assert said.startswith(expected)

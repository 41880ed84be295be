"""NumPy is the judge: its mean and standard deviation, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomamba_backends.nnunet import statistics
from cryomamba_backends.nnunet.statistics import (
    extremes,
    moments,
    nonzero_box,
    numpy_adds_as_expected,
    run_lengths,
    slabs_of,
)
from cryomamba_core.geometry import Region
from cryomamba_core.testing.volumes import ArrayVolume


@st.composite
def boxes(draw):
    """A shape and a box in it, with axes that are cropped and axes that are not."""
    shape = tuple(draw(st.integers(1, 70)) for _ in range(2)), draw(st.integers(1, 9000))
    (z, y), x = shape
    if draw(st.booleans()):
        z, y, x = draw(st.permutations([z, y, draw(st.integers(1, 200))]))
    sizes = (z, y, min(x, 2_000_000 // (z * y)))
    start = [draw(st.integers(0, min(3, size - 1))) if draw(st.booleans()) else 0 for size in sizes]
    stop = [
        draw(st.integers(max(first + 1, size - 3), size)) if draw(st.booleans()) else size
        for first, size in zip(start, sizes, strict=True)
    ]
    return sizes, Region(start=start, stop=stop)


def in_slabs(array, box, depth=3):
    part = np.ascontiguousarray(array[box.slices])
    return lambda: (part[z : z + depth].copy() for z in range(0, part.shape[0], depth))


@settings(max_examples=150, deadline=None)
@given(boxes(), st.sampled_from([(0, 1, 2), (1, 0, 2), (2, 1, 0)]), st.integers(0, 1 << 30))
def test_moments_are_those_of_numpy_for_any_crop(case, axes, seed):
    shape, box = case
    array = np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)
    view = array.transpose(axes)[tuple(box.slices[axis] for axis in axes)]
    found = moments(in_slabs(array, box), box.size, run_lengths(box.shape, shape))
    assert found.mean == view.mean()
    assert found.standard_deviation == view.std()


def test_moments_are_those_of_numpy_above_the_size_of_one_addition(monkeypatch):
    monkeypatch.setattr(statistics, "LEAF", 1000)
    array = np.random.default_rng(0).normal(-3, 900, (31, 77, 53)).astype(np.float32)
    box = Region.of_shape(array.shape)
    found = moments(in_slabs(array, box, depth=2), box.size, run_lengths(box.shape, array.shape))
    assert (found.mean, found.standard_deviation) == (array.mean(), array.std())


def test_the_installed_numpy_adds_in_the_order_that_is_replayed():
    assert numpy_adds_as_expected()


@pytest.mark.parametrize(
    ("start", "stop"),
    [((0, 0, 0), (40, 30, 20)), ((7, 3, 2), (33, 29, 11)), ((39, 0, 0), (40, 1, 1)), ((5, 6, 7), (6, 7, 8))],
)
def test_the_box_holds_every_voxel_that_is_not_zero(start, stop, monkeypatch):
    monkeypatch.setattr(statistics, "SLAB_VOXELS", 1800)
    array = np.zeros((40, 30, 20), np.int16)
    box = Region(start=start, stop=stop)
    corner = tuple(last - 1 for last in stop)
    array[start] = array[corner] = -4
    array[box.slices][:, 0, 0] = 1
    assert nonzero_box(ArrayVolume(array), on_slab=lambda: None) == box


def test_a_volume_of_zeros_has_no_box():
    assert nonzero_box(ArrayVolume(np.zeros((4, 5, 6))), on_slab=lambda: None) is None


def test_the_box_of_a_volume_without_border_needs_its_first_and_last_slab_only(monkeypatch):
    monkeypatch.setattr(statistics, "SLAB_VOXELS", 100)
    calls = []
    array = np.ones((50, 10, 10), np.float32)
    assert nonzero_box(ArrayVolume(array), on_slab=lambda: calls.append(1)) == Region.of_shape(array.shape)
    assert len(calls) == 2


def test_extremes_are_those_of_the_box():
    array = np.arange(-30.0, 30.0, dtype=np.float32).reshape(3, 4, 5)
    box = Region(start=(1, 1, 1), stop=(2, 3, 4))
    assert extremes(slabs_of(ArrayVolume(array), box, on_slab=lambda: None)) == (
        array[box.slices].min(),
        array[box.slices].max(),
    )

"""Models that are normalised without the zeros around what a volume shows: SciPy and stock nnU-Net are the judges."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, gaussian_filter

from cryomamba_backends.nnunet import open_zeros, statistics
from cryomamba_backends.nnunet.open_zeros import OpenZeros


@st.composite
def arrays(draw):
    """Noise or blobs among zeros, around the density at which groups of zeros begin to span the array."""
    shape = tuple(draw(st.integers(1, edge)) for edge in (40, 12, 15))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    share = draw(st.floats(0.05, 0.95))
    values = random.random(shape)
    if draw(st.booleans()):
        values = gaussian_filter(values, 1.5, mode="wrap")
    return np.where(values < np.quantile(values, share), 0, values + 1).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(arrays(), st.integers(1, 5))
def test_open_zeros_are_those_that_scipy_does_not_fill(array, depth):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_zeros, "SLAB_VOXELS", depth * array[0].size)
        zeros = OpenZeros.find(lambda first, stop: array[first:stop], array.shape)
    slabs = [zeros.slab(index, array[first:stop]) for index, (first, stop) in enumerate(pairwise(zeros.bounds))]
    expected = ~binary_fill_holes(array != 0)
    np.testing.assert_array_equal(np.concatenate(slabs), expected)
    assert zeros.count == expected.sum()
    assert len(slabs) == -(-len(array) // depth)


def test_zeros_that_are_scattered_are_not_held_over_the_length_of_a_volume(monkeypatch):
    monkeypatch.setattr(open_zeros, "SLAB_VOXELS", 1)

    def section(first, _):
        return (np.random.default_rng(first).random((1, 100, 100)) > 0.05).astype(np.float32)

    def held(length):
        tracemalloc.start()
        try:
            OpenZeros.find(section, (length, 100, 100))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    held(2)  # what is imported once
    groups, further = 100 * 100 * 0.05, 400
    # Of each section's groups about a twentieth lies at its sides and is open; 24 bytes are held of a group meanwhile.
    assert held(100 + further) - held(100) < further * groups * 24 / 10


@pytest.fixture
def hollow(noise, monkeypatch):
    """A round specimen in zeros, with a hole, single zeros, and a bay that is open to the outside."""
    monkeypatch.setattr(open_zeros, "SLAB_VOXELS", 5000)
    monkeypatch.setattr(statistics, "LEAF", 4096)
    array = noise((34, 40, 37))
    z, y, x = np.ogrid[:34, :40, :37]
    array[(z - 17) ** 2 + (y - 20) ** 2 + (x - 18) ** 2 > 17**2] = 0
    array[14:20, 18:22, 17:20] = 0
    array[16, :19, 9:12] = 0
    array[np.random.default_rng(3).random(array.shape) < 0.02] = 0
    filled = binary_fill_holes(array != 0)
    assert (filled & (array == 0)).any()
    assert not filled[16, 10, 10]
    return np.pad(array, ((2, 0), (1, 3), (0, 2)))


@pytest.mark.parametrize(
    ("axes", "size"), [((0, 1, 2), 10.0), ((1, 0, 2), 10.0), ((2, 0, 1), 10.0), ((0, 1, 2), 12.0), ((1, 2, 0), 12.0)]
)
def test_labels_are_those_of_stock(axes, size, hollow, runner, edited_model, answer_of, stock_labels):
    def masked(plans):
        chosen = plans["configurations"]["3d_fullres"]
        chosen.update(use_mask_for_norm=[True], patch_size=[32, 32, 32], spacing=[10.0, 10.0, 10.0])
        plans["transpose_forward"] = list(axes)
        plans["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]

    folder = edited_model(plans=masked)
    model = runner.install(folder, name="masked")
    expected = stock_labels(folder, hollow, mirroring=False, spacing=(size,) * 3)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, hollow, mirroring=False, voxel_size=(size,) * 3, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)


@pytest.mark.parametrize("masked", [None, [None], [False]])
def test_a_model_that_is_not_masked_is_that_of_stock(masked, hollow, runner, edited_model, tiny_tomo_model):
    def plans(content):
        content["configurations"]["3d_fullres"]["use_mask_for_norm"] = masked

    assert (
        runner.install(edited_model(plans=plans), name="x").digest == runner.install(tiny_tomo_model, name="y").digest
    )

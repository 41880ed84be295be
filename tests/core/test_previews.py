import zlib

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cryomamba_core import previews
from cryomamba_core.companions import Companion
from cryomamba_core.errors import StorageDamaged
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.labels import LabelBlock
from cryomamba_core.previews import (
    COMPANION_PART,
    COMPANIONS_PART,
    Preview,
    PreviewBuilder,
    PreviewPolicy,
    coarsen_labels,
    preview_factor,
)


def grid_of(labels):
    return VoxelGrid(shape=labels.shape, voxel_size=(10, 10, 10))


def block_by_block(labels, factor):
    """The definition, voxel by voxel."""
    coarse = np.zeros([-(-size // factor) for size in labels.shape], labels.dtype)
    for index in np.ndindex(coarse.shape):
        block = labels[tuple(slice(i * factor, (i + 1) * factor) for i in index)]
        values, counts = np.unique(block[block > 0], return_counts=True)
        coarse[index] = values[np.argmax(counts)] if values.size else 0
    return coarse


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 5))
def test_a_coarse_voxel_takes_the_most_frequent_label_that_is_not_background(seed, shape, factor):
    labels = np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 3], shape).astype(np.uint8)
    assert np.array_equal(coarsen_labels(labels, factor), block_by_block(labels, factor))


def test_a_membrane_one_voxel_thick_survives():
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[:, 5, :] = 1
    assert (coarsen_labels(labels, 4)[:, 1, :] == 1).all()


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 300),
)
def test_the_last_preview_does_not_depend_on_how_the_labels_came(seed, depths, factor, piece):
    labels = np.random.default_rng(seed).choice([0, 0, 1, 2], (sum(depths), 7, 5)).astype(np.uint8)
    arrived = np.zeros_like(labels)
    limit = int(np.prod([-(-size // factor) for size in labels.shape]))
    builder = PreviewBuilder(grid_of(labels), arrived, PreviewPolicy(max_voxels=limit))
    builder.add_provisional(LabelBlock(region=Region.of_shape(labels.shape), labels=3 - labels, provisional=True))
    start = 0
    for depth in depths:
        region = Region(start=(start, 0, 0), stop=(start + depth, *labels.shape[1:]))
        arrived[region.slices] = labels[region.slices]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(previews, "PIECE_VOXELS", piece)
            builder.add_final(region)
        start += depth
    preview = builder.snapshot()
    assert np.array_equal(preview.labels(), coarsen_labels(labels, builder.factor))
    assert not preview.provisional


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 200))
def test_the_last_preview_of_a_companion_holds_the_means_of_blocks(seed, depths, most):
    labels = np.zeros((sum(depths), 7, 5), np.uint8)
    values = np.random.default_rng(seed).integers(0, 256, labels.shape, dtype=np.uint8)
    policy = PreviewPolicy(max_voxels=COMPANION_PART * most)
    builder = PreviewBuilder(grid_of(labels), labels, policy, [Companion(name="doubt", meaning="", label=2)])
    start = 0
    for depth in (0, *depths):
        region = Region(start=(start, 0, 0), stop=(start + depth, *labels.shape[1:]))
        builder.add_companions(region, {"doubt": values[region.slices]})
        start += depth
    (doubt,) = builder.snapshot().companions
    assert (doubt.name, doubt.label, doubt.factor) == ("doubt", 2, preview_factor(labels.shape, most))
    assert doubt.grid == grid_of(labels).coarsen(doubt.factor)
    for index in np.ndindex(doubt.grid.shape):
        block = values[tuple(slice(at * doubt.factor, (at + 1) * doubt.factor) for at in index)]
        assert doubt.values()[index] == np.floor(block.mean() + 0.5)


@pytest.mark.parametrize("count", [1, 4, 5, 30, 1000])
def test_many_companions_are_coarser_so_that_all_of_them_fit_a_message(count):
    labels, policy = np.zeros((40, 50, 60), np.uint8), PreviewPolicy(max_voxels=20_000)
    companions = [Companion(name=f"doubt-{number}", meaning="") for number in range(count)]
    shown = PreviewBuilder(grid_of(labels), labels, policy, companions).snapshot().companions
    assert [each.name for each in shown] == [companion.name for companion in companions]
    most = min(policy.max_voxels // COMPANION_PART, policy.max_voxels // COMPANIONS_PART // count)
    assert {each.factor for each in shown} == {preview_factor(labels.shape, most)}
    assert sum(each.grid.voxels for each in shown) <= policy.max_voxels // COMPANIONS_PART


def test_provisional_labels_do_not_replace_final_ones():
    arrived = np.full((4, 4, 4), 1, np.uint8)
    builder = PreviewBuilder(grid_of(arrived), arrived, PreviewPolicy(max_voxels=64))
    builder.add_final(Region(start=(0, 0, 0), stop=(2, 4, 4)))
    builder.add_provisional(
        LabelBlock(region=Region.of_shape((4, 4, 4)), labels=np.full((4, 4, 4), 2, np.uint8), provisional=True)
    )
    preview = builder.snapshot()
    assert preview.labels()[:, 0, 0].tolist() == [1, 1, 2, 2]
    assert preview.provisional
    assert preview.covered == Region.of_shape((4, 4, 4))


def test_the_factor_is_the_smallest_that_fits():
    assert preview_factor((64, 256, 256), 64 * 256 * 256) == 1
    assert preview_factor((65, 256, 256), 64 * 256 * 256) == 2


def test_previews_count_up_and_lie_at_the_coarse_offset():
    labels = np.zeros((8, 8, 8), np.uint8)
    builder = PreviewBuilder(grid_of(labels), labels, PreviewPolicy(max_voxels=8))
    assert [builder.snapshot().sequence for _ in range(3)] == [1, 2, 3]
    assert builder.snapshot().grid.origin == (15.0, 15.0, 15.0)


@pytest.fixture
def preview():
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    return Preview.pack(
        labels, sequence=1, factor=1, grid=grid_of(labels), covered=Region.of_shape((2, 3, 4)), provisional=False
    )


def test_labels_survive_packing(preview):
    assert np.array_equal(preview.labels(), np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "payload", [b"junk", zlib.compress(b"12"), zlib.compress(bytes(10**6))], ids=["junk", "short", "long"]
)
def test_a_payload_that_does_not_hold_the_labels_is_refused(preview, payload):
    with pytest.raises(StorageDamaged):
        evolve(preview, payload=payload).labels()

"""The judge is scipy on the whole volume at once."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from cryomamba_core.measuring import components
from cryomamba_core.measuring.components import ComponentCounter, LargestPieces, look_up, number_pieces

DEPTHS = (1, 2, 3, 7, 100)


@pytest.fixture(params=[5, 1 << 18], ids=["few voxels at a time", "a section at a time"])
def part(request, monkeypatch):
    monkeypatch.setattr(components, "_PART", request.param)


def largest_of_whole(mask):
    numbers, found = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(numbers.reshape(-1), minlength=found + 1)[1:]
    return np.isin(numbers, 1 + np.flatnonzero(sizes == sizes.max(initial=0)))


def largest_by_slab(mask, depth):
    slabs = [mask[start : start + depth] for start in range(0, len(mask), depth)]
    pieces = LargestPieces(mask.shape[1:])
    for slab in slabs:
        pieces.add(slab)
    largest = pieces.finish()
    assert len(largest) == len(slabs)
    return np.concatenate([look_up(kept, number_pieces(slab)[0]) for slab, kept in zip(slabs, largest, strict=True)])


def random_masks():
    for seed, density in itertools.product(range(40), (0.01, 0.03, 0.08, 0.12, 0.3)):
        random = np.random.default_rng(seed)
        yield random.random(random.integers(1, 20, 3)) < density


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_largest_pieces_of_noise_are_those_of_scipy_on_the_whole_volume(depth):
    ties = 0
    for mask in random_masks():
        whole = largest_of_whole(mask)
        np.testing.assert_array_equal(largest_by_slab(mask, depth), whole)
        ties += ndimage.label(whole, np.ones((3, 3, 3)))[1] > 1
    assert ties > 10


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("depth", DEPTHS)
def test_pieces_of_noise_are_counted_as_scipy_counts_them_on_the_whole_volume(depth):
    for mask in random_masks():
        counter = ComponentCounter(mask.shape[1:])
        for start in range(0, len(mask), depth):
            counter.add(mask[start : start + depth], (0, 0))
        assert counter.count == ndimage.label(mask, np.ones((3, 3, 3)))[1]


@pytest.mark.parametrize("part", [5, 1 << 18])
def test_pieces_in_windows_at_every_edge_of_a_section_are_counted_as_scipy_counts_them(part, monkeypatch):
    monkeypatch.setattr(components, "_PART", part)
    for seed in range(40):
        random = np.random.default_rng(seed)
        mask = random.random((9, *random.integers(1, 8, 2))) < 0.3
        counter = ComponentCounter(mask.shape[1:])
        for slab in mask.reshape(-1, 1, *mask.shape[1:]):
            if not slab.any():
                counter.skip()
                continue
            _, y, x = ndimage.find_objects(slab.astype(np.uint8))[0]
            counter.add(slab[:, y, x], (y.start, x.start))
        assert counter.count == ndimage.label(mask, np.ones((3, 3, 3)))[1]


@pytest.mark.parametrize("depth", DEPTHS)
def test_nothing_is_the_largest_of_nothing_and_all_of_all(depth):
    for filled in (False, True):
        mask = np.full((9, 4, 5), filled)
        assert (largest_by_slab(mask, depth) == filled).all()


@pytest.mark.parametrize("depth", DEPTHS)
def test_arms_that_meet_in_a_later_slab_count_together(depth):
    mask = np.zeros((12, 7, 12), np.bool_)
    mask[:9, 1, 1] = mask[:9, 1, 5] = True  # 18 voxels in two arms
    mask[9, 1, 1:6] = True  # and 5 that join them
    mask[:11, 5, 9] = mask[:11, 5, 10] = True  # 22 in one piece
    kept = largest_by_slab(mask, depth)
    assert kept[:, 1].sum() == 23
    assert not kept[:, 5].any()


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_piece_that_only_touches_by_corners_stays_whole(depth):
    mask = np.zeros((10, 10, 10), np.bool_)
    mask[range(10), range(10), range(10)] = True
    diagonal = mask.copy()
    mask[0, 5:8, 0:3] = True  # 9 voxels, one fewer
    np.testing.assert_array_equal(largest_by_slab(mask, depth), diagonal)


@pytest.mark.parametrize("depth", DEPTHS)
def test_equals_all_stay_however_they_are_cut(depth):
    mask = np.zeros((12, 8, 8), np.bool_)
    mask[0:4, 0, 0] = mask[3:7, 4, 4] = mask[11, 7, 2:6] = True  # 4 voxels each
    mask[9, 0:3, 0] = True  # 3
    kept = largest_by_slab(mask, depth)
    assert kept.sum() == 12
    assert not kept[9].any()


@pytest.mark.parametrize("depth", DEPTHS)
def test_slabs_without_the_label_part_pieces(depth):
    mask = np.ones((21, 3, 3), np.bool_)
    mask[7:14] = False
    mask[20, 0, 0] = False
    kept = largest_by_slab(mask, depth)
    assert kept[:7].all()
    assert not kept[7:].any()


def test_sizes_beyond_what_the_slab_has_voxels_are_added_up_right():
    mask = np.ones((300, 3, 3), np.bool_)  # each slab counts in 8 bits, and all together hold more
    mask[150, :, :] = False
    mask[299, 0, 0] = False
    kept = largest_by_slab(mask, 1)
    assert kept[:150].all()
    assert not kept[150:].any()


@pytest.mark.parametrize("size", [1, 16], ids=["noise", "squares"])
def test_many_labels_together_keep_no_more_than_a_run_for_each_voxel_of_a_section(size):
    numbers = np.random.default_rng(1).integers(1, 101, (4, 512 // size, 512 // size), np.uint8)
    labels = numbers.repeat(size, axis=1).repeat(size, axis=2)
    number_pieces(labels == 1)  # and everything is imported
    tracemalloc.start()
    counters = {value: ComponentCounter(labels.shape[1:]) for value in range(1, 101)}
    for value, counter in counters.items():
        counter.add(labels == value, (0, 0))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A run takes 12 bytes and has a voxel or more, and each label 2 kB for objects; a section of 4-byte numbers for
    # each label would be 106 MB.
    assert kept < 12 * labels[0].size + 2048 * len(counters)


def test_a_table_is_looked_up_as_numpy_does():
    random = np.random.default_rng(3)
    table = random.random(1 << 16) < 0.5
    indices = random.integers(0, 1 << 16, (7, 300, 200), np.uint16)
    np.testing.assert_array_equal(look_up(table, indices), table[indices])

import math
from itertools import permutations, product

import numpy as np
import pytest

from cryomamba_core.geometry import VoxelGrid
from cryomamba_gui.volumes import blocks
from cryomamba_gui.volumes.blocks import Blocks


@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 40), (33, 7, 2), (12, 34, 36)], ids=str)
@pytest.mark.parametrize("piece_bytes", [16, 1000, 1 << 20])
def test_the_pieces_of_a_block_cover_it_once(monkeypatch, axes, shape, piece_bytes):
    monkeypatch.setattr(blocks, "PIECE_BYTES", piece_bytes)
    grid = VoxelGrid(shape=shape, voxel_size=(1, 1, 1), stored_axes=axes)
    cut = Blocks(grid, 4)
    for axis, index in product(range(3), range(max(shape))):
        if index >= shape[axis]:
            continue
        block = cut.block_of(axis, index)
        assert block.holds(axis, index)
        assert not block.holds((axis + 1) % 3, index)
        counts, inside = np.zeros(shape, int), np.zeros(shape, int)
        for piece in cut.pieces(cut.region(block)):
            counts[piece.slices] += 1
        inside[cut.region(block).slices] = 1
        np.testing.assert_array_equal(counts, inside)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_more_planes_are_read_together_the_less_they_lie_together(axes):
    cut = Blocks(VoxelGrid(shape=(512, 512, 512), voxel_size=(1, 1, 1), stored_axes=axes), 1)
    depths = [cut.block_of(axis, 40).stop - cut.block_of(axis, 40).first for axis in axes]
    assert depths == list(blocks.TOGETHER)


@pytest.mark.parametrize("shape", [(512, 4096, 4096), (1024, 1024, 1024), (4096, 512, 512)])
def test_a_block_is_bounded_unless_a_single_plane_is_larger(shape):
    cut = Blocks(VoxelGrid(shape=shape, voxel_size=(1, 1, 1)), 4)
    for axis in range(3):
        block = cut.block_of(axis, shape[axis] // 2)
        plane = math.prod(cut.plane_shape(axis)) * 4
        assert cut.region(block).size * 4 <= max(blocks.BLOCK_BYTES, plane)


def test_a_reader_passes_over_a_bounded_part_of_the_file_between_two_pieces():
    grid = VoxelGrid(shape=(1024, 1024, 1024), voxel_size=(1, 1, 1))
    cut = Blocks(grid, 4)
    across_columns = list(cut.pieces(cut.region(cut.block_of(2, 0))))
    assert {piece.shape[0] * 1024 * 1024 * 4 for piece in across_columns} == {blocks.PIECE_BYTES}
    across_rows = list(cut.pieces(cut.region(cut.block_of(1, 0))))
    assert {piece.shape[0] for piece in across_rows} == {blocks.PIECE_SEEKS}

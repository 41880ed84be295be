"""Labels of chosen voxels, and arrays in the place of files."""

import numpy as np

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import name_labels
from cryomamba_core.volumes import Volume

NAMES = name_labels({1: "membrane", 2: "ribosome"})


class ArrayVolume(Volume):
    """An array in the place of a file."""

    def __init__(self, array, voxel_size=(10.0, 11.0, 12.0), origin=(100.0, -20.0, 3.0)):
        self.array = array
        self._grid = VoxelGrid(shape=array.shape, voxel_size=voxel_size, origin=origin)

    @property
    def grid(self):
        return self._grid

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, region):
        return self.array[region.slices].copy()


def some_labels(shape=(12, 20, 16), values=3, seed=4, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, values, shape).astype(dtype)

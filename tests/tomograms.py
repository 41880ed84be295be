"""Tomograms that tests make, and a volume that can be held."""

import threading

import mrcfile
import numpy as np

from cryomamba_core.testing.volumes import ArrayVolume

#: Seconds after which a test gives up waiting; nothing takes so long, even on a busy machine.
DEADLINE = 120


class GatedVolume(ArrayVolume):
    """A volume of which nothing can be read while the gate is shut."""

    def __init__(self, array, **values):
        super().__init__(array, **values)
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Semaphore(0)
        self.behind_gate = threading.Semaphore(0)
        self.error = None

    def read(self, region):
        self.at_gate.release()
        assert self.gate.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        try:
            return super().read(region)
        finally:
            self.behind_gate.release()


def write_mrc(path, array, voxel_size=10.0):
    with mrcfile.new(path, array) as file:
        file.voxel_size = voxel_size
    return path


def spread(shape, dtype=np.float32):
    """An array of which every voxel has a value of its own, if the type has as many."""
    return np.random.default_rng(11).permutation(np.prod(shape)).reshape(shape).astype(dtype)

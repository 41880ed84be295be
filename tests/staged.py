"""Tomograms, masks and previews for the tests of the canvas."""

import mrcfile
import numpy as np

from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import name_labels
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import Preview, coarsen_labels
from cryomamba_core.settings import Settings
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_gui.masks.mask import EditedMask
from cryomamba_gui.volumes.overview_cache import OverviewCache
from cryomamba_gui.volumes.tomogram import Tomogram

LABELS = name_labels({1: "membrane", 2: "ribosome"})


def open_tomogram(folder, array, *, voxel_size=(10.0, 10.0, 10.0), origin=(0.0, 0.0, 0.0), name="tomo.mrc"):
    """A tomogram (z, y, x) in a real file, open."""
    path = folder / name
    with mrcfile.new(path, array) as file:
        file.voxel_size = voxel_size[::-1]
        file.header.origin = origin[::-1]
    host = PluginHost(Settings(data_dir=folder / "data"))
    assert not host.register(mrc, name="mrc").error
    return Tomogram.open(host, path, cache=OverviewCache(folder / "overviews"))


def make_mask(folder, labels, grid, names=LABELS):
    """A mask that is edited, of the labels that a job made."""
    return EditedMask.create(folder, ArrayVolume(labels, grid=grid), names)


def make_preview(labels, grid, factor, *, provisional=False, sequence=1):
    """The preview of a label volume, coarsened by a factor."""
    return Preview.pack(
        coarsen_labels(labels, factor),
        sequence=sequence,
        factor=factor,
        grid=grid.coarsen(factor),
        covered=grid.whole,
        provisional=provisional,
    )


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def survey(tomogram):
    return tomogram.survey(lambda _done, _total: None, lambda: False)


__all__ = ["LABELS", "VoxelGrid", "make_mask", "make_preview", "noise", "open_tomogram", "survey"]

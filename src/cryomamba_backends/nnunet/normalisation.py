"""Grey values as the network wants them, by nnU-Net's schemes, slab by slab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import asdict
from numpy.typing import NDArray

from cryomamba_backends.nnunet.plans import ChannelRecipe, IntensityProperties
from cryomamba_backends.nnunet.statistics import Moments, OnSlab, extremes, moments, run_lengths, slabs_of
from cryomamba_backends.nnunet.supplied import NORMALISATIONS, fault_of, find_supplied, function_of
from cryomamba_core.errors import UnusableVolume
from cryomamba_core.geometry import Region
from cryomamba_core.volumes import Volume

#: Changes a float32 array in place.
Normalise = Callable[[NDArray[np.float32]], None]

EPSILON = 1e-8


def measure_normalisation(recipe: ChannelRecipe, volume: Volume, box: Region, *, on_slab: OnSlab) -> Normalise:
    """Measure what a channel's scheme needs to know of the voxels of `box`, and return the scheme.

    Raises
    ------
    UnusableVolume
        If the scheme is for colour images and the grey values are not between 0 and 255.
    PluginError
        If the scheme is a plugin's, and that is not installed any more or cannot be imported.
    """
    slabs = slabs_of(volume, box, on_slab=on_slab)
    if recipe.scheme == "ZScoreNormalization":
        return standardise(moments(slabs, box.size, run_lengths(box.shape, volume.grid.shape)))
    if recipe.scheme == "RescaleTo01Normalization":
        low, high = extremes(slabs)
        return _shift_and_scale(low, np.clip(high - low, a_min=EPSILON, a_max=None))
    if recipe.scheme == "RGBTo01Normalization":
        low, high = extremes(slabs)
        if low < 0 or high > 255:
            raise UnusableVolume(
                f"the model takes grey values from 0 to 255, the volume has {low:g} to {high:g}",
                hint="rescale it as the training data were",
            )
        return _shift_and_scale(None, 255.0)
    if recipe.scheme == "CTNormalization":
        assert recipe.intensity is not None
        return _clip_and_scale(recipe.intensity)
    if recipe.scheme == "NoNormalization":
        return lambda _: None
    return _supplied(recipe)


def standardise(measured: Moments) -> Normalise:
    """The scheme that makes the mean 0 and the standard deviation 1."""
    return _shift_and_scale(measured.mean, max(measured.standard_deviation, EPSILON))


def _supplied(recipe: ChannelRecipe) -> Normalise:
    """The scheme of a plugin."""
    assert recipe.intensity is not None
    supplied = find_supplied(NORMALISATIONS, recipe.scheme)
    function, intensity = function_of(supplied), asdict(recipe.intensity)

    def normalise(slab: NDArray[np.float32]) -> None:
        try:
            function(slab, intensity=dict(intensity))
        except MemoryError:
            raise
        except Exception as error:
            raise fault_of(supplied, "cannot normalise the volume", error) from error

    return normalise


def _shift_and_scale(shift: np.float32 | None, scale: Any) -> Normalise:
    def normalise(slab: NDArray[np.float32]) -> None:
        if shift is not None:
            slab -= shift
        slab /= scale

    return normalise


def _clip_and_scale(known: IntensityProperties) -> Normalise:
    def normalise(slab: NDArray[np.float32]) -> None:
        np.clip(slab, known.percentile_00_5, known.percentile_99_5, out=slab)
        slab -= known.mean
        slab /= max(known.std, EPSILON)

    return normalise

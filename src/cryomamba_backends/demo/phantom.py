"""A synthetic cryo-electron tomogram whose every label is known.

Vesicles, microtubules and ribosomes in a crowded cytosol, seen through a microscope: contrast transfer, a missing
wedge, uneven ice and noise stronger than the signal. The same seed gives the same volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.demo.imaging import (
    contrast_transfer,
    image_density,
    noise_spectrum,
    spatial_frequencies,
    tilt_range_mask,
)
from cryomamba_backends.demo.objects import (
    Vesicle,
    fill_with_proteins,
    place_actin,
    place_microtubules,
    place_ribosomes,
    place_vesicles,
)
from cryomamba_backends.demo.scene import MEMBRANE, MICROTUBULE, RIBOSOME, Scene

LABEL_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {0: "background", MEMBRANE: "membrane", MICROTUBULE: "microtubule", RIBOSOME: "ribosome"}
)
"""Label value to name, the same as in the demonstration model."""

DEFAULT_SEED: Final = 7
"""Seed of the demonstration volume. The model that ships is trained on seeds from 10 000 on."""


@attrs.frozen(kw_only=True)
class PhantomParameters:
    """What to put into a phantom and how to image it.

    Attributes
    ----------
    shape : tuple of int
        ZYX, in voxels.
    voxel_size : float
        Edge of the cubic voxel in Å.
    seed : int
        The same parameters with the same seed give the same voxels.
    organelles : int
        Closed membranes of 45 to 75 nm radius, mostly cut by the faces of the volume, as in a lamella.
    vesicles : int
        Closed membranes of 18 to 40 nm radius.
    microtubules : int
        Tubes of 25 nm outer diameter, within some degrees of the specimen plane.
    ribosomes : int
        Blobs of about 27 nm.
    actin_filaments : int
        Unlabelled filaments of 7 nm.
    protein_concentration : float
        Unlabelled proteins of 20 to 400 kDa per µm³.
    signal_to_noise : float
        Variance of the imaged, noise-free volume over variance of the noise, over all voxels and frequencies, after
        contrast transfer and missing wedge have been applied to the signal and the wedge to the noise. Below 0.1 in
        most tomograms.
    defocus : float
        Underfocus in Å, positive.
    tilt_range : float
        Largest tilt around Y in degrees, on both sides.
    ice_gradient : float
        Relative change of the ice thickness from the middle to the edge of the volume, 0 to 1.
    contrast : {"dark", "bright"}
        Whether protein has the low or the high values. Reconstructions come out dark; some programs invert them.
    """

    shape: tuple[int, int, int] = (128, 224, 224)
    voxel_size: float = 10.0
    seed: int = DEFAULT_SEED
    organelles: int = 2
    vesicles: int = 5
    microtubules: int = 4
    ribosomes: int = 36
    actin_filaments: int = 5
    protein_concentration: float = 40_000.0
    signal_to_noise: float = 0.08
    defocus: float = 50_000.0
    tilt_range: float = 60.0
    ice_gradient: float = 0.1
    contrast: Literal["dark", "bright"] = "dark"


@attrs.frozen(kw_only=True, eq=False)
class Phantom:
    """A synthetic tomogram and the truth about it.

    Attributes
    ----------
    tomogram : ndarray of float32
        ZYX; mean near 0, standard deviation near 1.
    truth : ndarray of uint8
        ZYX, same shape; values as in `label_names`. Membrane: both leaflets, 6 nm. Microtubule: the filled tube of
        25 nm, lumen included. Ribosome: its smooth envelope.
    signal : ndarray of float32
        ZYX; the tomogram without noise and without the ice's own brightness, in the tomogram's units.
    parameters : PhantomParameters
        What it was made from.
    label_names : mapping of int to str
        Label value to name.
    """

    tomogram: NDArray[np.float32]
    truth: NDArray[np.uint8]
    signal: NDArray[np.float32]
    parameters: PhantomParameters
    label_names: Mapping[int, str] = LABEL_NAMES

    @property
    def signal_to_noise(self) -> float:
        """The ratio reached: variance of the signal over variance of all the rest."""
        return float(self.signal.var(dtype=np.float64) / (self.tomogram - self.signal).var(dtype=np.float64))


def make_phantom(parameters: PhantomParameters) -> Phantom:
    """Make a synthetic tomogram.

    Parameters
    ----------
    parameters : PhantomParameters
        Contents and imaging.

    Returns
    -------
    Phantom
        A volume of (128, 224, 224) takes some seconds on one core.
    """
    scene = _furnish(parameters)
    return _image(parameters, scene)


def _furnish(parameters: PhantomParameters) -> Scene:
    scene = Scene(
        shape=parameters.shape,
        voxel_size=parameters.voxel_size,
        generator=np.random.default_rng((parameters.seed, 0)),
    )
    lines = place_microtubules(scene, parameters.microtubules)
    membranes: list[Vesicle] = []
    place_vesicles(scene, parameters.organelles, (450.0, 750.0), lines, membranes)
    place_vesicles(scene, parameters.vesicles, (180.0, 400.0), lines, membranes)
    place_ribosomes(scene, parameters.ribosomes)
    place_actin(scene, parameters.actin_filaments)
    fill_with_proteins(scene, parameters.protein_concentration)
    return scene


def _image(parameters: PhantomParameters, scene: Scene) -> Phantom:
    from scipy import fft

    generator = np.random.default_rng((parameters.seed, 1))
    frequencies = spatial_frequencies(parameters.shape, parameters.voxel_size)
    measured = tilt_range_mask(frequencies, parameters.tilt_range)
    transfer = contrast_transfer(frequencies, defocus=parameters.defocus) * measured
    thickness = _ice_thickness(generator, parameters)

    # inelastic scattering dims the image and roughens the noise where the ice is thicker
    signal = image_density(scene.total_density() / thickness, transfer)
    spectrum = noise_spectrum(
        generator, parameters.shape, frequencies, voxel_size=parameters.voxel_size, roughness=np.sqrt(thickness)
    )
    noise = fft.irfftn(spectrum * measured, s=parameters.shape).astype(np.float32)
    noise *= np.sqrt(signal.var(dtype=np.float64) / (noise.var(dtype=np.float64) * parameters.signal_to_noise))

    scale = 1 / np.sqrt(signal.var(dtype=np.float64) + noise.var(dtype=np.float64))
    if parameters.contrast == "bright":
        signal = -signal
    signal = (signal * scale).astype(np.float32)
    tomogram = signal + (noise * scale).astype(np.float32)
    # the brightness of the ice itself does not change along Z, so it stays out of the missing wedge
    tomogram -= np.float32(0.5) * (thickness - thickness.mean())
    return Phantom(tomogram=tomogram, truth=scene.truth, signal=signal, parameters=parameters)


def _ice_thickness(generator: np.random.Generator, parameters: PhantomParameters) -> NDArray[np.float32]:
    """Return the relative thickness of the ice, shape (1, Y, X), 1 in the middle."""
    _, height, width = parameters.shape
    azimuth = generator.uniform(0, 2 * np.pi)
    across = np.linspace(-1, 1, height)[:, None] * np.sin(azimuth) + np.linspace(-1, 1, width) * np.cos(azimuth)
    return np.asarray((1 + parameters.ice_gradient * across)[None], dtype=np.float32)

"""What an electron microscope and a tilt series do to a density: contrast transfer, missing wedge and noise.

All of it happens in Fourier space on the half spectrum of a real ZYX volume. Spatial frequencies are in 1/Å.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frequencies = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

_FFT_AXES = (0, 1, 2)


def spatial_frequencies(shape: tuple[int, int, int], voxel_size: float) -> Frequencies:
    """Return the spatial frequencies of a volume's half spectrum along each axis.

    Parameters
    ----------
    shape : tuple of int
        Shape of the real volume, ZYX, in voxels.
    voxel_size : float
        Edge of the cubic voxel in Å.

    Returns
    -------
    tuple of ndarray of float32
        Frequencies along Z, Y and X in 1/Å, shaped (Z, 1, 1), (1, Y, 1) and (1, 1, X // 2 + 1) so that they broadcast.
    """
    depth, height, width = shape
    return (
        np.fft.fftfreq(depth, voxel_size).astype(np.float32)[:, None, None],
        np.fft.fftfreq(height, voxel_size).astype(np.float32)[None, :, None],
        np.fft.rfftfreq(width, voxel_size).astype(np.float32)[None, None, :],
    )


def electron_wavelength(voltage: float) -> float:
    """Return the relativistic wavelength of an electron.

    Parameters
    ----------
    voltage : float
        Acceleration voltage in kV.

    Returns
    -------
    float
        Wavelength in Å; 0.0197 at 300 kV.

    Notes
    -----
    ``12.2643 / sqrt(V + 0.978466e-6 V^2)`` with V in volts: L. Reimer and H. Kohl, *Transmission Electron
    Microscopy*, 5th edition, section 2.1.
    """
    volts = voltage * 1e3
    return float(12.2643 / np.sqrt(volts + 0.978466e-6 * volts**2))


def contrast_transfer(
    frequencies: Frequencies,
    *,
    defocus: float,
    voltage: float = 300.0,
    spherical_aberration: float = 2.7,
    amplitude_contrast: float = 0.07,
    b_factor: float = 1000.0,
) -> NDArray[np.float32]:
    """Return the contrast transfer function, the same in every direction, times its envelope.

    Parameters
    ----------
    frequencies : tuple of ndarray
        From `spatial_frequencies`, in 1/Å.
    defocus : float
        Underfocus in Å, positive.
    voltage : float
        Acceleration voltage in kV.
    spherical_aberration : float
        Cs in mm.
    amplitude_contrast : float
        Fraction of amplitude contrast, 0 to 1.
    b_factor : float
        Fall-off of the envelope ``exp(-B s^2 / 4)`` in Å².

    Returns
    -------
    ndarray of float32
        Shape (Z, Y, X // 2 + 1). Negative before its first zero: protein comes out dark.

    Notes
    -----
    ``CTF(s) = -(sqrt(1 - A^2) sin(chi) + A cos(chi))``, ``chi = pi lambda s^2 (dz - Cs lambda^2 s^2 / 2)``: A. Rohou
    and N. Grigorieff, *CTFFIND4*, J. Struct. Biol. 192 (2015), equations 1 to 3. One radial function stands for the
    slightly different transfer of each tilt, as in subtomogram averaging before per-tilt correction.
    """
    wavelength = electron_wavelength(voltage)
    along_z, along_y, along_x = frequencies
    squared = along_z**2 + along_y**2 + along_x**2
    aberration = spherical_aberration * 1e7 * wavelength**2 / 2
    phase = np.float32(np.pi * wavelength) * squared * (np.float32(defocus) - np.float32(aberration) * squared)
    transfer = -(np.sqrt(1 - amplitude_contrast**2) * np.sin(phase) + amplitude_contrast * np.cos(phase))
    return np.asarray(transfer * np.exp(squared * np.float32(-b_factor / 4)), dtype=np.float32)


def tilt_range_mask(frequencies: Frequencies, tilt_range: float) -> NDArray[np.bool_]:
    """Say which spatial frequencies a tilt series around Y has measured.

    A projection at tilt t fills the plane ``kz = kx tan(t)`` (central slice theorem), so what lies steeper than the
    largest tilt is never seen: the missing wedge.

    Parameters
    ----------
    frequencies : tuple of ndarray
        From `spatial_frequencies`, in 1/Å.
    tilt_range : float
        Largest tilt in degrees, 0 to 90, reached on both sides.

    Returns
    -------
    ndarray of bool
        Shape (Z, 1, X // 2 + 1), true where measured. The missing wedge is the same at every Y frequency.
    """
    along_z, _, along_x = frequencies
    if tilt_range >= 90:
        return np.ones((along_z.shape[0], 1, along_x.shape[2]), dtype=np.bool_)
    return np.asarray(np.abs(along_z) <= np.abs(along_x) * np.float32(np.tan(np.radians(tilt_range))) + 1e-9)


def image_density(density: NDArray[np.float32], transfer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a density as the microscope shows it: multiplied by a transfer function in Fourier space.

    Parameters
    ----------
    density : ndarray of float32
        ZYX, any unit.
    transfer : ndarray of float32
        Broadcasts to (Z, Y, X // 2 + 1).

    Returns
    -------
    ndarray of float32
        ZYX, same shape. The volume is taken as periodic, so that nothing leaks into the missing wedge.
    """
    from scipy import fft

    spectrum = fft.rfftn(density, axes=_FFT_AXES)
    spectrum *= transfer
    return np.asarray(fft.irfftn(spectrum, s=density.shape, axes=_FFT_AXES), dtype=np.float32)


def noise_spectrum(
    generator: np.random.Generator,
    shape: tuple[int, int, int],
    frequencies: Frequencies,
    *,
    voxel_size: float,
    roughness: NDArray[np.float32],
) -> NDArray[np.complex64]:
    """Return the half spectrum of Gaussian noise, coloured as in a weighted back-projection.

    Its amplitude falls to one half at Nyquist, as a detector's transfer and interpolation make it fall, and rises by
    one half below 1/400 Å, where uneven ice and dose add to it. The missing wedge is *not* cut out here.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of the noise.
    shape : tuple of int
        ZYX, in voxels.
    frequencies : tuple of ndarray
        From `spatial_frequencies`, in 1/Å.
    voxel_size : float
        Edge of the cubic voxel in Å.
    roughness : ndarray of float32
        Local standard deviation, broadcast to ZYX: thicker ice scatters more.

    Returns
    -------
    ndarray of complex64
        The half spectrum, (Z, Y, X // 2 + 1), ready to be masked and transformed.
    """
    from scipy import fft

    white = generator.standard_normal(shape, dtype=np.float32)
    white *= roughness
    along_z, along_y, along_x = frequencies
    squared = along_z**2 + along_y**2 + along_x**2
    nyquist = 0.5 / voxel_size
    amplitude = np.exp(squared * np.float32(-np.log(2.0) / nyquist**2))
    amplitude += np.float32(0.5) * np.exp(squared * np.float32(-0.5 * 400.0**2))
    return np.asarray(fft.rfftn(white, axes=_FFT_AXES) * amplitude, dtype=np.complex64)

"""The objects of a synthetic tomogram, before any microscope: membranes, microtubules, ribosomes and what lies between.

Positions are in Å, ordered ZYX, measured from the centre of voxel 0. Density is in units of solid protein against ice:
1 means that protein fills the voxel. Protein takes 1.21 Å³ per dalton (Harpaz, Gerstein and Chothia, Structure 2,
1994).
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

MEMBRANE: Final = 1
MICROTUBULE: Final = 2
RIBOSOME: Final = 3

BILAYER_SPACING: Final = 38.0
"""Distance between the two leaflets' density peaks in Å."""

LEAFLET_DEVIATION: Final = 8.5
"""Standard deviation of one leaflet's Gaussian profile in Å (20 Å at half height)."""

MEMBRANE_THICKNESS: Final = 60.0
"""Thickness of the membrane label in Å: both leaflets to their outer half height, 38 + 20 Å."""

MICROTUBULE_RADIUS: Final = 125.0
"""Outer radius in Å. The label is the filled tube, as filament tracing draws it: lumen included."""

LUMEN_RADIUS: Final = 75.0
PROTOFILAMENTS: Final = 13
MONOMER_RISE: Final = 40.9
"""Length of one tubulin monomer along its protofilament in Å; the dimer repeats every 8.2 nm."""

HELIX_PITCH: Final = 3 * MONOMER_RISE
"""A 13-protofilament lattice closes after three monomers: the 3-start helix."""

TUBULIN_VOLUME: Final = 50_000 * 1.21
RIBOSOME_VOLUME: Final = (1_300_000 + 1.6 * 2_000_000) * 1.21
"""Of a eukaryotic ribosome, in Å³ of protein; its RNA counts 1.6 times (1.8 against 1.35 g/cm³, both over ice)."""

RIBOSOME_SPACE: Final = 150.0
"""Radius in Å of the sphere that no other object may enter."""

BEAD_DEVIATION: Final = 11.0
"""Standard deviation in Å of the Gaussian that each bead of protein becomes."""

Vectors = NDArray[np.float64]


@attrs.define(kw_only=True)
class Scene:
    """A volume being filled.

    Attributes
    ----------
    shape : tuple of int
        ZYX, in voxels.
    voxel_size : float
        Edge of the cubic voxel in Å.
    generator : numpy.random.Generator
        Source of every random choice.
    density : ndarray of float32
        ZYX; continuous densities (membranes). Beads join it in `total_density`.
    truth : ndarray of uint8
        ZYX; 0 where nothing labelled lies.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    generator: np.random.Generator
    density: NDArray[np.float32] = attrs.field(init=False)
    truth: NDArray[np.uint8] = attrs.field(init=False)
    _bead_positions: list[Vectors] = attrs.field(init=False, factory=list)
    _bead_volumes: list[Vectors] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.density = np.zeros(self.shape, dtype=np.float32)
        self.truth = np.zeros(self.shape, dtype=np.uint8)

    @property
    def extent(self) -> Vectors:
        """Edge lengths in Å, ZYX."""
        return np.array(self.shape) * self.voxel_size

    def add_beads(self, positions: Vectors, volumes: Vectors) -> None:
        """Add protein as beads: positions in Å, shape (n, 3), and the volume of each in Å³, shape (n,)."""
        self._bead_positions.append(positions)
        self._bead_volumes.append(volumes)

    def total_density(self) -> NDArray[np.float32]:
        """Return everything placed so far, ZYX, in units of solid protein."""
        positions = np.concatenate(self._bead_positions)
        volumes = np.concatenate(self._bead_volumes)
        return self.density + bead_density(
            positions, volumes, shape=self.shape, voxel_size=self.voxel_size, deviation=BEAD_DEVIATION
        )

    def region_around(self, centre: Vectors, radius: float) -> tuple[slice, slice, slice] | None:
        """Return the voxels within `radius` Å of `centre` as ZYX slices, or None if there are none."""
        first = np.maximum(np.floor((centre - radius) / self.voxel_size).astype(int), 0)
        last = np.minimum(np.ceil((centre + radius) / self.voxel_size).astype(int) + 1, self.shape)
        if np.any(last - first < 2):
            return None
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])

    def offsets(self, region: tuple[slice, slice, slice], centre: Vectors) -> list[NDArray[np.float32]]:
        """Return the three ZYX components of voxel centre minus `centre` in Å, broadcastable over `region`."""
        axes = []
        for axis, along in enumerate(region):
            values = np.arange(along.start, along.stop) * self.voxel_size - centre[axis]
            axes.append(values.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)]))
        return axes


def bead_density(
    positions: Vectors, volumes: Vectors, *, shape: tuple[int, int, int], voxel_size: float, deviation: float
) -> NDArray[np.float32]:
    """Spread beads of protein over a volume: trilinear deposit, then a Gaussian.

    Parameters
    ----------
    positions : ndarray
        ZYX in Å, shape (n, 3); beads outside the volume are dropped.
    volumes : ndarray
        Protein volume of each bead in Å³, shape (n,).
    shape : tuple of int
        ZYX, in voxels.
    voxel_size : float
        Edge of the cubic voxel in Å.
    deviation : float
        Standard deviation of the Gaussian in Å.

    Returns
    -------
    ndarray of float32
        ZYX, in units of solid protein.
    """
    from scipy import ndimage

    in_voxels = positions / voxel_size
    inside = np.all((in_voxels >= 0) & (in_voxels < np.array(shape) - 1), axis=1)
    in_voxels, weights = in_voxels[inside], volumes[inside] / voxel_size**3
    corner = np.floor(in_voxels).astype(np.intp)
    fraction = in_voxels - corner
    grid = np.zeros(shape, dtype=np.float32)
    for step in np.ndindex(2, 2, 2):
        share = np.prod(np.where(step, fraction, 1 - fraction), axis=1)
        index = np.ravel_multi_index(tuple((corner + step).T), shape)
        np.add.at(grid.reshape(-1), index, (weights * share).astype(np.float32))
    return np.asarray(ndimage.gaussian_filter(grid, deviation / voxel_size, mode="constant", truncate=3.0))


def random_directions(generator: np.random.Generator, count: int) -> Vectors:
    """Return unit vectors spread evenly over the sphere, shape (count, 3)."""
    vectors = generator.standard_normal((count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def random_rotation(generator: np.random.Generator) -> Vectors:
    """Return a rotation matrix drawn evenly from all rotations, shape (3, 3)."""
    orthogonal, upper = np.linalg.qr(generator.standard_normal((3, 3)))
    orthogonal *= np.sign(np.diag(upper))
    orthogonal[:, 0] *= np.linalg.det(orthogonal)
    return np.asarray(orthogonal)

"""How each object of a synthetic tomogram is placed and drawn into a scene."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.demo.scene import (
    BILAYER_SPACING,
    HELIX_PITCH,
    LEAFLET_DEVIATION,
    LUMEN_RADIUS,
    MEMBRANE,
    MEMBRANE_THICKNESS,
    MICROTUBULE,
    MICROTUBULE_RADIUS,
    MONOMER_RISE,
    PROTOFILAMENTS,
    RIBOSOME,
    RIBOSOME_SPACE,
    RIBOSOME_VOLUME,
    TUBULIN_VOLUME,
    Scene,
    Vectors,
    bead_density,
    random_directions,
    random_rotation,
)

_PLACING_ATTEMPTS = 300

_COARSE = 4
"""Voxels along an edge of the blocks in which room for ribosomes is sought."""

_BEAD_DALTONS = 20_000
"""Mass of one bead: with `BEAD_DEVIATION` its middle has about the density of solid protein."""

_RIBOSOME_EDGE = 0.13
"""Density, smoothed with 22 Å, at which a ribosome's label ends; makes it about 27 nm across."""


@attrs.frozen(kw_only=True, eq=False)
class Vesicle:
    """A closed membrane: an ellipsoid with gentle bumps.

    Attributes
    ----------
    centre : ndarray
        ZYX in Å, shape (3,).
    semi_axes : ndarray
        Along Z, Y and X in Å, shape (3,), to the middle of the bilayer.
    bump_directions, bump_amplitudes, bump_frequencies, bump_phases : ndarray
        The radius in direction u is scaled by ``1 + sum(a sin(f u.e + p))``; shapes (n, 3) and (n,).
    """

    centre: Vectors
    semi_axes: Vectors
    bump_directions: Vectors
    bump_amplitudes: Vectors
    bump_frequencies: Vectors
    bump_phases: Vectors

    @property
    def reach(self) -> float:
        """Radius in Å of a sphere that holds the whole vesicle, label included."""
        return float(self.semi_axes.max() * (1 + np.abs(self.bump_amplitudes).sum()) + MEMBRANE_THICKNESS)

    def scale(self, directions: Vectors) -> Vectors:
        """Return the factor on the radius in unit directions of shape (n, 3)."""
        along = directions @ self.bump_directions.T
        return np.asarray(1 + np.sin(along * self.bump_frequencies + self.bump_phases) @ self.bump_amplitudes)

    def signed_distance(self, scene: Scene, region: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """Return the distance to the middle of the bilayer in Å over a region, negative inside.

        The implicit function divided by the length of its gradient: exact to first order, which is what a layer that
        is thin against its radius of curvature needs.
        """
        offsets = scene.offsets(region, self.centre)
        scaled = [part / np.float32(axis) for part, axis in zip(offsets, self.semi_axes, strict=True)]
        radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
        inverse = 1 / np.maximum(radius, np.float32(1e-3))
        surface = np.ones_like(radius)
        for direction, amplitude, frequency, phase in zip(
            self.bump_directions.astype(np.float32),
            self.bump_amplitudes.astype(np.float32),
            self.bump_frequencies.astype(np.float32),
            self.bump_phases.astype(np.float32),
            strict=True,
        ):
            along = (scaled[0] * direction[0] + scaled[1] * direction[1] + scaled[2] * direction[2]) * inverse
            surface += amplitude * np.sin(along * frequency + phase)
        implicit = radius - surface
        slopes = np.gradient(implicit, scene.voxel_size)
        steepness = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2)
        return np.asarray(implicit / np.maximum(steepness, 1e-6), dtype=np.float32)


def place_microtubules(scene: Scene, count: int) -> list[Vectors]:
    """Place microtubules mostly in the plane of the specimen, apart from each other, and draw them.

    Returns
    -------
    list of ndarray
        Each one's centre line, ZYX in Å, shape (n, 3), sampled every half voxel.
    """
    lines: list[Vectors] = []
    for _ in range(_PLACING_ATTEMPTS):
        if len(lines) == count:
            break
        line = _random_centre_line(scene)
        clear = all(_closest(line, other) > 2 * MICROTUBULE_RADIUS + 60 for other in lines)
        if len(line) > 60 and clear:
            lines.append(line)
            _draw_microtubule(scene, line)
    return lines


def place_vesicles(
    scene: Scene, count: int, radii: tuple[float, float], lines: list[Vectors], taken: list[Vesicle]
) -> None:
    """Place vesicles beside microtubules and each other, nested ones allowed, and draw them.

    Parameters
    ----------
    scene : Scene
        Where to draw.
    count : int
        How many; fewer where there is no room.
    radii : tuple of float
        Smallest and largest mean radius in Å.
    lines : list of ndarray
        Centre lines of the microtubules, ZYX in Å.
    taken : list of Vesicle
        Those placed before; the new ones are appended.
    """
    generator = scene.generator
    wanted = len(taken) + count
    for _ in range(_PLACING_ATTEMPTS):
        if len(taken) == wanted:
            break
        mean_radius = generator.uniform(*radii)
        bumps = 4
        vesicle = Vesicle(
            centre=generator.uniform(-0.2, 1.2, 3) * scene.extent,
            semi_axes=mean_radius * generator.uniform(0.85, 1.18, 3),
            bump_directions=random_directions(generator, bumps),
            bump_amplitudes=generator.uniform(0.01, 0.035, bumps),
            bump_frequencies=generator.uniform(1.5, 4.0, bumps),
            bump_phases=generator.uniform(0, 2 * np.pi, bumps),
        )
        visible = np.all((vesicle.centre > -0.6 * mean_radius) & (vesicle.centre < scene.extent + 0.6 * mean_radius))
        off_lines = all(
            np.linalg.norm(line - vesicle.centre, axis=1).min() > vesicle.reach + MICROTUBULE_RADIUS + 20
            for line in lines
        )
        off_others = all(_apart(vesicle, other) for other in taken)
        if visible and off_lines and off_others:
            taken.append(vesicle)
            _draw_vesicle(scene, vesicle)


def place_ribosomes(scene: Scene, count: int) -> None:
    """Place ribosomes where nothing labelled lies, and draw them with their label."""
    generator = scene.generator
    template = _ribosome_template(generator)
    free = _distance_to_objects(scene)
    coarse = scene.voxel_size * _COARSE
    all_beads = []
    for _ in range(count):
        room = np.argwhere(free > RIBOSOME_SPACE)
        if len(room) == 0:
            break
        centre = room[generator.integers(len(room))] * coarse
        centre = centre + generator.uniform(0, coarse, 3)
        all_beads.append(template @ random_rotation(generator).T + centre)
        away = np.linalg.norm(np.moveaxis(np.indices(free.shape), 0, -1) * coarse - centre, axis=-1)
        free = np.minimum(free, away - RIBOSOME_SPACE)
    if not all_beads:
        return
    positions = np.concatenate(all_beads)
    volumes = np.full(len(positions), RIBOSOME_VOLUME / len(template))
    scene.add_beads(positions, volumes)
    envelope = bead_density(positions, volumes, shape=scene.shape, voxel_size=scene.voxel_size, deviation=22.0)
    scene.truth[(envelope > _RIBOSOME_EDGE) & (scene.truth == 0)] = RIBOSOME


def fill_with_proteins(scene: Scene, per_cubic_micron: float) -> None:
    """Fill the space with unlabelled proteins of 20 to 400 kDa.

    Parameters
    ----------
    scene : Scene
        Where to draw.
    per_cubic_micron : float
        Proteins per µm³.
    """
    generator = scene.generator
    count = int(per_cubic_micron * np.prod(scene.extent / 1e4))
    centres = generator.uniform(0, 1, (count, 3)) * scene.extent
    daltons = np.exp(generator.uniform(np.log(2e4), np.log(4e5), count))
    subunits = np.ceil(daltons / _BEAD_DALTONS).astype(int)
    radius = np.cbrt(daltons * 1.21 * 3 / (4 * np.pi))
    owner = np.repeat(np.arange(count), subunits)
    scatter = generator.normal(0, 0.5, (len(owner), 3)) * radius[owner, None] * (subunits[owner, None] > 1)
    index = np.clip((centres / scene.voxel_size).astype(int), 0, np.array(scene.shape) - 1)
    outside = scene.truth[tuple(index.T)] == 0
    keep = outside[owner]
    scene.add_beads((centres[owner] + scatter)[keep], (daltons * 1.21 / subunits)[owner][keep])


def place_actin(scene: Scene, count: int) -> None:
    """Place actin filaments, unlabelled: 7 nm thick, 2.75 nm a subunit, turning by -166.7 degrees.

    They make sure that not everything long and thin is called a microtubule.
    """
    for _ in range(count):
        line = _random_centre_line(scene)
        along = np.arange(len(line)) * scene.voxel_size / 2
        subunit = np.arange(0, along[-1], 27.5)
        axis_points = np.stack([np.interp(subunit, along, line[:, i]) for i in range(3)], axis=1)
        _, across, upward = _frame(line[-1] - line[0])
        turn = np.radians(-166.7) * np.arange(len(subunit))[:, None]
        outward = np.cos(turn) * across + np.sin(turn) * upward
        beads = np.concatenate([axis_points + 12.0 * outward, axis_points + 28.0 * outward])
        index = np.clip((beads / scene.voxel_size).astype(int), 0, np.array(scene.shape) - 1)
        beads = beads[scene.truth[tuple(index.T)] == 0]
        scene.add_beads(beads, np.full(len(beads), 21_000 * 1.21))


def _apart(vesicle: Vesicle, other: Vesicle) -> bool:
    distance = float(np.linalg.norm(vesicle.centre - other.centre))
    beside = distance > vesicle.reach + other.reach - MEMBRANE_THICKNESS
    small, large = sorted((vesicle, other), key=lambda each: each.reach)
    inner_reach = large.semi_axes.min() * (1 - np.abs(large.bump_amplitudes).sum()) - MEMBRANE_THICKNESS
    nested = distance + small.reach < inner_reach
    return beside or bool(nested)


def _closest(line: Vectors, other: Vectors) -> float:
    coarse, reference = line[::10], other[::10]
    return float(np.sqrt(((coarse[:, None] - reference[None]) ** 2).sum(axis=2).min()))


def _frame(direction: Vectors) -> tuple[Vectors, Vectors, Vectors]:
    """Return `direction` as a unit vector and two more at right angles to it."""
    forward = direction / np.linalg.norm(direction)
    aside = np.array([1.0, 0.0, 0.0]) if abs(forward[0]) < 0.8 else np.array([0.0, 1.0, 0.0])
    across = np.cross(forward, aside)
    across /= np.linalg.norm(across)
    return forward, across, np.cross(forward, across)


def _random_centre_line(scene: Scene) -> Vectors:
    """Return an arc through the volume, cut at its faces or, one time in four, ending inside."""
    generator = scene.generator
    azimuth, incline = generator.uniform(0, np.pi), np.radians(generator.normal(0, 8))
    direction = np.array([np.sin(incline), np.cos(incline) * np.sin(azimuth), np.cos(incline) * np.cos(azimuth)])
    bend = np.cross(random_directions(generator, 1)[0], direction)
    curvature = 1 / generator.uniform(8_000, 40_000)
    middle = generator.uniform(0.08, 0.92, 3) * scene.extent
    half_length = float(np.linalg.norm(scene.extent))
    along = np.arange(-half_length, half_length, scene.voxel_size / 2)[:, None]
    line = middle + along * direction + 0.5 * curvature * along**2 * bend
    inside = np.all((line > 0) & (line < scene.extent), axis=1)
    start = int(np.argmin(np.abs(along)))
    first = start - int(np.argmin(inside[start::-1])) + 1
    last = start + int(np.argmin(inside[start:]))
    line = line[first:last]
    if generator.uniform() < 0.25:
        line = line[: int(len(line) * generator.uniform(0.5, 0.9))]
    return np.asarray(line)


def _draw_microtubule(scene: Scene, line: Vectors) -> None:
    spacing = scene.voxel_size / 2
    along = np.arange(len(line)) * spacing
    radius = (MICROTUBULE_RADIUS + LUMEN_RADIUS) / 2
    polarity = scene.generator.uniform(0, 2 * np.pi)
    forward, across, upward = _frame(line[-1] - line[0])
    for protofilament in range(PROTOFILAMENTS):
        angle = 2 * np.pi * protofilament / PROTOFILAMENTS
        stagger = HELIX_PITCH * protofilament / PROTOFILAMENTS
        rises = np.arange(stagger % (2 * MONOMER_RISE), along[-1], MONOMER_RISE)
        outward = np.cos(angle + polarity) * across + np.sin(angle + polarity) * upward
        axis_points = np.stack([np.interp(rises, along, line[:, i]) for i in range(3)], axis=1)
        # alpha and beta tubulin look alike at this resolution; the difference stands for the 8 nm repeat of a lattice
        # that carries other proteins
        share = np.where(np.arange(len(rises)) % 2, 1.15, 0.85) * TUBULIN_VOLUME
        for shift in (-9.0, 9.0):
            for lift in (-6.0, 6.0):
                scene.add_beads(axis_points + (radius + shift) * outward + lift * forward, share / 4)
    _paint_tube(scene, line[::2], MICROTUBULE_RADIUS, MICROTUBULE)


def _paint_tube(scene: Scene, line: Vectors, radius: float, label: int) -> None:
    """Paint one disc per point of a centre line that is sampled every voxel, so that the ends are flat."""
    tangents = np.gradient(line, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    for point, tangent in zip(line, tangents.astype(np.float32), strict=True):
        region = scene.region_around(point, radius)
        if region is not None:
            depth, height, width = scene.offsets(region, point)
            lengthwise = np.abs(depth * tangent[0] + height * tangent[1] + width * tangent[2]) <= 0.8 * scene.voxel_size
            crosswise = depth**2 + height**2 + width**2 <= radius**2
            scene.truth[region][lengthwise & crosswise] = label


def _draw_vesicle(scene: Scene, vesicle: Vesicle) -> None:
    from scipy import ndimage

    region = scene.region_around(vesicle.centre, vesicle.reach)
    if region is None:
        return
    generator = scene.generator
    distance = vesicle.signed_distance(scene, region)
    half = np.float32(BILAYER_SPACING / 2)
    profile = np.exp(-0.5 * ((distance - half) / LEAFLET_DEVIATION) ** 2)
    profile += np.exp(-0.5 * ((distance + half) / LEAFLET_DEVIATION) ** 2)
    texture = ndimage.gaussian_filter(generator.standard_normal(distance.shape, dtype=np.float32), 2.0)
    profile *= 1 + np.float32(0.25) * texture / texture.std()
    scene.density[region] += profile.astype(np.float32)
    scene.truth[region][np.abs(distance) <= MEMBRANE_THICKNESS / 2] = MEMBRANE
    # one domain of 20 kDa of a membrane protein for each 60 nm², on either side
    count = int(4 * np.pi * np.mean(vesicle.semi_axes) ** 2 / 6_000)
    directions = random_directions(generator, count)
    side = generator.choice([-1.0, 1.0], count) * generator.uniform(15, 38, count)
    positions = vesicle.centre + directions * vesicle.semi_axes * vesicle.scale(directions)[:, None]
    scene.add_beads(positions + directions * side[:, None], np.full(count, _BEAD_DALTONS * 1.21))


def _ribosome_template(generator: np.random.Generator) -> Vectors:
    """Return beads of a ribosome in Å about its middle, shape (n, 3): a large subunit, a small one, a cleft between."""
    cloud = generator.uniform(-150, 150, (60_000, 3))
    large = (((cloud - [0, 0, -38]) / [112, 106, 92]) ** 2).sum(axis=1)
    small = (((cloud - [8, 0, 82]) / [108, 66, 48]) ** 2).sum(axis=1)
    waves = random_directions(generator, 10) * (2 * np.pi / generator.uniform(60, 110, (10, 1)))
    texture = np.cos(cloud @ waves.T + generator.uniform(0, 2 * np.pi, 10)).sum(axis=1)
    filled = (np.minimum(large, small) < 1 + 0.06 * texture) & (texture > -1.5)
    return np.asarray(cloud[filled])


def _distance_to_objects(scene: Scene) -> NDArray[np.float64]:
    """Return, per coarse block, the distance in Å to the next label or to the volume's faces."""
    from scipy import ndimage

    depth, height, width = (size // _COARSE for size in scene.shape)
    blocks = scene.truth[: depth * _COARSE, : height * _COARSE, : width * _COARSE]
    blocks = blocks.reshape(depth, _COARSE, height, _COARSE, width, _COARSE)
    empty = np.pad(blocks.max(axis=(1, 3, 5)) == 0, 1)
    distance = ndimage.distance_transform_edt(empty, sampling=scene.voxel_size * _COARSE)
    return np.asarray(distance[1:-1, 1:-1, 1:-1])

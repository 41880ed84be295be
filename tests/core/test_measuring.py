"""The judges: scipy on the whole volume at once, and the formulas for spheres and slabs."""

import math

import numpy as np
import pytest
from scipy import ndimage

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import name_labels
from cryomamba_core.measuring import labels as measuring
from cryomamba_core.measuring.labels import measure_labels

NAMES = name_labels({0: "background", 1: "one", 2: "two", 3: "three"})


@pytest.fixture(params=[1, 700, 10**9], ids=["a section a slab", "a few sections a slab", "one slab"])
def slab_voxels(request, monkeypatch):
    monkeypatch.setattr(measuring, "SLAB_VOXELS", request.param)


def grid_of(labels, voxel_size=(10.0, 10.0, 10.0), origin=(0.0, 0.0, 0.0)):
    return VoxelGrid(shape=labels.shape, voxel_size=voxel_size, origin=origin)


def random_labels(density):
    rng = np.random.default_rng(5)
    return (rng.integers(1, 4, (19, 23, 17)) * (rng.random((19, 23, 17)) < density)).astype(np.uint8)


@pytest.mark.usefixtures("slab_voxels")
@pytest.mark.parametrize("density", [0.02, 0.1, 0.6])
def test_voxels_pieces_boxes_and_centroids_are_those_of_scipy_on_the_whole_volume(density):
    labels = random_labels(density)
    grid = grid_of(labels, (12.0, 10.0, 8.0), (100.0, -50.0, 7.0))
    for found in measure_labels(labels, grid, NAMES):
        mask = labels == found.value
        _, pieces = ndimage.label(mask, np.ones((3, 3, 3)))
        assert found.voxels == int(mask.sum())
        assert found.components == pieces
        assert found.bounding_box.slices == ndimage.find_objects(mask.astype(np.uint8))[0]
        assert found.centroid == pytest.approx(grid.position(ndimage.center_of_mass(mask)))
        assert found.volume_nm3 == pytest.approx(found.voxels * 0.96)


@pytest.mark.usefixtures("slab_voxels")
def test_the_surface_does_not_depend_on_how_the_volume_is_cut(monkeypatch):
    labels = random_labels(0.3)
    cut = measure_labels(labels, grid_of(labels), NAMES)
    monkeypatch.setattr(measuring, "SLAB_VOXELS", 10**9)
    assert [s.surface_area_nm2 for s in cut] == [
        s.surface_area_nm2 for s in measure_labels(labels, grid_of(labels), NAMES)
    ]


@pytest.mark.parametrize("voxel_size", [(10, 10, 10), (20, 10, 10), (30, 10, 5)])
def test_the_surface_of_a_sphere_is_found_within_one_percent(voxel_size):
    radius = 350.0  # Å: over ten voxels on every axis, where the estimator's own error is below 0.5 %
    z, y, x = ((np.arange(int(2.4 * radius / step)) - 1.2 * radius / step + 0.3) * step for step in voxel_size)
    labels = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2).astype(np.uint8)
    found = measure_labels(labels, grid_of(labels, voxel_size), NAMES[:1])[0]
    assert found.surface_area_nm2 == pytest.approx(4 * math.pi * radius**2 / 100, rel=0.01)


def test_a_flat_wall_along_an_axis_comes_out_eight_percent_too_small_as_documented():
    labels = np.zeros((20, 300, 300), np.uint8)
    labels[10:] = 1
    found = measure_labels(labels, grid_of(labels), NAMES[:1])[0]
    assert found.surface_area_nm2 == pytest.approx(0.92 * 300**2, rel=0.01)  # the open edges of the wall count less


def test_the_faces_of_the_volume_are_no_surface():
    labels = np.ones((5, 6, 7), np.uint8)
    assert measure_labels(labels, grid_of(labels), NAMES[:1])[0].surface_area_nm2 == 0


def test_a_label_that_does_not_occur_has_no_place():
    labels = np.zeros((3, 4, 5), np.uint8)
    found = measure_labels(labels, grid_of(labels), NAMES)[1]
    assert (found.voxels, found.components, found.bounding_box, found.centroid) == (0, 0, None, None)


@pytest.mark.usefixtures("slab_voxels")
def test_a_spiral_through_all_sections_is_one_piece():
    labels = np.zeros((30, 20, 20), np.uint8)
    for z in range(30):
        labels[z, 10 + round(6 * math.sin(z / 6)), 10 + round(6 * math.cos(z / 6))] = 1
    assert measure_labels(labels, grid_of(labels), NAMES[:1])[0].components == 1


@pytest.mark.usefixtures("slab_voxels")
def test_two_arms_that_meet_in_a_later_section_are_one_piece():
    labels = np.zeros((9, 5, 9), np.uint8)
    labels[:8, 2, 1] = labels[:8, 2, 7] = 1
    labels[8, 2, 1:8] = 1
    assert measure_labels(labels, grid_of(labels), NAMES[:1])[0].components == 1


def test_labels_of_sixteen_bits_are_measured():
    labels = np.zeros((3, 4, 5), np.uint16)
    labels[1, 2, 3] = 300
    names = name_labels({300: "high"})
    found = measure_labels(labels, grid_of(labels), names)[0]
    assert (found.voxels, found.components) == (1, 1)


def test_the_pass_can_be_stopped_between_slabs(monkeypatch):
    monkeypatch.setattr(measuring, "SLAB_VOXELS", 1)
    done = []

    def stop(sections):
        done.append(sections)
        raise KeyboardInterrupt

    labels = np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        measure_labels(labels, grid_of(labels), NAMES, on_slab=stop)
    assert done == [1]

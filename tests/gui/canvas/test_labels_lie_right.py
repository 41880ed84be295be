"""Previews and masks lie over what they label, to the voxel."""

import numpy as np
import pytest
from staged import LABELS, make_mask, make_preview, noise

from cryomamba_core.geometry import VoxelGrid
from cryomamba_gui.canvas.previewing import Voxels

#: Odd, even, and one that no factor divides.
SHAPES = [(12, 21, 18), (13, 17, 19), (16, 16, 16)]


def pattern(shape, seed=1):
    """Labels in blobs, so that neighbours differ."""
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def positions(grid):
    """300 fine voxels in the order of sections, and a position anywhere within each."""
    random = np.random.default_rng(7)
    indices = random.integers(0, grid.shape, (300, 3))
    for index in indices[indices[:, 0].argsort()]:
        yield index, np.array(grid.position(index + np.array([0, *random.uniform(-0.49, 0.49, 2)])))


def look_up(layer, position):
    return layer.get_value(position, world=True) or 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("origin", [(0, 0, 0), (-123.4, 56.7, 1000)])
def test_each_fine_voxel_has_the_label_of_its_coarse_voxel(viewer, stand, shape, origin):
    stage = stand(noise(shape), voxel_size=(10, 8, 12.5), origin=origin)
    grid = stage.tomogram.grid
    for factor in (1, 2, 3, 4):
        preview = make_preview(pattern(shape), grid, factor)
        array = preview.labels()
        stage.show_preview(preview, LABELS, Voxels(array))
        wrong = 0
        for index, position in positions(grid):
            viewer.dims.set_point(0, grid.position(index)[0])
            wrong += look_up(stage.preview, position) != array[tuple(index // factor)]
        assert wrong == 0


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_each_section_shows_the_labels_that_cover_it(viewer, stand, factor):
    shape = (13, 17, 19)
    stage = stand(noise(shape), voxel_size=(10, 8, 12.5), origin=(33, -7, 5))
    array = make_preview(pattern(shape), stage.tomogram.grid, factor).labels()
    stage.show_preview(make_preview(pattern(shape), stage.tomogram.grid, factor), LABELS, Voxels(array))
    for axis in range(3):
        viewer.dims.order = (axis, *(other for other in range(3) if other != axis))
        for section in range(shape[axis]):
            stage.stepper.go_to(section)
            assert stage.stepper.section == section
            np.testing.assert_array_equal(stage.preview._slice.image.raw, array.take(section // factor, axis))


def test_sliders_end_where_the_tomogram_ends(viewer, stand):
    shape = (13, 17, 19)
    stage = stand(noise(shape), origin=(5, 5, 5))
    before = viewer.dims.range
    preview = make_preview(pattern(shape), stage.tomogram.grid, 4)
    stage.show_preview(preview, LABELS, Voxels.of(preview))
    assert viewer.dims.range == before


@pytest.mark.parametrize("factor", [1, 3])
def test_on_the_canvas_a_label_covers_its_voxels_and_no_others(viewer, stand, pump, factor):
    shape = (9, 30, 40)
    stage = stand(noise(shape), origin=(0, 70, -40))
    grid = stage.tomogram.grid
    stage.image.visible = False
    viewer.canvas.overlays.scale_bar.visible = False
    labels = np.zeros(shape, np.uint8)
    labels[3:6, 12:18, 21:30] = 1
    preview = make_preview(labels, grid, factor)
    stage.show_preview(preview, LABELS, Voxels.of(preview))
    stage.preview.opacity = 1.0
    stage.stepper.go_to(4)
    viewer.fit_to_view()
    picture = viewer.screenshot(canvas_only=True, flash=False)
    # the label's colour, and no other, is blue rather than grey
    coloured = (picture[..., 2].astype(int) - picture[..., 0]) > 60
    rows, columns = np.flatnonzero(coloured.any(1)), np.flatnonzero(coloured.any(0))
    assert coloured[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a full rectangle"
    scale = picture.shape[0] / viewer.canvas.size[0]
    zoom, centre = viewer.scene.camera.zoom * scale, viewer.scene.camera.center[-2:]
    top = (rows[0] - picture.shape[0] / 2) / zoom + centre[0]
    bottom = (rows[-1] + 1 - picture.shape[0] / 2) / zoom + centre[0]
    left = (columns[0] - picture.shape[1] / 2) / zoom + centre[1]
    right = (columns[-1] + 1 - picture.shape[1] / 2) / zoom + centre[1]
    expected = [*(70 + 10 * (12 - 0.5), 70 + 10 * (17 + 0.5)), *(-40 + 10 * (21 - 0.5), -40 + 10 * (29 + 0.5))]
    np.testing.assert_allclose([top, bottom, left, right], expected, atol=1.5 / zoom)


def test_a_mask_lies_on_its_own_grid(viewer, stand, tmp_path):
    shape = (9, 11, 13)
    stage = stand(noise(shape), origin=(100, 200, 300))
    labels = pattern(shape)
    with make_mask(tmp_path / "mask", labels, stage.tomogram.grid) as mask:
        stage.show_mask(mask)
        for index, position in positions(mask.grid):
            viewer.dims.set_point(0, mask.grid.position(index)[0])
            assert look_up(stage.mask, position) == labels[tuple(index)]
        stage.drop_mask()


def test_the_grid_of_a_preview_is_that_of_core():
    grid = VoxelGrid(shape=(9, 9, 9), voxel_size=(10, 10, 10), origin=(1, 2, 3))
    assert make_preview(np.zeros((9, 9, 9), np.uint8), grid, 4).grid.origin == (16, 17, 18)

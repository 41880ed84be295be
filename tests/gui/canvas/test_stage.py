"""The layers of a tomogram: where they lie, and which of them is shown when."""

import threading

import numpy as np
import pytest
from staged import LABELS, make_preview, noise, survey

from cryomamba_gui.canvas.previewing import Voxels
from cryomamba_gui.canvas.stage import Stage, stem

SHAPE = (12, 21, 18)


def names(viewer):
    return [layer.name for layer in viewer.layers]


def shown(viewer):
    return {layer.name for layer in viewer.layers if layer.visible}


async def attended(stage, nursery, settle):
    nursery.start_soon(stage.attend)
    await settle(lambda: len(stage.viewer.layers) == 4)


async def test_all_layers_are_there_soon_and_only_the_tomogram_is_seen(viewer, stand, settle, nursery):
    stage = stand(noise(SHAPE), voxel_size=(10, 8, 6), origin=(100, -50, 7))
    assert names(viewer) == ["tomo"], "the others come one by one, and nothing waits for them"
    await attended(stage, nursery, settle)
    assert names(viewer) == ["tomo", "tomo (3D)", "tomo preview", "tomo mask"]
    assert shown(viewer) == {"tomo"}
    assert viewer.layers.selection.active is stage.image
    for layer in stage.layers:
        assert not layer.multiscale
        assert str(layer.projection_mode) == "none"
        assert {str(unit) for unit in layer.units} == {"angstrom"}
        np.testing.assert_allclose(layer.extent.world, [[100, -50, 7], [210, 110, 109]])
    np.testing.assert_allclose(stage.image.scale, (10, 8, 6))
    np.testing.assert_allclose(stage.image.translate, (100, -50, 7))
    assert tuple(stage.image.contrast_limits) == pytest.approx(stage.tomogram.contrast)
    assert tuple(stage.image.contrast_limits_range) == pytest.approx(stage.tomogram.contrast_range)
    assert stage.overview.rendering == "mip"


def test_no_more_is_read_at_opening_than_the_sections_that_are_shown_and_sampled(viewer, stand, pump):
    stage = stand(noise((64, 200, 200)))
    pump(lambda: not stage.tomogram.planes.pending)
    whole = 64 * 200 * 200 * 4
    assert stage.tomogram.planes.bytes_read < whole / 3
    assert viewer.dims.current_step[0] == 31, "the middle section, which was read beforehand"


def test_a_second_tomogram_stands_beside_the_first(viewer, stand):
    stand(noise(SHAPE))
    second = stand(noise(SHAPE), name="other.mrc")
    preview = make_preview(np.ones(SHAPE, np.uint8), second.tomogram.grid, 2)
    second.show_preview(preview, LABELS, Voxels.of(preview))
    assert names(viewer) == ["tomo", "other", "other preview"]


@pytest.mark.parametrize(
    ("name", "expected"), [("a.mrc", "a"), ("a_1.5A.nii.gz", "a_1.5A"), ("plain", "plain"), (".mrc", ".mrc")]
)
def test_layers_are_named_after_the_file_without_its_format(name, expected):
    assert stem(name) == expected


def test_the_scale_bar_is_in_nanometres_and_the_menu_still_works(viewer, stand, pump):
    stand(noise((16, 400, 400)), voxel_size=(25, 25, 25))
    bar = viewer.canvas.overlays.scale_bar
    assert bar.visible
    # what is drawn is known to the visual only
    canvas = viewer.window._qt_viewer.canvas
    pump(lambda: bar in canvas._viewer_overlay_to_visual)
    text = canvas._viewer_overlay_to_visual[bar][0].node.text
    pump(lambda: str(text.text).endswith(("nm", "µm")))
    viewer.scene.camera.zoom *= 1000
    pump(lambda: str(text.text).endswith("pm") or "nm" in str(text.text))
    bar.visible = False
    assert not viewer.canvas.overlays.scale_bar.visible


def test_layers_of_others_keep_their_places(viewer, stand, pump):
    other = viewer.add_image(np.zeros((20, 20)), name="theirs", scale=(3, 3), translate=(5, 5))
    stage = stand(noise(SHAPE))
    pump(lambda: viewer.dims.ndim == 3)
    stage.remove()
    assert names(viewer) == ["theirs"]
    np.testing.assert_allclose(other.scale, (3, 3))
    assert other.visible


def test_in_3d_the_overview_is_shown_and_the_tomogram_never_read(viewer, stand, pump):
    stage = stand(noise((32, 64, 64)))
    pump(lambda: not stage.tomogram.planes.pending)
    survey(stage.tomogram)
    pump(lambda: stage.overview.data is stage.tomogram.overview.voxels)
    before = stage.tomogram.planes.bytes_read
    viewer.dims.ndisplay = 3
    assert shown(viewer) == {"tomo (3D)"}
    stage.image.visible = True  # a click on its eye
    assert shown(viewer) == {"tomo (3D)"}
    assert stage.tomogram.planes.bytes_read == before
    picture = viewer.screenshot(canvas_only=True, flash=False)
    assert picture[..., :3].max() > 100, "something is drawn"
    viewer.dims.ndisplay = 2
    assert shown(viewer) == {"tomo"}
    assert stage.tomogram.planes.bytes_read - before < 32 * 64 * 64 * 4


def test_what_the_user_hid_stays_hidden_in_3d_and_back(viewer, stand):
    stage = stand(noise(SHAPE))
    survey(stage.tomogram)
    stage.show_overview()
    stage.image.visible = False
    viewer.dims.ndisplay = 3
    assert shown(viewer) == set()
    stage.overview.visible = True
    assert shown(viewer) == {"tomo (3D)"}
    viewer.dims.ndisplay = 2
    assert shown(viewer) == {"tomo"}
    viewer.dims.ndisplay = 3
    stage.overview.visible = False
    viewer.dims.ndisplay = 2
    assert shown(viewer) == set()


def test_while_the_overview_is_made_the_canvas_says_so(viewer, stand, pump):
    stage = stand(noise((24, 48, 48)))
    viewer.dims.ndisplay = 3
    notice = viewer.canvas.overlays["cryomamba"]
    assert notice.visible
    assert "being read for 3D" in notice.text
    assert shown(viewer) == set()
    thread = threading.Thread(target=survey, args=(stage.tomogram,))
    thread.start()
    pump(lambda: shown(viewer) == {"tomo (3D)"})
    thread.join()
    assert not notice.visible
    zoom = viewer.scene.camera.zoom
    viewer.fit_to_view(layers=[stage.overview])
    assert viewer.scene.camera.zoom == pytest.approx(zoom), "the camera was fitted to it"


def test_what_is_said_of_one_tomogram_stays_when_another_is_ready_or_put_away(viewer, stand):
    first, second, third = (stand(noise(SHAPE), name=f"{name}.mrc") for name in ("first", "second", "third"))
    viewer.dims.ndisplay = 3
    notice = viewer.canvas.overlays["cryomamba"]
    assert [line.split()[0] for line in notice.text.splitlines()] == ["first", "second", "third"]
    survey(second.tomogram)
    second.show_overview()
    third.remove()
    assert notice.visible
    assert notice.text == "first is being read for 3D …"
    first.remove()
    assert not notice.visible


def test_a_stage_in_a_viewer_that_is_in_3d_already(viewer, stand, pump):
    viewer.dims.ndisplay = 3
    stage = stand(noise(SHAPE))
    assert shown(viewer) == set()
    survey(stage.tomogram)
    pump(lambda: shown(viewer) == {"tomo (3D)"})


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_every_order_of_axes_shows_its_planes(viewer, stand, pump, order):
    array = noise(SHAPE)
    stage = stand(array)
    viewer.dims.order = order
    viewer.dims.set_point(order[0], stage.tomogram.grid.position((5, 5, 5))[order[0]])
    plane = array.take(5, order[0])
    expected = plane if order[1] < order[2] else plane.T
    pump(lambda: np.array_equal(stage.image._slice.image.raw, expected))
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    assert shown(viewer) == {"tomo"}


def test_planes_that_arrive_in_a_burst_are_drawn_once_and_in_the_thread_of_qt(viewer, stand, pump):
    stage = stand(noise(SHAPE))
    pump(lambda: not stage.tomogram.planes.pending)
    threads = []
    stage.image.events.set_data.connect(lambda _: threads.append(threading.current_thread()))
    reader = threading.Thread(target=lambda: [stage.tomogram.planes.arrived.emit(0, 1) for _ in range(50)])
    reader.start()
    reader.join()
    pump(lambda: threads)
    pump(lambda: True)
    assert threads == [threading.main_thread()]


def test_removing_leaves_nothing_and_closes_nothing(viewer, stand, pump):
    stage = stand(noise(SHAPE))
    viewer.dims.ndisplay = 3
    assert viewer.canvas.overlays["cryomamba"].visible
    survey(stage.tomogram)
    stage.remove()
    stage.remove()
    assert not viewer.layers
    assert "Stage" not in repr(viewer.dims.events.ndisplay.callbacks)
    assert len(stage.tomogram.planes.arrived) == 0
    assert not viewer.canvas.overlays["cryomamba"].visible
    stage.tomogram.planes.arrived.emit(0, 1)
    pump(lambda: True)
    assert stage.tomogram.planes[3].shape == SHAPE[1:], "the tomogram is still open"
    again = Stage(viewer, stage.tomogram)
    again.appear()
    assert shown(viewer) == {"tomo (3D)"}
    again.remove()


def test_a_layer_that_the_user_deletes_is_missed_by_nobody(viewer, stand):
    stage = stand(noise(SHAPE))
    viewer.layers.remove(stage.image)
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    stage.remove()
    assert not viewer.layers

"""Previews come and go on the canvas."""

import threading

import numpy as np
import pytest
import trio
from attrs import evolve
from staged import LABELS, make_mask, make_preview, noise

from cryomamba_core.errors import StorageDamaged
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import name_labels
from cryomamba_gui.canvas.previewing import PreviewFeed, Voxels

SHAPE = (12, 20, 16)
GRID = VoxelGrid(shape=SHAPE, voxel_size=(10, 10, 10))


def show(stage, labels, factor, *, provisional=False, names=LABELS):
    preview = make_preview(labels, stage.tomogram.grid, factor, provisional=provisional)
    stage.show_preview(preview, names, Voxels.of(preview))
    return preview.labels()


def test_a_preview_of_the_same_shape_is_changed_in_place(viewer, stand):
    stage = stand(noise(SHAPE))
    show(stage, np.zeros(SHAPE, np.uint8), 2)
    data, controls = stage.preview.data, len(viewer.layers)
    drawn = []
    stage.preview.events.set_data.connect(lambda _: drawn.append(1))
    array = show(stage, np.ones(SHAPE, np.uint8), 2)
    assert stage.preview.data is data
    assert len(viewer.layers) == controls
    assert drawn == [1]
    np.testing.assert_array_equal(stage.preview.data, array)


@pytest.mark.parametrize("names", [LABELS, name_labels({1: "a", 300: "b"})])
def test_a_preview_of_another_factor_or_type_replaces_the_data(viewer, stand, names):
    stage = stand(noise(SHAPE))
    show(stage, np.zeros(SHAPE, np.uint8), 4)
    wide = np.full(SHAPE, names[-1].value, np.uint16)
    array = show(stage, wide, 2, names=names)
    assert stage.preview.data.dtype == np.uint16
    np.testing.assert_array_equal(stage.preview.data, array)
    np.testing.assert_allclose(stage.preview.scale, (20, 20, 20))
    colour = stage.preview.get_color(names[-1].value)
    assert [round(255 * float(part)) for part in colour[:3]] == list(bytes.fromhex(names[-1].color[1:]))


def test_a_provisional_preview_says_so_and_is_fainter(viewer, stand):
    stage = stand(noise(SHAPE))
    labels = np.ones(SHAPE, np.uint8)
    show(stage, labels, 2)
    assert stage.preview.name == "tomo preview"
    opacity = stage.preview.opacity
    show(stage, labels, 2, provisional=True)
    assert stage.preview.name == "tomo preview (provisional)"
    assert stage.preview.opacity < opacity
    show(stage, labels, 2)
    assert stage.preview.name == "tomo preview"
    assert stage.preview.opacity == pytest.approx(opacity)


def test_a_preview_is_shown_in_3d_too_and_dropping_it_hides_it(viewer, stand):
    stage = stand(noise(SHAPE))
    show(stage, np.ones(SHAPE, np.uint8), 2)
    assert stage.preview.visible
    viewer.dims.ndisplay = 3
    assert stage.preview.visible
    stage.preview.visible = False  # the user's wish holds for the next preview too
    show(stage, np.ones(SHAPE, np.uint8), 2)
    assert not stage.preview.visible
    stage.drop_preview()
    viewer.dims.ndisplay = 2
    assert not stage.preview.visible
    show(stage, np.ones(SHAPE, np.uint8), 2)
    assert stage.preview.visible, "it is that of another job"


def test_a_mask_takes_the_place_of_the_preview_and_back(viewer, stand, tmp_path):
    stage = stand(noise(SHAPE))
    show(stage, np.ones(SHAPE, np.uint8), 2)
    with make_mask(tmp_path / "mask", np.ones(SHAPE, np.uint8), stage.tomogram.grid) as mask:
        stage.show_mask(mask)
        assert (stage.mask.visible, stage.preview.visible) == (True, False)
        stage.drop_preview()
        assert stage.mask.visible
        show(stage, np.ones(SHAPE, np.uint8), 2)
        assert (stage.mask.visible, stage.preview.visible) == (False, True)
        assert stage.shown_mask is None
        assert stage.mask.data is not mask.array


async def test_the_feed_shows_the_newest_and_drops_what_waited(nursery):
    shown = []
    feed = PreviewFeed(lambda preview, labels, voxels: [shown.append((preview.sequence, labels, voxels.labels.shape))])
    for sequence in (1, 2, 3):
        feed.offer(make_preview(np.ones(SHAPE, np.uint8), GRID, 2, sequence=sequence), LABELS)
    nursery.start_soon(feed.run)
    while not shown:
        await trio.sleep(0.01)
    assert shown == [(3, LABELS, (6, 10, 8))]
    assert feed.dropped == 2


async def test_the_feed_decodes_in_a_thread_and_goes_on_after_a_damaged_preview(nursery):
    shown, damaged, threads = [], [], []
    good = make_preview(np.ones(SHAPE, np.uint8), GRID, 2)
    feed = PreviewFeed(lambda *_: [shown.append(threading.current_thread())])
    feed.damaged.connect(damaged.append)
    nursery.start_soon(feed.run)
    feed.offer(evolve(good, payload=b"rubbish"), LABELS)
    while not damaged:
        await trio.sleep(0.001)
    assert isinstance(damaged[0], StorageDamaged)

    def watched(_):
        threads.append(threading.current_thread())
        return good.labels()

    feed.offer(type("Watched", (), {"labels": watched, "companions": ()})(), LABELS)
    while not shown:
        await trio.sleep(0.001)
    assert shown == [threading.main_thread()]
    assert threads[0] is not threading.main_thread()


async def test_what_was_offered_before_is_forgotten_even_while_it_is_decoded(nursery):
    shown = []
    started, go_on = threading.Event(), threading.Event()
    good = make_preview(np.ones(SHAPE, np.uint8), GRID, 2)

    def slow(_):
        started.set()
        go_on.wait(60)
        return good.labels()

    feed = PreviewFeed(lambda preview, *_: [shown.append(preview)])
    nursery.start_soon(feed.run)
    feed.offer(type("Slow", (), {"labels": slow, "companions": ()})(), LABELS)
    await trio.to_thread.run_sync(started.wait)
    feed.forget()
    go_on.set()
    feed.offer(good, LABELS)
    while not shown:
        await trio.sleep(0.001)
    assert shown == [good]

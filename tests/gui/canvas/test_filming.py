"""Pictures and films of the canvas; other programs say whether they are right."""

import threading

import numpy as np
import pytest
import trio
from PIL import Image
from staged import make_mask, noise, survey

from cryomamba_core import durable
from cryomamba_core.errors import InvalidParameter, StorageError
from cryomamba_gui.canvas import filming
from cryomamba_gui.canvas import stage as stages
from cryomamba_gui.canvas.animated_png import AnimatedPng


def frames_of(path):
    with Image.open(path) as film:
        for index in range(getattr(film, "n_frames", 1)):
            film.seek(index)
            yield np.array(film.convert("RGB"))


@pytest.fixture
def solid(stand):
    """A stage in which a bright block lies off the axis."""
    array = noise((24, 32, 32)) * 0.01
    array[2:8, 4:28, 2:8] = 1
    stage = stand(array)
    survey(stage.tomogram)
    stage.show_overview()
    return stage


def camera(viewer):
    camera = viewer.scene.camera
    return (*camera.center, camera.zoom, *camera.angles, viewer.dims.ndisplay)


async def test_a_screenshot_is_what_the_canvas_shows(viewer, solid, tmp_path):
    await filming.screenshot(viewer, tmp_path / "shot.png")
    expected = viewer.screenshot(canvas_only=True, flash=False)
    (frame,) = frames_of(tmp_path / "shot.png")
    np.testing.assert_array_equal(frame, expected[..., :3])
    assert frame.max() > 200


async def test_the_film_turns_the_volume_once_about_y_and_puts_the_camera_back(viewer, solid, tmp_path):
    viewer.dims.ndisplay = 3
    viewer.canvas.overlays.scale_bar.visible = False
    before, told = camera(viewer), []
    path = tmp_path / "film.png"
    await filming.turning_movie(viewer, path, seconds=1, fps=8, on_progress=lambda *done: told.append(done))
    assert camera(viewer) == pytest.approx(before, abs=1e-6)
    assert told == [(done, 8) for done in range(1, 9)]
    assert [each.name for each in tmp_path.iterdir() if "film" in each.name] == ["film.png"]
    frames = list(frames_of(path))
    assert len(frames) == 8
    with Image.open(path) as film:
        assert film.info["duration"] == pytest.approx(125)
    np.testing.assert_array_equal(frames[0], viewer.screenshot(canvas_only=True, flash=False)[..., :3])
    # the block goes to the other side in half a turn, and stays at its height
    centres = [np.argwhere(frame[..., 0] > 128).mean(axis=0) for frame in frames]
    middle = np.array(frames[0].shape[:2]) / 2
    assert centres[4][1] - middle[1] == pytest.approx(middle[1] - centres[0][1], abs=6)
    assert {round(centre[0] / 12) for centre in centres} == {round(middle[0] / 12)}


async def test_in_2d_it_is_filmed_in_3d_and_2d_again_afterwards(viewer, solid, tmp_path):
    solid.stepper.go_to(3)
    before = camera(viewer)
    await filming.turning_movie(viewer, tmp_path / "film.png", seconds=0.5, fps=4)
    assert camera(viewer) == pytest.approx(before, abs=1e-6)
    assert solid.stepper.section == 3


async def test_a_film_from_2d_waits_for_the_coarse_mask(viewer, solid, tmp_path, settle, nursery, monkeypatch):
    made, make_relief, shown, looks = trio.Event(), stages.make_relief, [], []
    anything_said = filming.anything_said

    async def wait(*arguments):
        await made.wait()
        return await make_relief(*arguments)

    monkeypatch.setattr(stages, "LARGE", 1000)
    monkeypatch.setattr(stages, "make_relief", wait)
    monkeypatch.setattr(filming, "anything_said", lambda viewer: looks.append(anything_said(viewer)) or looks[-1])
    nursery.start_soon(solid.attend)
    labels = np.ones((24, 32, 32), np.uint8)
    with make_mask(tmp_path / "mask", labels, solid.tomogram.grid) as mask:
        solid.show_mask(mask)

        async def film():
            await filming.turning_movie(
                viewer, tmp_path / "film.png", seconds=0.5, fps=4, on_progress=lambda *_: shown.append(words(viewer))
            )
            shown.append("done")

        nursery.start_soon(film)
        await settle(lambda: looks.count(True) > 2 or shown)
        assert "mask" in words(viewer)
        assert shown == []
        made.set()
        await settle(lambda: "done" in shown)
        assert shown == ["", "", "done"]
        solid.remove()


def words(viewer):
    """What is read on the canvas."""
    overlay = viewer.canvas.overlays.get("cryomamba")
    return overlay.text if overlay is not None and overlay.visible else ""


@pytest.mark.parametrize("stopped", [False, True])
async def test_what_never_comes_is_not_waited_for_and_words_about_it_are_not_filmed(
    viewer, stand, tmp_path, monkeypatch, stopped
):
    monkeypatch.setattr(filming, "PATIENCE", 0)
    stand(noise((8, 16, 16)))
    viewer.dims.ndisplay = 3
    before, shown = words(viewer), []
    assert "being read for 3D" in before
    with trio.CancelScope() as scope:
        await filming.turning_movie(
            viewer,
            tmp_path / "film.png",
            seconds=0.5,
            fps=4,
            on_progress=lambda *_: (shown.append(words(viewer)), stopped and scope.cancel()),
        )
    assert set(shown) == {""}
    assert words(viewer) == before
    assert (tmp_path / "film.png").exists() is not stopped


async def test_qt_does_not_wait_until_a_film_is_safe_on_the_disk(viewer, solid, tmp_path, monkeypatch):
    threads = []
    for name in ("sync_file", "sync_folder"):
        work = getattr(durable, name)
        monkeypatch.setattr(
            durable, name, lambda path, work=work: (threads.append(threading.current_thread()), work(path))
        )
    await filming.turning_movie(viewer, tmp_path / "film.png", seconds=0.5, fps=4)
    assert len(threads) == 2
    assert threading.current_thread() not in threads


async def test_a_cancelled_film_leaves_no_file_and_the_camera_as_it_was(viewer, solid, tmp_path):
    viewer.dims.ndisplay = 3
    before = camera(viewer)
    kept = set(tmp_path.iterdir())
    with trio.CancelScope() as scope:
        await filming.turning_movie(
            viewer, tmp_path / "film.png", seconds=1, fps=10, on_progress=lambda done, _: done == 3 and scope.cancel()
        )
    assert scope.cancelled_caught
    assert set(tmp_path.iterdir()) == kept
    assert camera(viewer) == pytest.approx(before, abs=1e-6)


async def test_the_film_keeps_its_size_when_the_window_is_resized(viewer, solid, tmp_path):
    window = viewer.window._qt_window
    path = tmp_path / "film.png"

    def resize(done, _):
        if done == 1:
            window.resize(window.width() + 120, window.height() - 90)

    await filming.turning_movie(viewer, path, seconds=1, fps=4, on_progress=resize)
    assert len({frame.shape for frame in frames_of(path)}) == 1


async def test_mp4_is_written_where_there_is_an_encoder(viewer, solid, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    await filming.turning_movie(viewer, path, seconds=1, fps=10)
    assert ffmpeg.count_frames_and_secs(str(path)) == (10, pytest.approx(1.0, abs=0.01))
    assert ".mp4" in filming.film_suffixes()


async def test_an_encoder_that_fails_is_an_error_and_leaves_no_film(viewer, solid, tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(ffmpeg, "get_ffmpeg_exe", lambda: "false")
    kept = set(tmp_path.iterdir())
    with pytest.raises(StorageError):
        await filming.turning_movie(viewer, tmp_path / "film.mp4", seconds=1, fps=4)
    assert set(tmp_path.iterdir()) == kept


async def test_a_format_that_cannot_be_written_is_refused_with_a_way_out(viewer, tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "ENCODER", "no_such_encoder")
    with pytest.raises(InvalidParameter) as caught:
        await filming.turning_movie(viewer, tmp_path / "film.mp4")
    assert "imageio-ffmpeg" in caught.value.hint
    with pytest.raises(InvalidParameter):
        await filming.turning_movie(viewer, tmp_path / "film.avi")


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (64, 48)])
def test_pillow_reads_the_frames_that_were_written(tmp_path, shape):
    frames = [np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8) for seed in range(3)]
    with (tmp_path / "film.png").open("wb") as file:
        film = AnimatedPng(file, width=shape[1], height=shape[0], frames=3, fps=25)
        for frame in frames:
            film.add(frame)
        film.finish()
    np.testing.assert_array_equal(list(frames_of(tmp_path / "film.png")), frames)

"""Pictures of the canvas: one, or a film of the volume turning."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import napari
import numpy as np
import trio
from numpy.typing import NDArray

from cryomamba_core.durable import replacing
from cryomamba_core.errors import InvalidParameter, StorageError
from cryomamba_gui.canvas.animated_png import AnimatedPng
from cryomamba_gui.canvas.notice import anything_said, hushed

#: Package that brings an encoder for MP4.
ENCODER = "imageio_ffmpeg"
#: Seconds that a film waits at most for what is to be seen in 3D, and between two looks: what cannot be read
#: never comes, and the overview of 10 GB takes 40 s.
PATIENCE, LOOK = 120.0, 0.02


def film_suffixes() -> tuple[str, ...]:
    """Endings of films that can be written here, the best one first."""
    return (".mp4", ".png") if find_spec(ENCODER) is not None else (".png",)


async def screenshot(viewer: napari.Viewer, path: Path) -> None:
    """Write the canvas as it is, without the window around it, as a PNG file."""
    frame = viewer.screenshot(canvas_only=True, flash=False)
    await trio.to_thread.run_sync(_write_png, frame, path)


async def turning_movie(
    viewer: napari.Viewer,
    path: Path,
    *,
    seconds: float = 8.0,
    fps: int = 25,
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> None:
    """Film what the canvas shows in 3D while it turns once around its Y axis.

    It begins when all that is to be seen in 3D is there, or two minutes later. The window stays
    alive: each frame takes one turn of Qt and is written in a thread. However it ends, the camera is
    put back; `path` appears when the film is whole.

    Parameters
    ----------
    viewer
        Of napari; in 2D it is turned to 3D for as long as it is filmed.
    path
        Ends in one of `film_suffixes`: ``.mp4``, or ``.png`` for an animated PNG.
    seconds
        Length of the film.
    fps
        Frames per second.
    on_progress
        Called with the number of frames that are done and that there will be.

    Raises
    ------
    InvalidParameter
        If the film cannot be written in this format.
    """
    if path.suffix.lower() not in film_suffixes():
        raise InvalidParameter(f"a film cannot be written as {path.name}", hint=_advice())
    frames = max(2, round(seconds * fps))
    async with _replacing(path) as partial:
        film: _Film | None = None
        try:
            with _camera_put_back(viewer):
                viewer.dims.ndisplay = 3
                await _all_there(viewer)
                with hushed(viewer):
                    for done, frame in enumerate(_turning(viewer, frames), start=1):
                        if film is None:
                            film = _film(path, partial, frame.shape, frames=frames, fps=fps)
                        await trio.to_thread.run_sync(film.add, _fit(frame, film.shape))
                        on_progress(done, frames)
        except BaseException:
            if film is not None:
                film.abandon()
            raise
        assert film is not None, "there are two frames at least"
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(film.finish)


async def _all_there(viewer: napari.Viewer) -> None:
    """Wait until the canvas shows what it is to show, or cannot."""
    with trio.move_on_after(PATIENCE):
        while anything_said(viewer) or not all(layer.loaded for layer in viewer.layers if layer.visible):
            await trio.sleep(LOOK)


def _turning(viewer: napari.Viewer, frames: int) -> Iterator[NDArray[np.uint8]]:
    """What the canvas shows, step by step once around Y."""
    camera = viewer.scene.camera
    view, up = np.array(camera.view_direction), np.array(camera.up_direction)
    for index in range(frames):
        turn = _turn_about_y(2 * np.pi * index / frames)
        camera.set_view_direction(tuple(turn @ view), tuple(turn @ up))
        yield viewer.screenshot(canvas_only=True, flash=False)[..., :3]


@asynccontextmanager
async def _replacing(path: Path) -> AsyncIterator[Path]:
    """The same as `replacing`, whose end is in a thread: it waits for the disk."""
    publishing = replacing(path)
    partial = publishing.__enter__()
    error: tuple[Any, ...] = (None, None, None)
    try:
        yield partial
    except BaseException:
        error = sys.exc_info()
        raise
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(publishing.__exit__, *error)


class _Film(Protocol):
    """A file that takes frames, called by one thread at a time."""

    shape: tuple[int, int]

    def add(self, frame: NDArray[np.uint8]) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


class _PngFilm:
    def __init__(self, partial: Path, shape: tuple[int, int], *, frames: int, fps: int) -> None:
        self.shape = shape
        self._file = partial.open("wb")
        self._png = AnimatedPng(self._file, width=shape[1], height=shape[0], frames=frames, fps=fps)
        self.add = self._png.add

    def finish(self) -> None:
        self._png.finish()
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


class _Mp4Film:
    """An encoder in a process of its own, that is fed frames."""

    def __init__(self, partial: Path, shape: tuple[int, int], *, fps: int) -> None:
        encoder: Any = import_module(ENCODER)
        height, width = shape[0] // 2 * 2, shape[1] // 2 * 2  # its colours are stored for squares of four pixels
        self.shape = (height, width)
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
        target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(partial)]
        self._process = subprocess.Popen(  # noqa: S603  # the package of the encoder says where it is
            [encoder.get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, *target],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def add(self, frame: NDArray[np.uint8]) -> None:
        assert self._process.stdin is not None, "it was asked for"
        with suppress(BrokenPipeError):  # `finish` says that it has ended
            self._process.stdin.write(np.ascontiguousarray(frame).data)

    def finish(self) -> None:
        self._process.communicate()
        if self._process.returncode:
            raise StorageError(
                f"the encoder of the film ended with {self._process.returncode}",
                hint="check that there is room on the disk, or let the name end in .png",
            )

    def abandon(self) -> None:
        self._process.kill()
        self._process.communicate()


def _film(path: Path, partial: Path, shape: tuple[int, ...], *, frames: int, fps: int) -> _Film:
    size = (shape[0], shape[1])
    if path.suffix.lower() == ".mp4":
        return _Mp4Film(partial, size, fps=fps)
    return _PngFilm(partial, size, frames=frames, fps=fps)


def _fit(frame: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame in the size of the film: the user may have resized the window."""
    if frame.shape[:2] == shape:
        return frame
    out = np.zeros((*shape, 3), np.uint8)
    height, width = min(shape[0], frame.shape[0]), min(shape[1], frame.shape[1])
    out[:height, :width] = frame[:height, :width]
    return out


def _turn_about_y(angle: float) -> NDArray[np.float64]:
    """Turns vectors (z, y, x) by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])


@contextmanager
def _camera_put_back(viewer: napari.Viewer) -> Iterator[None]:
    camera = viewer.scene.camera
    ndisplay = viewer.dims.ndisplay
    before = {name: getattr(camera, name) for name in ("center", "zoom", "angles", "perspective")}
    try:
        yield
    finally:
        viewer.dims.ndisplay = ndisplay
        for name, value in before.items():
            setattr(camera, name, value)


def _write_png(frame: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    with replacing(path) as partial:
        Image.fromarray(frame).save(partial, format="PNG")


def _advice() -> str:
    if ".mp4" in film_suffixes():
        return "let its name end in .mp4, or in .png for an animated picture"
    return "let its name end in .png for an animated picture, or install what writes .mp4: pip install imageio-ffmpeg"

"""Animated PNG files, written one frame at a time: what is left where no encoder of video is installed."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Of zlib; higher ones take longer and gain little on grey noise.
LEVEL = 3


class AnimatedPng:
    """Writes an animated PNG that repeats for ever.

    Parameters
    ----------
    file
        Open for writing.
    width, height
        Of every frame, in pixels.
    frames
        How many there will be.
    fps
        Frames per second.
    """

    def __init__(self, file: BinaryIO, *, width: int, height: int, frames: int, fps: int) -> None:
        self._file = file
        self._size = (width, height)
        self._fps = fps
        self._sequence = 0
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        self._chunk(b"acTL", struct.pack(">II", frames, 0))

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Write a frame, an array of height × width × 3 of red, green and blue."""
        first = self._sequence == 0
        self._chunk(b"fcTL", struct.pack(">IIIIIHHBB", self._next(), *self._size, 0, 0, 1, self._fps, 0, 0))
        data = zlib.compress(_filtered(frame), LEVEL)
        if first:
            self._chunk(b"IDAT", data)
        else:
            self._chunk(b"fdAT", struct.pack(">I", self._next()) + data)

    def finish(self) -> None:
        """Write the end."""
        self._chunk(b"IEND", b"")

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _filtered(frame: NDArray[np.uint8]) -> bytes:
    """Rows as PNG stores them: each one less the row above, behind the number of that filter (2)."""
    rows = frame.reshape(frame.shape[0], -1)
    out = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    out[:, 0] = 2
    out[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=out[1:, 1:])
    return out.tobytes()

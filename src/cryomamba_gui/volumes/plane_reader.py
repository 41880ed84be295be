"""The thread that reads planes, what it keeps, and what it reads ahead."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from cryomamba_core.errors import CryoMambaError, ErrorInfo, MissingFile
from cryomamba_core.volumes import Volume
from cryomamba_gui.volumes.blocks import Block, Blocks

log: logging.Logger = logging.getLogger(__name__)

#: Planes that are kept, in bytes.
KEPT_BYTES = 64 << 20

#: Seconds without a request after which the thread ends; the next request starts another.
IDLE = 5.0

#: A step of up to so many planes is a movement, which goes on; a longer one is a jump.
LONGEST_STEP = 8


class PlaneReader:
    """Reads the plane that was asked for last, and then the next in the direction of movement.

    All methods may be called by any thread. The thread is no daemon, but it ends by itself when nothing
    is asked for, so that a window that was forgotten does not keep a process alive.

    Parameters
    ----------
    volume
        One that may be read by several threads; not closed here.
    on_read
        Called by the reading thread after it has read; what it raises is reported.

    Attributes
    ----------
    arrived
        Emitted by the reading thread with (axis, index) when the plane is there that `fetch` did not have
        when it was asked last.
    failed
        Emitted by any thread when reading fails, with an `ErrorInfo`; once for each code.
    error
        What was wrong when something was read last; None if nothing was.
    bytes_read
        Bytes of the voxels that were asked of the volume.
    """

    arrived = Signal(int, int)
    failed = Signal(ErrorInfo)

    def __init__(self, volume: Volume, on_read: Callable[[], object]) -> None:
        self._volume = volume
        self._on_read = on_read
        self._blocks = Blocks(volume.grid, volume.dtype.itemsize)
        self._changed = threading.Condition()
        self._kept: OrderedDict[Block, NDArray[Any]] = OrderedDict()
        self._wanted: Block | None = None
        self._ahead: Block | None = None
        self._owed: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._running = False
        self._closed = False
        self._reported: set[str] = set()
        self.error: ErrorInfo | None = None
        self.bytes_read: int = 0

    @property
    def pending(self) -> bool:
        """Whether the plane that was asked for last was not there and is still to come."""
        return self._owed is not None

    def fetch(self, axis: int, index: int, patience: float) -> NDArray[Any] | None:
        """A plane, read-only, its axes in the order of ZYX; None if it is not there after `patience` seconds."""
        block = self._blocks.block_of(axis, index)
        with self._changed:
            if block not in self._kept and not self._closed:
                self._wanted = block
                self._wake()
                self._changed.wait_for(lambda: self._wanted != block, patience)
            planes = self._kept.get(block)
            waiting = planes is None and self._wanted == block
            self._owed = (axis, index) if waiting else None
            self._look_ahead(axis, index)
            if planes is None:
                return None
            self._forget_wish()
            self._kept.move_to_end(block)
            plane: NDArray[Any] = planes[index - block.first]
            return plane

    def read_now(self, axis: int, index: int) -> None:
        """Read a plane in the calling thread, before anybody asks for it.

        Raises
        ------
        CryoMambaError, OSError
            As `Volume.read`.
        """
        block = self._blocks.block_of(axis, index)
        planes = self._read(block, always=True)
        if planes is not None:
            self._keep(block, planes)

    def report(self, error: Exception) -> None:
        """Say that something could not be read; once for each code."""
        info = _info_of(error)
        with self._changed:
            self.error = info
            known = info.code in self._reported
            self._reported.add(info.code)
        if not known:
            log.warning("the tomogram cannot be read: %s", info.message)
            self._emit(self.failed, info)

    def count(self, size: int) -> None:
        """Add to `bytes_read`."""
        with self._changed:
            self.bytes_read += size

    def close(self) -> None:
        """Stop reading, forget all planes and wait for the thread to end; may be called twice."""
        with self._changed:
            self._closed = True
            self._wanted = self._ahead = self._owed = None
            self._kept.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _forget_wish(self) -> None:
        """What was asked for before is not looked at any more; another thread may be waiting for it."""
        if self._wanted is not None:
            self._wanted = None
            self._changed.notify_all()

    def _look_ahead(self, axis: int, index: int) -> None:
        """Choose what to read when there is nothing else to do."""
        last, self._last = self._last, (axis, index)
        if last == (axis, index) or self._closed:
            return
        self._ahead = None if last is None or last[0] != axis else self._next_block(axis, last[1], index)
        if self._ahead is not None:
            self._wake()

    def _next_block(self, axis: int, before: int, index: int) -> Block | None:
        """The block that a movement from one plane to another leads into, half a block ahead."""
        if abs(index - before) > LONGEST_STEP:
            return None
        here = self._blocks.block_of(axis, index)
        distance = max(1, (here.stop - here.first) // 2)
        there = index + (distance if index > before else -distance)
        if not 0 <= there < self._volume.grid.shape[axis]:
            return None
        block = self._blocks.block_of(axis, there)
        return block if block not in self._kept else None

    def _wake(self) -> None:
        if not self._running:
            self._running = True
            self._thread = threading.Thread(target=self._run, name="cryomamba-planes", daemon=False)
            self._thread.start()
        self._changed.notify_all()

    def _next(self) -> Block | None:
        return self._wanted or self._ahead

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None, IDLE)
                block = self._next()
                if self._closed or block is None:
                    self._running = False
                    return
            try:
                planes = self._read(block)
                if planes is not None:
                    self._keep(block, planes)
                    self._on_read()
            except Exception as error:  # noqa: BLE001  # whatever a reader raises, the window goes on
                self._give_up(block, error)

    def _read(self, block: Block, *, always: bool = False) -> NDArray[Any] | None:
        """Planes of a block, first axis first; None if something else is wanted by now."""
        region = self._blocks.region(block)
        shape = (block.stop - block.first, *self._blocks.plane_shape(block.axis))
        planes = np.empty(shape, self._volume.dtype)
        zyx = np.moveaxis(planes, 0, block.axis)
        back = (-region.start[0], -region.start[1], -region.start[2])
        for piece in self._blocks.pieces(region):
            if not always and (self._closed or self._next() != block):
                return None
            zyx[tuple(slice(a + d, b + d) for a, b, d in zip(piece.start, piece.stop, back, strict=True))] = (
                self._volume.read(piece)
            )
            self.count(piece.size * planes.itemsize)
        planes.flags.writeable = False
        return planes

    def _keep(self, block: Block, planes: NDArray[Any]) -> None:
        with self._changed:
            if self._closed:
                return
            self._kept[block] = planes
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            self._done_with(block)
            arrived = self._owed if self._owed is not None and block.holds(*self._owed) else None
            if arrived is not None:
                self._owed = None
            self.error = None
        if arrived is not None:
            self._emit(self.arrived, *arrived)

    def _give_up(self, block: Block, error: Exception) -> None:
        with self._changed:
            self._done_with(block)
            if self._owed is not None and block.holds(*self._owed):
                self._owed = None
        self.report(error)

    def _done_with(self, block: Block) -> None:
        if self._wanted == block:
            self._wanted = None
        if self._ahead == block:
            self._ahead = None
        self._changed.notify_all()

    def _emit(self, signal: Any, *arguments: object) -> None:
        try:
            signal.emit(*arguments)
        except Exception:
            log.exception("a listener of a tomogram's planes failed")


def _info_of(error: Exception) -> ErrorInfo:
    if isinstance(error, OSError) and not isinstance(error, CryoMambaError):
        error = MissingFile(
            f"the tomogram cannot be read: {error.strerror or error}",
            hint="check that its disk or network share is still there, then open it again",
        )
    return ErrorInfo.of(error)

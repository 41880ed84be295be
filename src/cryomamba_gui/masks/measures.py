"""The statistics of a mask, kept up with its edits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio
from psygnal import Signal

from cryomamba_core.errors import ErrorInfo
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_gui.masks.mask import EditedMask
from cryomamba_gui.masks.values import named, values_in

#: Seconds without an edit after which a mask is measured.
SETTLED = 0.5


class _Overtaken(Exception):  # no error: there is an edit to be measured instead
    """The mask was edited while it was measured."""


class Measures:
    """Measures a mask in a thread whenever it has been edited; a further edit starts it anew.

    Parameters
    ----------
    mask
        The mask.
    statistics
        What the job measured: shown at once, and true as long as the mask is not edited.
    settled
        Seconds to wait for a further edit before measuring.

    Attributes
    ----------
    changed
        Signal without arguments: of `statistics`, `current`, `error`.
    progressed
        Signal with sections that are done and sections in all, while measuring.
    statistics
        One entry for each label of the model and for each other value that was found, by value.
    current
        Whether `statistics` are those of the mask as it is now; if not, they are of an earlier state.
    error
        Why the mask could not be measured; None if it could.
    """

    changed = Signal()
    progressed = Signal(int, int)

    def __init__(
        self, mask: EditedMask, statistics: tuple[LabelStatistics, ...] = (), *, settled: float = SETTLED
    ) -> None:
        self.statistics = statistics
        self.current = bool(statistics) and not mask.edited
        self.error: ErrorInfo | None = None
        self._mask = mask
        self._settled = settled
        self._edits = mask.edits
        self._stirred = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure after edits, until cancelled; a cancel is obeyed within one slab."""
        self._mask.changed.connect(self._stir)
        try:
            if not self.current or self._edits != self._mask.edits:
                self._stir()
            task_status.started()
            while True:
                await self._stirred.wait()
                await self._wait_until_settled()
                await self._measure()
        finally:
            self._mask.changed.disconnect(self._stir)

    def _stir(self) -> None:
        self._stirred.set()
        if self.current:
            self.current = False
            self.changed.emit()

    async def _wait_until_settled(self) -> None:
        seen = None
        while seen != self._mask.edits:
            seen = self._mask.edits
            await trio.sleep(self._settled)

    async def _measure(self) -> None:
        self._stirred = trio.Event()
        edits = self._mask.edits
        try:
            statistics = await trio.to_thread.run_sync(partial(self._pass_over, edits))
        except _Overtaken:
            self._stirred.set()
            return
        except Exception as error:  # noqa: BLE001  # is shown where the statistics would be, and the next edit tries again
            self.error = ErrorInfo.of(error)
        else:
            self.statistics, self.error = statistics, None
            self.current = edits == self._mask.edits
        self.changed.emit()

    def _pass_over(self, edits: int) -> tuple[LabelStatistics, ...]:
        """Find the values, then measure them; runs in a thread."""
        values = values_in(self._mask.current, on_slab=self._reporter(edits, 0))
        labels = named(self._mask.labels, values)
        sections = self._mask.grid.shape[0]
        return measure_labels(self._mask.current, self._mask.grid, labels, on_slab=self._reporter(edits, sections))

    def _reporter(self, edits: int, before: int) -> Callable[[int], None]:
        def report(done: int) -> None:
            if self._mask.edits != edits:
                raise _Overtaken
            trio.from_thread.check_cancelled()
            trio.from_thread.run_sync(self.progressed.emit, before + done, 2 * self._mask.grid.shape[0])

        return report

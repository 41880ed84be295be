"""From the previews of a job to arrays that can be shown, with none left waiting when the screen lags."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import trio
from attrs import frozen
from numpy.typing import NDArray
from psygnal import Signal

from cryomamba_core.errors import StorageDamaged
from cryomamba_core.labels import Label
from cryomamba_core.previews import Preview
from cryomamba_gui.canvas.latest import Latest
from cryomamba_gui.canvas.turns import one_by_one


@frozen
class Voxels:
    """What a preview holds.

    Attributes
    ----------
    labels
        ZYX, on the preview's grid.
    companions
        One for each of the preview's, in their order: ZYX, on its own grid.
    """

    labels: NDArray[Any]
    companions: tuple[NDArray[np.uint8], ...] = ()

    @classmethod
    def of(cls, preview: Preview) -> Voxels:
        """Decompress a preview; raises `StorageDamaged` if anything of it is not whole."""
        return cls(preview.labels(), tuple(companion.values() for companion in preview.companions))


#: What shows a preview step by step: `Stage.preview_steps`.
Show = Callable[[Preview, tuple[Label, ...], Voxels], Iterable[None]]


class PreviewFeed:
    """Decodes previews in a thread, the newest only, and has each one shown.

    Parameters
    ----------
    show
        Its steps are done in the thread that trio runs in, each in a turn of its own.

    Attributes
    ----------
    dropped
        How many previews were never shown since a newer one had come.
    damaged
        Heard with the error of a preview that cannot be decoded; the next one is tried all the same.
    """

    damaged = Signal(object)

    def __init__(self, show: Show) -> None:
        self.dropped = 0
        self._show = show
        self._latest: Latest[tuple[Preview, tuple[Label, ...]]] = Latest(self._decode, interrupt=False)

    def offer(self, preview: Preview, labels: tuple[Label, ...]) -> None:
        """Have a preview shown, unless a newer one comes first."""
        self.dropped += self._latest.ask((preview, labels))

    def forget(self) -> None:
        """Show none of those that were offered so far."""
        self._latest.forget()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._latest.run()

    async def _decode(self, offered: tuple[Preview, tuple[Label, ...]]) -> None:
        preview, labels = offered
        try:
            voxels = await trio.to_thread.run_sync(Voxels.of, preview)
        except StorageDamaged as error:
            self.damaged.emit(error)
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        await one_by_one(self._show(preview, labels, voxels))

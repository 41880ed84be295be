"""What a finished job has beside its mask: each is fetched when the user first wants to see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from cryomamba_gui.canvas.companion_file import CompanionFile
from cryomamba_gui.canvas.turns import one_by_one

if TYPE_CHECKING:
    from cryomamba_core.artifacts import Manifest
    from cryomamba_core.companions import Companion
    from cryomamba_core.geometry import VoxelGrid
    from cryomamba_gui.canvas.place import Place, Work
    from cryomamba_gui.desk.desk import Desk
    from cryomamba_gui.desk.jobs import JobItem


@define(eq=False)
class _Offered:
    """A companion that can be fetched.

    Attributes
    ----------
    item, source
        The job that made it, and the grid of the job's source.
    companion
        What the job says of it.
    work
        What fetches it, or did.
    file
        It is open; None before it is here.
    forgotten
        Set when nobody wants it any more: then its file is closed.
    """

    item: JobItem
    source: VoxelGrid
    companion: Companion
    work: Work | None = None
    file: CompanionFile | None = None
    forgotten: trio.Event = field(factory=trio.Event)


class CompanionFetching:
    """Lays a layer over the tomogram for each companion of a finished job, and fetches those that are to be seen.

    Parameters
    ----------
    place
        The tomogram.
    desk
        Has the jobs, and starts the tasks.
    on_failure
        Told by a reading thread why a file cannot be read, and by `name` what the file is called.
    """

    def __init__(self, place: Place, desk: Desk, on_failure: Callable[..., object]) -> None:
        self._place = place
        self._desk = desk
        self._on_failure = on_failure
        self._layers = place.stage.companions
        self._offered: dict[str, _Offered] = {}
        self._offering = trio.CancelScope()
        self._layers.wanted.connect(self._fetch)
        self._layers.deleted.connect(self._forget)

    @property
    def files(self) -> tuple[CompanionFile, ...]:
        """Those that are here by now."""
        return tuple(offered.file for offered in self._offered.values() if offered.file is not None)

    async def offer(self, item: JobItem, manifest: Manifest) -> None:
        """Have a layer for each that a job has made, also for those whose layers the user deleted."""
        run = manifest.run
        for companion in run.companions:
            if companion.name not in self._offered:
                self._offered[companion.name] = _Offered(item, manifest.grid, companion)
        self._offering.cancel()
        with trio.CancelScope() as self._offering:
            await one_by_one(self._layers.offer_steps(run.companions, run.model.labels))
            for companion in run.companions:
                if self._layers.wants(companion.name):
                    self._fetch(companion.name)

    def withdraw(self) -> None:
        """Stop what is being fetched, and close what is here; the layers stay."""
        self._offering.cancel()
        for name in tuple(self._offered):
            self._forget(name)

    def _forget(self, name: str) -> None:
        offered = self._offered.pop(name, None)
        if offered is not None:
            offered.forgotten.set()
            if offered.work is not None:
                offered.work.scope.cancel()

    def _fetch(self, name: str) -> None:
        """Fetch one, unless it is here or on its way."""
        offered = self._offered.get(name)
        if offered is not None and offered.file is None and offered.work not in self._place.works:
            self._layers.mark(name, coming=True)
            offered.work = self._place.begin_work(
                f"fetching the {name} of {self._place.path.name}", partial(self._bring, offered), about_mask=True
            )

    async def _bring(self, offered: _Offered, work: Work) -> None:
        """Bring one here and have its layer show it; where that fails the layer is hidden, to be tried again."""
        name = offered.companion.name
        try:
            path = await self._desk.jobs.fetch_companion(offered.item, name, partial(self._place.progress, work))
            await self._open(offered, path)
        finally:
            if self._offered.get(name) is offered:
                self._layers.mark(name, coming=False)
                if offered.file is None:
                    self._layers.hide(name)

    async def _open(self, offered: _Offered, path: Path) -> None:
        """Open the file of one, and have its layer show it."""
        open_file = partial(CompanionFile.open, self._desk.host, path, offered.companion, offered.source)
        file = await trio.to_thread.run_sync(open_file)
        try:
            file.planes.failed.connect(partial(self._on_failure, name=path.name))
            await one_by_one(self._layers.file_steps(file))
        except BaseException:
            await _close(file)
            raise
        offered.file = file
        self._desk.soon(partial(_hold, file, offered.forgotten), name=f"showing {path.name}")


async def _hold(file: CompanionFile, forgotten: trio.Event) -> None:
    """Keep a file open until it is forgotten: an event, as a task that is cancelled at once would close nothing."""
    try:
        await forgotten.wait()
    finally:
        await _close(file)


async def _close(file: CompanionFile) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(file.close)

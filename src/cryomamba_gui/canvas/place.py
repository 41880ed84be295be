"""A tomogram that lies open: its layers, and the job whose labels are shown on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attrs import evolve
from psygnal import Signal

from cryomamba_core.errors import SourceChanged
from cryomamba_core.geometry import VoxelGrid, to_index, to_vector
from cryomamba_core.jobs import JobState
from cryomamba_core.labels import Label
from cryomamba_gui.canvas.bell import Bell
from cryomamba_gui.canvas.companion_fetching import CompanionFetching
from cryomamba_gui.canvas.previewing import PreviewFeed
from cryomamba_gui.canvas.turns import one_by_one
from cryomamba_gui.masks.keeping import keep_saved
from cryomamba_gui.masks.mask import EditedMask
from cryomamba_gui.masks.measures import Measures
from cryomamba_gui.masks.opening import open_mask, read_manifest

if TYPE_CHECKING:
    from cryomamba_core.artifacts import Manifest
    from cryomamba_core.errors import ErrorInfo
    from cryomamba_core.geometry import Vector3
    from cryomamba_core.previews import Preview
    from cryomamba_gui.canvas.stage import Stage
    from cryomamba_gui.desk.desk import Desk
    from cryomamba_gui.desk.jobs import JobItem
    from cryomamba_gui.volumes.tomogram import Tomogram


class Work:
    """Something long that is done for a place, for a progress bar.

    Attributes
    ----------
    name
        What is done, e.g. ``reading tomo.mrc for 3D``.
    about_mask
        Whether it is done for the mask, not for the tomogram.
    done, total
        Units that are done, and all of them; 0 of 0 before that is known.
    scope
        Cancels it.
    begun, ended
        Whether its first turn has come, and whether its last one has.
    """

    def __init__(self, name: str, *, about_mask: bool) -> None:
        self.name = name
        self.about_mask = about_mask
        self.scope = trio.CancelScope()
        self.done = self.total = 0
        self.begun = False
        self.ended = trio.Event()


class Place:
    """One open tomogram.

    Parameters
    ----------
    tomogram
        Closed by `aclose`.
    stage
        Its layers.
    desk
        Starts the tasks.
    voxel_size
        Voxel size (z, y, x) in Å that the user gave instead of the header's.

    Attributes
    ----------
    tomogram, stage, voxel_size
        As above.
    item
        The job whose labels are shown, or will be.
    mask, manifest, measures
        The mask of a finished job, where it came from, and its statistics; None until it is here.
    companions
        What the job has beside the mask.
    """

    #: Anything of it is different, its works included.
    changed = Signal()

    def __init__(self, tomogram: Tomogram, stage: Stage, desk: Desk, *, voxel_size: Vector3 | None = None) -> None:
        self.tomogram = tomogram
        self.voxel_size = voxel_size
        self.stage = stage
        self.item: JobItem | None = None
        self.mask: EditedMask | None = None
        self.manifest: Manifest | None = None
        self.measures: Measures | None = None
        self.companions = CompanionFetching(self, desk, self._hear_failure)
        self._desk = desk
        self._works: list[Work] = []
        self._fetching: Work | None = None
        self._feed = PreviewFeed(stage.preview_steps)
        self._tasks: list[trio.CancelScope] = []
        self._mask_tasks: list[trio.CancelScope] = []
        self._failure: tuple[ErrorInfo, str] | None = None
        self._failed = Bell(self._say_failure)
        self._closing = False
        self._chosen = False
        self._waiting: JobItem | None = None
        self._told: JobItem | None = None  # that it was made of another grid

    @property
    def path(self) -> Path:
        """The tomogram's file."""
        return self.tomogram.path

    @property
    def works(self) -> tuple[Work, ...]:
        """What goes on for it, oldest first."""
        return tuple(self._works)

    @property
    def held(self) -> bool:
        """Whether the user works at the job that is shown: they have edited its mask, or have asked for this one."""
        if self.mask is not None:
            return self._chosen or self.mask.edited
        return self._chosen or (self.item is not None and EditedMask.was_edited(self.item.folder))

    def begin(self) -> None:
        """Start what goes on for as long as the tomogram lies open."""
        self._feed.damaged.connect(self._report)
        self.stage.failed.connect(self._report)
        self.tomogram.planes.failed.connect(partial(self._hear_failure, name=self.path.name))
        self._tasks = [
            self._desk.soon(self.stage.attend, name=f"showing {self.path.name}"),
            self._desk.soon(self._feed.run, name=f"showing previews on {self.path.name}"),
        ]
        self.survey()

    def survey(self) -> None:
        """Read all of the tomogram, for 3D and for its statistics."""
        self.begin_work(f"reading {self.path.name} for 3D", self._survey)

    def offer(self, item: JobItem) -> None:
        """Show what a job has made so far, unless the one that is shown has more to show, or the user works at it.

        What is being done for a mask, for example an export, is done first.
        """
        if item is not self.item and not self._gives_way_to(item):
            return
        if item is not self.item and self._works_at_mask():
            self._waiting = item
        else:
            self.take(item)

    def take(self, item: JobItem, *, chosen: bool = False) -> None:
        """Show what a job has made so far; once the user has `chosen` it, no other job takes its place by itself."""
        if self._closing:
            return
        if item is not self.item:
            self._waiting, self._chosen = None, False
            self._let_go_of_mask()
            self._feed.forget()
            self.stage.drop_preview()
            self.stage.companions.drop()
            if self._fetching is not None:
                self._fetching.scope.cancel()
                self._fetching = None
            self.item = item
        self._chosen = self._chosen or chosen
        if item.state is JobState.COMPLETED:
            self._fetch(item)
        elif self.mask is not None:  # the job was asked for again
            self._let_go_of_mask()
            self.stage.companions.drop()
        if item.preview is not None and self.mask is None:
            self._show_preview(item, item.preview)
        self.changed.emit()

    def fetch_again(self) -> None:
        """Fetch the mask of a finished job if it is not here and its engine is there by now."""
        item = self.item
        if item is None or item.state is not JobState.COMPLETED or item.url != self._desk.link.url:
            return
        if self.mask is None and not self._closing:
            self._fetch(item)

    async def aclose(self) -> None:
        """Save the mask, end what goes on, and give back the file; the layers are not touched."""
        self._closing = True
        for scope in (*self._tasks, *(work.scope for work in self._works)):
            scope.cancel()
        self._let_go_of_mask()
        self._failed.mute()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.tomogram.close)

    def _gives_way_to(self, item: JobItem) -> bool:
        """Whether another job is to be shown, without the user having asked for it."""
        shown = self.item
        if shown is None or self.held:
            return shown is None
        if _has_labels(item) is not _has_labels(shown):
            return _has_labels(item)
        return item.record.created_at >= shown.record.created_at

    def _show_preview(self, item: JobItem, preview: Preview) -> None:
        """Have a preview shown on the tomogram's own grid, if it fits there."""
        grid = self.tomogram.grid
        try:
            self._compare(item, _source_of(preview, grid))
        except SourceChanged as error:
            if self._told is not item:
                self._told = item
                self._report(error)
            return
        companions = tuple(evolve(each, grid=grid.coarsen(each.factor)) for each in preview.companions)
        laid = evolve(preview, grid=grid.coarsen(preview.factor), companions=companions)
        self._feed.offer(laid, self._labels_of(item))

    def _compare(self, item: JobItem, source: VoxelGrid) -> None:
        """See whether the labels of a job lie on the tomogram voxel on voxel, and say it once where lengths differ.

        Raises
        ------
        SourceChanged
            If they do not.
        """
        grid = self.tomogram.grid
        found = " and ".join(grid.differences(source))
        if source.shape != grid.shape:
            raise SourceChanged(
                f"{item.name} was segmented with {found}: its labels cannot be laid over this tomogram",
                hint="another file had this name then: open that one, or segment this one",
            )
        if found and self._told is not item:
            self._told = item
            self._report(
                SourceChanged(
                    f"{item.name} was segmented with {found}: its labels are laid voxel on voxel",
                    hint="volumes in nm³ and exports are as the job was made; give the voxel size that is true, if "
                    "this is not, in the tab Tomogram",
                )
            )

    def _labels_of(self, item: JobItem) -> tuple[Label, ...]:
        config = item.record.config
        for model in self._desk.link.models:
            if model.name == config.model and config.runner in (None, model.runner):
                return model.labels
        return ()

    def _fetch(self, item: JobItem) -> None:
        if self.mask is None and (self._fetching is None or self._fetching not in self._works):
            name = f"fetching the mask of {self.path.name}"
            self._fetching = self.begin_work(name, partial(self._take_mask, item), about_mask=True)
        elif self.manifest is not None:
            offer = partial(self.companions.offer, item, self.manifest)
            name = f"showing what comes with the mask of {self.path.name}"
            self._mask_tasks.append(self._desk.soon(offer, name=name))

    async def _take_mask(self, item: JobItem, work: Work) -> None:
        """Bring a job's mask here and lay it over the tomogram."""
        artifact = await self._desk.jobs.fetch(item, partial(self.progress, work))
        manifest = await trio.to_thread.run_sync(read_manifest, artifact.parent)
        self._compare(item, manifest.grid)
        manifest = evolve(manifest, grid=self.tomogram.grid)  # its companions lie there too
        report = partial(self.report_from_thread, work)
        mask = await trio.to_thread.run_sync(open_mask, self._desk.host, artifact, report)
        if item is not self.item or self._closing:
            mask.close()
            return
        self._feed.forget()
        self.mask, self.manifest = mask, manifest
        self.measures = Measures(mask, manifest.run.statistics)
        self._mask_tasks = [
            self._desk.soon(partial(self._keep, mask), name=f"saving the edits of {self.path.name}"),
            self._desk.soon(self.measures.run, name=f"measuring the mask of {self.path.name}"),
        ]
        await one_by_one(self.stage.mask_steps(mask))
        await self.companions.offer(item, manifest)

    async def _keep(self, mask: EditedMask) -> None:
        """Save a mask as long as it is shown, and close it then, once nobody works at it any more."""
        try:
            await keep_saved(mask, on_failure=self._report)
        finally:
            with trio.CancelScope(shield=True):
                for work in self._works_at_mask():
                    if work.begun:
                        await work.ended.wait()
            mask.close()

    def _works_at_mask(self) -> list[Work]:
        return [work for work in self._works if work.about_mask and work is not self._fetching]

    def _let_go_of_mask(self) -> None:
        for scope in self._mask_tasks:
            scope.cancel()
        self._mask_tasks = []
        self.companions.withdraw()
        for work in self._works_at_mask():
            work.scope.cancel()
        if self.mask is not None:
            self.stage.drop_mask()
            self.mask = self.manifest = self.measures = None

    async def _survey(self, work: Work) -> None:
        report = partial(self.report_from_thread, work)
        await trio.to_thread.run_sync(self.tomogram.survey, report, _is_cancelled)

    def begin_work(self, name: str, work: Callable[[Work], Awaitable[object]], *, about_mask: bool = False) -> Work:
        """Start something long that shows how far it is by `progress`, and can be cancelled."""
        begun = Work(name, about_mask=about_mask)
        self._works.append(begun)

        async def do() -> None:
            begun.begun = True
            try:
                with begun.scope:
                    await work(begun)
            finally:
                self._works.remove(begun)
                begun.ended.set()
                self.changed.emit()
                self._take_waiting()

        self._desk.soon(do, name=name)
        self.changed.emit()
        return begun

    def _take_waiting(self) -> None:
        """Show the job that has waited for the end of what was done for the mask."""
        item, self._waiting = self._waiting, None
        if item is not None:
            self.offer(item)

    def progress(self, work: Work, done: int, total: int) -> None:
        """Take in how far something is."""
        work.done, work.total = done, total
        self.changed.emit()

    def report_from_thread(self, work: Work, done: int, total: int) -> None:
        """The same, for a thread that trio has started; raises there if the work was cancelled."""
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(self.progress, work, done, total)

    def _hear_failure(self, info: ErrorInfo, *, name: str) -> None:
        """Take in, in the reading thread, why a plane of a file cannot be read."""
        self._failure = (info, name)
        self._failed.ring()

    def _say_failure(self) -> None:
        if self._failure is not None:
            info, name = self._failure
            self._desk.troubles.report(info, what=f"reading {name}")

    def _report(self, error: Exception) -> None:
        self._desk.troubles.report(error, what=f"showing {self.path.name}")


def _is_cancelled() -> bool:
    """Whether the task that has started this thread was cancelled."""
    try:
        trio.from_thread.check_cancelled()
    except trio.Cancelled:
        return True
    return False


def _has_labels(item: JobItem) -> bool:
    """Whether there is something of a job to be shown."""
    return item.state is JobState.COMPLETED or item.preview is not None


def _source_of(preview: Preview, grid: VoxelGrid) -> VoxelGrid:
    """The grid that a preview was coarsened from: of the shape of `grid` if it can be."""
    coarse, factor = preview.grid, preview.factor
    half = (factor - 1) / 2 / factor
    fits = coarse.shape == grid.coarsen(factor).shape
    return VoxelGrid(
        shape=grid.shape if fits else to_index(size * factor for size in coarse.shape),
        voxel_size=to_vector(size / factor for size in coarse.voxel_size),
        origin=coarse.position((-half, -half, -half)),
    )

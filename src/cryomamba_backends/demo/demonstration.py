"""The steps of the demonstration, from an empty folder to the picture."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define
from numpy.typing import NDArray

from cryomamba_backends.demo.loopback import open_loopback
from cryomamba_backends.demo.picture import draw_picture
from cryomamba_core.artifacts import Manifest
from cryomamba_core.cli.scopes import EVERYTHING, allowed_info, require_scopes
from cryomamba_core.durable import replacing
from cryomamba_core.errors import JobFailed, JobWasCanceled
from cryomamba_core.events import Failed, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.labels import Label
from cryomamba_core.wire import load_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from cryomamba_backends.demo.loopback import LoopbackServer
    from cryomamba_backends.demo.phantom import Phantom
    from cryomamba_core.cli.interruption import Interruption
    from cryomamba_core.cli.state import CliState
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobRecord

MODEL = "cryomamba-demo"
RUNNER = "nnunet"


@define(kw_only=True)
class Course:
    """What was seen of the job while it ran."""

    started: float
    previews: int = 0
    first_preview: float | None = None


class Demonstration:
    """Runs the main job on a phantom.

    Parameters
    ----------
    state
        Of the command line.
    out
        Folder for everything that is made.
    seed
        Of the phantom.
    own_server
        Whether to start a server for it, on the loopback; else the engine that the command line names is used.
    """

    def __init__(self, state: CliState, out: Path, seed: int, *, own_server: bool) -> None:
        self._state = state
        self._out = out
        self._seed = seed
        self._own_server = own_server
        self._server: LoopbackServer | None = None
        self._tomogram = out / "tomogram.mrc"

    def run(self) -> dict[str, Any]:
        """Do all steps and return what ``summary.json`` says."""
        labels = self._state.host.runners.get(RUNNER).model(MODEL).labels
        begun = time.monotonic()
        self._out.mkdir(parents=True, exist_ok=True)
        phantom = self._make_tomogram()
        made = time.monotonic()
        course = self._state.run(self._segment)
        done = time.monotonic()
        answer, grid = self._read_answer()
        dice = dice_by_label(phantom.truth, answer, labels)
        self._draw(phantom, answer, grid, labels, dice)
        manifest = load_json((self._out / "tomogram.manifest.json").read_bytes(), Manifest)
        summary = {
            "dice": dice,
            "mean_dice": sum(dice.values()) / len(dice),
            "seconds": {
                "phantom": round(made - begun, 2),
                "segment": round(done - made, 2),
                "first_preview": None if course.first_preview is None else round(course.first_preview, 2),
                "total": round(time.monotonic() - begun, 2),
            },
            "peak_rss_mb": round(manifest.peak_rss_bytes / 1e6, 1),
            "previews": course.previews,
            "server": self._server.url if self._server else self._state.server,
            "signal_to_noise": phantom.parameters.signal_to_noise,
            "seed": self._seed,
        }
        with replacing(self._out / "summary.json") as partial:
            partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        self._tell(summary, labels)
        return summary

    def _make_tomogram(self) -> Phantom:
        from cryomamba_backends.demo.phantom import PhantomParameters, make_phantom

        parameters = PhantomParameters(seed=self._seed)
        self._state.err.print(
            f"making a tomogram of {' × '.join(map(str, parameters.shape))} voxels, "
            f"signal to noise {parameters.signal_to_noise:g} …"
        )
        phantom = make_phantom(parameters)
        _write_mrc(self._tomogram, phantom.tomogram, parameters.voxel_size)
        _write_mrc(self._out / "truth.mrc", phantom.truth.astype(np.int8), parameters.voxel_size)
        return phantom

    async def _segment(self, interruption: Interruption) -> Course:
        async with self._session(interruption) as session:
            server = await allowed_info(session, *EVERYTHING)
            require_scopes(server, *EVERYTHING)
            source = (
                Source(path=str(self._tomogram.absolute()))
                if server.shares_files
                else Source(file_id=(await session.upload(self._tomogram)).id)
            )
            job = await session.submit(
                JobConfig(source=source, runner=RUNNER, model=MODEL, params={"mirroring": False}, label="demo")
            )
            try:
                course = await self._watch(session, job.id)
            except BaseException:
                if self._server is None or not self._server.ended:
                    with interruption.shielded():
                        await session.cancel(job.id)
                raise
            await self._fetch(session, await session.job(job.id))
            return course

    @asynccontextmanager
    async def _session(self, interruption: Interruption) -> AsyncIterator[Session]:
        """A conversation with the engine; one that is reached over HTTP, like any server, if it is our own."""
        if not self._own_server:
            async with self._state.session() as session:
                yield session
            return
        async with open_loopback(
            data_dir=self._state.settings.data_dir,
            config=self._state.config,
            log=self._out / "server.log",
            interruption=interruption,
        ) as server:
            self._server = server
            self._state.err.print(f"a server for the demo listens at {server.url}")
            transport = self._state.host.transport_for(server.url)
            async with interruption.outliving(transport.open(server.url, server.credentials)) as session:
                yield session

    async def _watch(self, session: Session, job_id: str) -> Course:
        course = Course(started=time.monotonic())
        with self._bar() as bar:
            task = bar.add_task("waiting", total=1.0, previews="")
            async with aclosing(session.events(job_id)) as events:  # type: ignore[type-var]  # generators, all of them
                async for event in events:
                    match event:
                        case Progress(progress=progress):
                            bar.update(task, completed=progress.fraction, description=progress.stage)
                        case PreviewReady():
                            self._count(course, bar, task)
                        case Failed(error=error):
                            raise JobFailed(error)
                        case StateChanged(state=JobState.CANCELED):
                            raise JobWasCanceled("somebody canceled the job", hint="run the demo again")
            bar.update(task, completed=1.0, description="done")
        return course

    def _count(self, course: Course, bar: Bar, task: TaskID) -> None:
        course.previews += 1
        if course.first_preview is None:
            course.first_preview = time.monotonic() - course.started
            if not self._state.err.is_terminal:
                self._state.err.print(f"first preview of the answer after {course.first_preview:.1f} s")
        bar.update(task, previews=f"{course.previews} previews")

    def _bar(self) -> Bar:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        return Bar(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[previews]}"),
            console=self._state.err,
            disable=not self._state.err.is_terminal,
        )

    async def _fetch(self, session: Session, record: JobRecord) -> None:
        for artifact in record.artifacts:
            target = self._out / f"tomogram.{artifact.name}"
            target.unlink(missing_ok=True)
            await session.download(record.id, artifact, target)

    def _read_answer(self) -> tuple[NDArray[np.uint8], VoxelGrid]:
        path = self._out / "tomogram.mask.mrc"
        with self._state.host.reader_for(path).open(path) as volume:
            return volume.read(volume.grid.whole).astype(np.uint8), volume.grid

    def _draw(
        self,
        phantom: Phantom,
        answer: NDArray[np.uint8],
        grid: VoxelGrid,
        labels: Sequence[Label],
        dice: Mapping[str, float],
    ) -> None:
        with replacing(self._out / "picture.png") as partial:
            draw_picture(
                partial,
                tomogram=phantom.tomogram,
                truth=phantom.truth,
                answer=answer,
                grid=grid,
                labels=labels,
                dice=dice,
                title="Cryo-electron tomogram, segmented by CryoMamba",
                subtitle=(
                    f"synthetic, {' × '.join(map(str, grid.shape))} voxels of {grid.voxel_size[0] / 10:g} nm, "
                    f"signal to noise {phantom.parameters.signal_to_noise:g}, "
                    f"missing wedge beyond ±{phantom.parameters.tilt_range:g}°"
                ),
            )

    def _tell(self, summary: Mapping[str, Any], labels: Sequence[Label]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column("label")
        table.add_column("Dice", justify="right")
        for label in labels:
            table.add_row(Text.assemble(("■ ", label.color), label.name), f"{summary['dice'][label.name]:.3f}")
        table.add_row("mean", f"{summary['mean_dice']:.3f}")
        seconds = summary["seconds"]
        self._state.err.print(table)
        self._state.err.print(
            f"segmented in {seconds['segment']:.1f} s with {summary['peak_rss_mb']:.0f} MB "
            f"and {summary['previews']} previews on the way"
        )
        self._state.err.print(f"everything is in {self._out}; look at {self._out / 'picture.png'}")
        self._tell_where_the_job_is()

    def _tell_where_the_job_is(self) -> None:
        """Say that the job stays, with a copy of the tomogram and of the results, and how to see it."""
        place: Path | str | None = self._state.server if self._state.remote else self._state.settings.data_dir
        if self._server is not None:
            place = self._server.kept
        if place is not None:
            self._state.err.print(f"its job is kept in {place}: {self._state.command('jobs list')}", style="dim")


def dice_by_label(truth: NDArray[np.uint8], answer: NDArray[np.uint8], labels: Sequence[Label]) -> dict[str, float]:
    """Dice coefficient of each label: twice what two masks share over what they have together.

    Parameters
    ----------
    truth, answer
        ZYX labels of the same shape.
    labels
        The labels to compare.

    Returns
    -------
    dice
        Label name → 0 to 1; 1 for a label that neither has.
    """
    found = {}
    for label in labels:
        expected, given = truth == label.value, answer == label.value
        together = int(expected.sum()) + int(given.sum())
        found[label.name] = 2 * int((expected & given).sum()) / together if together else 1.0
    return found


def _write_mrc(path: Path, array: NDArray[Any], voxel_size: float) -> None:
    import mrcfile

    with replacing(path) as partial, mrcfile.new(partial, overwrite=True) as mrc:
        mrc.set_data(array)
        mrc.voxel_size = voxel_size
        mrc.set_volume()

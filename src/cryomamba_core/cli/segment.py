"""``cryomamba segment``: tomograms in, masks and measures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from cryomamba_core.cli.completion import complete_artifacts, complete_models, complete_parameters, complete_runners
from cryomamba_core.cli.failures import COHORT_FAILED
from cryomamba_core.cli.options import json_option, server_options, voxel_size_option
from cryomamba_core.cli.state import CliState
from cryomamba_core.errors import InvalidParameter, JobFailed

if TYPE_CHECKING:
    from cryomamba_core.cli.interruption import Interruption
    from cryomamba_core.cli.segmenting import FileRun, Order
    from cryomamba_core.geometry import Vector3
    from cryomamba_core.interfaces import Session
    from cryomamba_core.plans import JobPlan

#: The table of a cohort, in the folder of its results.
SUMMARY = "summary.csv"


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", help="Name of an installed model, or the folder of a trained one.", shell_complete=complete_models
)
@click.option("--runner", help="Runner; found by the model if left out.", shell_complete=complete_runners)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the results; the current one if left out.",
)
@click.option(
    "--artifact",
    "artifacts",
    multiple=True,
    metavar="NAME",
    help="Only this result, e.g. mask.mrc; may be repeated. All of them if left out.",
    shell_complete=complete_artifacts,
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of the runner; may be repeated. See models show.",
    shell_complete=complete_parameters,
)
@voxel_size_option
@click.option(
    "--shards",
    type=int,
    default=1,
    metavar="N",
    show_default=True,
    help="Workers that share each tomogram, on the cores or GPUs of the engine; the labels are the same.",
)
@click.option(
    "--on-server",
    is_flag=True,
    help="Each FILE is a whole path on the server's disk, below a folder that the server opens: nothing is sent.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what it would cost, and stop.")
@server_options
@json_option
@click.pass_obj
def segment(state: CliState, /, **options: Any) -> None:
    """Segment tomograms: masks, measures and provenance for each.

    Several files become a cohort: one table, one summary.csv, and a bad file does not stop the others.

    With --server each file is sent first, unless --on-server says that it is there already.
    """
    Segmentation(state, **options).run()


class Segmentation:
    """One call of the command."""

    def __init__(
        self,
        state: CliState,
        *,
        files: Sequence[Path],
        model: str | None,
        runner: str | None,
        out: Path,
        artifacts: Sequence[str],
        params: Sequence[str],
        voxel_size: Vector3 | None,
        shards: int,
        on_server: bool,
        overwrite: bool,
        plan_only: bool,
        as_json: bool,
    ) -> None:
        from cryomamba_core.cli.choosing import artifacts_for

        self._state = state
        self._model, self._runner, self._params = model, runner, params
        self._out, self._overwrite, self._plan_only = out, overwrite, plan_only
        self._voxel_size, self._as_json = voxel_size, as_json
        self._shards = shards
        self._on_server = on_server
        if on_server:
            _require_server_paths(state, files)
        self._cohort = len(files) > 1
        self._summary = out / SUMMARY if self._cohort else None
        self._asked, self._kept, self._left_out = artifacts_for(state.host, artifacts)
        self._runs = self._start(files)

    def run(self) -> None:
        """Check, segment, report; the exit status says how it went."""
        if not self._plan_only:
            self._refuse_existing()
        if not self._on_server:
            self._inspect()
        try:
            plans = self._state.run(self._work)
        except BaseException:
            if any(run.job_id for run in self._runs):
                self._write_summary()
            raise
        self._write_summary()
        if not self._cohort and self._runs[0].error is not None:
            raise JobFailed(self._runs[0].error)
        if self._plan_only:
            self._report_plans(plans)
        else:
            self._report()
        if any(run.error is not None for run in self._runs):
            raise Exit(COHORT_FAILED)

    def _start(self, files: Sequence[Path]) -> list[FileRun]:
        from cryomamba_core.cli.outputs import distinct_stems
        from cryomamba_core.cli.segmenting import FileRun

        stems = distinct_stems(files, self._state.host)
        names = [path.name for path in files]
        return [
            FileRun(name=path.name if names.count(path.name) == 1 else str(path), path=path, stem=stem)
            for path, stem in stems.items()
        ]

    def _refuse_existing(self) -> None:
        from cryomamba_core.cli.outputs import refuse_existing, target_of

        targets = {
            target_of(self._out, run.stem, artifact): run.path for run in self._runs for artifact in sorted(self._kept)
        }
        refuse_existing(targets, [self._summary] if self._summary else [], overwrite=self._overwrite)

    def _inspect(self) -> None:
        """Read every header before anything is queued; one bad file of a cohort is set aside."""
        from rich.text import Text

        for run in self._runs:
            try:
                reader = self._state.host.reader_for(run.path)
                with reader.open(run.path, voxel_size=self._voxel_size) as volume:
                    warnings = tuple(volume.warnings)
            except Exception as error:  # whatever a stranger's reader raises
                if not self._cohort:
                    raise
                run.refuse(error)
                continue
            for warning in warnings:
                text = Text.assemble(("warning: ", "yellow"), f"{run.name}: {warning.message}")
                self._state.err.print(text.append(f" ({warning.hint})" if warning.hint else "", style="dim"))

    async def _work(self, interruption: Interruption) -> dict[FileRun, JobPlan]:
        from cryomamba_core.cli.boards import open_board
        from cryomamba_core.cli.outputs import OutputFolder
        from cryomamba_core.cli.segmenting import plan_all, segment_all

        async with self._state.session() as session:
            order = await self._order(session)
            if self._plan_only:
                with open_board(self._state.err, self._runs, session) as board:
                    return await plan_all(session, order, self._runs, board)
            with (
                OutputFolder(self._out, overwrite=self._overwrite, spared=[run.path for run in self._runs]) as folder,
                open_board(self._state.err, self._runs, session) as board,
            ):
                for run in self._runs:
                    board.changed(run)
                await segment_all(session, order, self._runs, folder, board, interruption)
        return {}

    async def _order(self, session: Session) -> Order:
        from cryomamba_core.cli import scopes
        from cryomamba_core.cli.choosing import choose
        from cryomamba_core.cli.segmenting import Order
        from cryomamba_core.jobs import JobConfig, Source

        needed = list(scopes.PLAN)
        needed += [] if self._on_server or not self._state.remote else [scopes.SEND]
        needed += [] if self._plan_only else [scopes.FETCH]
        server = await scopes.allowed_info(session, *needed)
        scopes.require_scopes(server, *needed)
        if self._on_server and server.shares_files:
            raise _no_server(self._state)
        choice = choose(
            self._state,
            await session.models(),
            model=self._model,
            runner=self._runner,
            assignments=self._params,
        )
        config = JobConfig(
            source=Source(path=str(self._runs[0].path.absolute())),
            model=choice.model,
            runner=choice.runner,
            params=choice.params,
            artifacts=self._asked,
            voxel_size=self._voxel_size,
            shards=self._shards,
        )
        return Order(
            config=config,
            left_out=self._left_out,
            sends=not (self._on_server or server.shares_files),
            upload_hours=server.limits.upload_hours if server.limits else None,
            command=self._state.command,
        )

    def _write_summary(self) -> None:
        from cryomamba_core.cli.results import write_summary

        if self._summary is None or self._plan_only:
            return
        self._summary.parent.mkdir(parents=True, exist_ok=True)
        write_summary(self._summary, self._runs)

    def _report(self) -> None:
        from cryomamba_core.cli import reports

        if self._as_json:
            self._state.print_json(reports.plain_outcome(self._runs, self._summary))
        elif self._cohort:
            reports.show_cohort(self._state, self._runs, self._summary)
        else:
            reports.show_one(self._state, self._runs[0])

    def _report_plans(self, plans: dict[FileRun, JobPlan]) -> None:
        from cryomamba_core.cli import reports

        if self._as_json:
            self._state.print_json(reports.plain_plans(self._runs, plans))
        else:
            reports.show_plans(self._state, self._runs, plans)


def _require_server_paths(state: CliState, files: Sequence[Path]) -> None:
    """Refuse what cannot be a file on a server's disk."""
    if not state.remote:
        raise _no_server(state)
    for path in files:
        if not path.is_absolute():
            raise InvalidParameter(
                f"{path} is no whole path, and --on-server takes none from here",
                hint="write it as on the server, e.g. /data/tomograms/a.mrc, or leave --on-server out to send the file",
            )


def _no_server(state: CliState) -> InvalidParameter:
    return InvalidParameter(
        f"--on-server is for files on a server's disk, and {state.server} opens the files of this computer",
        hint="leave --on-server out, or name the server with --server",
    )

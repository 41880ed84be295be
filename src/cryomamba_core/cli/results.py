"""A finished job's files: fetched whole or not at all, and what they say."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from cryomamba_core import wording
from cryomamba_core.artifacts import Artifact, Manifest
from cryomamba_core.cli.choosing import MANIFEST
from cryomamba_core.cli.outputs import OutputFolder, target_of
from cryomamba_core.cli.transfers import Transfer
from cryomamba_core.durable import sha256_of, write_whole
from cryomamba_core.errors import CryoMambaError, OutputExists, ServerError
from cryomamba_core.wire import load_json, to_plain

if TYPE_CHECKING:
    from rich.table import Table

    from cryomamba_core.cli.boards import Board
    from cryomamba_core.cli.rows import Row
    from cryomamba_core.cli.segmenting import FileRun
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobRecord
    from cryomamba_core.measures import LabelStatistics

#: The state of a job whose results are fetched.
FETCHING = "fetching"
#: Seconds in which most results are here, so that nothing is said of how far they are.
QUICK = 0.5
#: Bytes of a manifest that is read; one of many labels and a long header has less than a hundredth of it.
MOST_PROVENANCE = 64 << 20


@frozen(kw_only=True)
class Saved:
    """What a job left on this machine.

    Attributes
    ----------
    files
        Each artifact and where it was saved.
    manifest
        Its provenance, None if the engine has none.
    """

    files: tuple[tuple[Artifact, Path], ...]
    manifest: Manifest | None

    @property
    def statistics(self) -> tuple[LabelStatistics, ...]:
        """One entry for each label."""
        return self.manifest.run.statistics if self.manifest else ()

    def plain_artifacts(self) -> list[dict[str, Any]]:
        """Names, paths, sizes and digests as JSON types."""
        return [
            {"name": artifact.name, "path": str(path.absolute()), "size": artifact.size, "sha256": artifact.sha256}
            for artifact, path in self.files
        ]


async def fetch(
    session: Session,
    record: JobRecord,
    folder: OutputFolder,
    stem: str,
    left_out: Collection[str],
    row: Row,
    board: Board,
) -> Saved:
    """Save a job's artifacts.

    All of them are fetched before the first one takes its name, so that an interruption leaves
    either every file or none. What a call that was cut off has fetched is not fetched again. A name
    that is taken is noticed before anything is fetched.

    Parameters
    ----------
    session, record
        The engine, and the job.
    folder, stem
        Where to save, and what the names begin with.
    left_out
        Names of the artifacts that are not wanted.
    row, board
        Say how far it is.

    Raises
    ------
    OutputExists, InvalidParameter
        As `OutputFolder.publish`.
    """
    import trio

    row.state = FETCHING
    transfer = Transfer(row, FETCHING, lambda: board.changed(row), after=QUICK)
    transfer.end()
    board.changed(row)
    fetched = [each for each in record.artifacts if each.name not in left_out or each.name == MANIFEST]
    wanted = tuple(
        (artifact, target_of(folder.path, stem, artifact.name))
        for artifact in record.artifacts
        if artifact.name not in left_out
    )
    await trio.to_thread.run_sync(folder.require_free, [path for _, path in wanted])
    with folder.stage(record.id, kept_after=(OutputExists, ServerError)) as stage:
        missing = [each for each in fetched if not await trio.to_thread.run_sync(_is_there, stage / each.name, each)]
        total = sum(artifact.size for artifact in fetched)
        done = total - sum(artifact.size for artifact in missing)
        for artifact in missing:
            report = partial(_report, transfer, done, total)
            await session.download(record.id, artifact, stage / artifact.name, on_progress=report)
            done += artifact.size
        transfer.end()
        manifest = _manifest(stage / MANIFEST)
        await trio.to_thread.run_sync(folder.publish, {stage / artifact.name: path for artifact, path in wanted})
        return Saved(files=wanted, manifest=manifest)


def _report(transfer: Transfer, before: int, total: int, done: int, _: int) -> None:
    """Report bytes of one artifact as bytes of all."""
    transfer.report(before + done, total)


def _is_there(target: Path, artifact: Artifact) -> bool:
    """Whether an artifact was fetched before; anything else under its name is removed."""
    if target.is_file() and target.stat().st_size == artifact.size and sha256_of(target) == artifact.sha256:
        return True
    target.unlink(missing_ok=True)
    return False


def write_summary(path: Path, runs: Sequence[FileRun]) -> None:
    """Write the table of a cohort: a line for each file, four columns for each label."""
    labels = list(dict.fromkeys(entry.name for run in runs for entry in run.statistics))
    measures = ("voxels", "volume_nm3", "surface_area_nm2", "components")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["file", "state", "job_id", "error_code", "message", "seconds"]
        + [f"{label}_{measure}" for label in labels for measure in measures]
    )
    for run in runs:
        known = {entry.name: entry for entry in run.statistics}
        row: list[Any] = [str(run.path), run.state, run.job_id]
        row += [run.error.code, run.error.message] if run.error else ["", ""]
        row.append("" if run.seconds is None else f"{run.seconds:.3f}")
        row += [getattr(known[label], measure) if label in known else "" for label in labels for measure in measures]
        writer.writerow(row)
    write_whole(path, text.getvalue().encode(errors="replace"))


def plain_run(run: FileRun) -> dict[str, Any]:
    """What became of a file, as JSON types."""
    return {
        "file": str(run.path),
        "state": run.state,
        "job_id": run.job_id or None,
        "seconds": run.seconds,
        "error": to_plain(run.error) if run.error else None,
        "artifacts": run.saved.plain_artifacts() if run.saved else [],
        "labels": [to_plain(entry) for entry in run.statistics],
        "notes": list(run.saved.manifest.notes) if run.saved and run.saved.manifest else [],
    }


def label_table(saved: Saved) -> Table:
    """What was found, a line for each label."""
    from rich.text import Text

    from cryomamba_core.cli.tables import new_table

    columns = ("voxels", "volume nm³", "surface nm²", "pieces")
    table = new_table("  label", *columns, right=columns)
    colors = {label.value: label.color for label in saved.manifest.run.model.labels} if saved.manifest else {}
    for entry in saved.statistics:
        table.add_row(
            Text.assemble(("  ■ ", colors.get(entry.value, "")), entry.name),
            f"{entry.voxels:,}",
            wording.measured(entry.volume_nm3),
            wording.measured(entry.surface_area_nm2),
            f"{entry.components:,}",
        )
    return table


def in_a_few_words(statistics: Iterable[LabelStatistics]) -> str:
    """The volumes of the labels, e.g. ``membrane 12,300 nm³``."""
    return ", ".join(f"{entry.name} {wording.measured(entry.volume_nm3)} nm³" for entry in statistics)


def _manifest(path: Path) -> Manifest | None:
    try:
        if path.stat().st_size > MOST_PROVENANCE:
            return None
        return load_json(path.read_bytes(), Manifest)
    except (OSError, CryoMambaError, RecursionError):
        return None

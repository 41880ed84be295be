"""What ``cryomamba segment`` prints when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cryomamba_core import wording
from cryomamba_core.cli.failures import show_error
from cryomamba_core.cli.results import label_table, plain_run
from cryomamba_core.cli.tables import new_table, state_text
from cryomamba_core.wire import to_plain

if TYPE_CHECKING:
    from cryomamba_core.cli.segmenting import FileRun
    from cryomamba_core.cli.state import CliState
    from cryomamba_core.plans import JobPlan


def plain_outcome(runs: Sequence[FileRun], summary: Path | None) -> dict[str, Any]:
    """What became of the files, as JSON types."""
    return {
        "results": [plain_run(run) for run in runs],
        "summary": str(summary.absolute()) if summary and summary.exists() else None,
    }


def show_one(state: CliState, run: FileRun) -> None:
    """Print what was found in one file, and where the results are."""
    state.out.print(
        Text.assemble((run.name, "bold"), "  ", state_text(run.state), f" in {wording.duration(run.seconds)}")
    )
    if run.saved is None:
        return
    if run.statistics:
        state.out.print(label_table(run.saved))
    if run.saved.manifest:
        for note in run.saved.manifest.notes:
            state.out.print(Text.assemble(("  note: ", "cyan"), note))
    for artifact, path in run.saved.files:
        state.out.print(
            Text.assemble(f"  {wording.shown_path(path)}", (f"  {wording.byte_size(artifact.size)}", "dim"))
        )


def show_cohort(state: CliState, runs: Sequence[FileRun], summary: Path | None) -> None:
    """Print a line for each file, what went wrong, and where the results are."""
    table = new_table("file", "state", "time", "found", right=("time",))
    for run in runs:
        table.add_row(run.name, state_text(run.state), wording.duration(run.seconds), run.result)
    state.out.print(table)
    failed = [run for run in runs if run.error is not None]
    for run in failed:
        assert run.error is not None
        show_error(state.err, run.error, subject=run.name)
    done = len(runs) - len(failed)
    state.out.print()
    line = Text(f"{done} of {wording.plural(len(runs), 'file')} completed", style="green" if not failed else "yellow")
    if summary is not None and summary.exists():
        line.append(f"  summary in {wording.shown_path(summary)}", style="dim")
    state.out.print(line)


def plain_plans(runs: Sequence[FileRun], plans: Mapping[FileRun, JobPlan]) -> dict[str, Any]:
    """Plans and refusals, as JSON types."""
    return {
        "plans": [
            {
                "file": str(run.path),
                "plan": to_plain(plans[run]) if run in plans else None,
                "error": to_plain(run.error) if run.error else None,
            }
            for run in runs
        ]
    }


def show_plans(state: CliState, runs: Sequence[FileRun], plans: Mapping[FileRun, JobPlan]) -> None:
    """Print what each file would cost."""
    table = new_table(
        "file",
        "tiles",
        "memory",
        "GPU memory",
        "disk",
        "time",
        "device",
        "queue",
        right=("tiles", "memory", "GPU memory", "disk", "time"),
    )
    for run in runs:
        if run not in plans:
            continue
        plan = plans[run]
        table.add_row(
            run.name,
            f"{plan.run.tiles:,}",
            f"{plan.run.shards_at_once} × " * (plan.run.shards_at_once > 1) + wording.byte_size(plan.run.ram_bytes),
            wording.byte_size(plan.run.vram_bytes) if plan.run.vram_bytes else "–",
            wording.byte_size(plan.disk_bytes),
            wording.duration(plan.run.seconds) or "unknown",
            plan.device,
            wording.place(plan.queue_position, plan.starts_in_seconds),
        )
    if plans:
        state.out.print(table)
    for note in dict.fromkeys(note for plan in plans.values() for note in plan.run.notes):
        state.out.print(Text.assemble(("note: ", "cyan"), note))
    for run in runs:
        if run.error is not None:
            show_error(state.err, run.error, subject=run.name)

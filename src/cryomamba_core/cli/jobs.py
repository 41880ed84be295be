"""``cryomamba jobs``: what the engine has done, does and will do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from cryomamba_core.cli.completion import complete_jobs
from cryomamba_core.cli.options import json_option, server_options
from cryomamba_core.cli.state import CliState
from cryomamba_core.errors import JobError, JobFailed, JobWasCanceled, UnknownJob

if TYPE_CHECKING:
    from cryomamba_core.cli.results import Saved
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobRecord

#: Characters of an id that tell jobs apart: those that hold its time, to the millisecond.
SHORT = 13
#: How many jobs are asked for at a time.
PAGE = 100


@click.group()
def jobs() -> None:
    """List, show, watch, cancel and retry jobs.

    A job may be named by the first characters of its id.
    """


@jobs.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@server_options
@json_option
@click.pass_obj
def list_jobs(state: CliState, *, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.tables import new_table, state_text
    from cryomamba_core.wire import to_plain

    records = state.ask(lambda session: _newest(session, limit))
    if as_json:
        state.print_json({"jobs": [to_plain(record) for record in records]})
        return
    if not records:
        state.err.print(f"no jobs yet; make one with: {state.command('segment FILE --model NAME')}")
        return
    table = new_table("job", "state", "done", "time", "created", "file", "model")
    length = short_length([record.id for record in records])
    for record in records:
        done = wording.percent(record.progress.fraction) if record.progress and record.state.active else ""
        table.add_row(
            Text(record.id[:length], style="bold"),
            state_text(record.state),
            done,
            wording.duration(_seconds(record)),
            wording.moment(record.created_at),
            wording.one_line(record.config.label),
            record.config.model or "",
        )
    state.out.print(table)


@jobs.command("show")
@click.argument("job_id", metavar="ID", shell_complete=complete_jobs)
@server_options
@json_option
@click.pass_obj
def show_job(state: CliState, job_id: str, *, as_json: bool) -> None:
    """Show everything that is known of a job."""
    from cryomamba_core.wire import to_plain

    async def ask(session: Session) -> JobRecord:
        return await session.job(await resolve(session, job_id))

    record = state.ask(ask)
    if as_json:
        state.print_json(to_plain(record))
    else:
        _show(state, record)


@jobs.command("watch")
@click.argument("job_id", metavar="ID", shell_complete=complete_jobs)
@server_options
@json_option
@click.pass_obj
def watch_job(state: CliState, job_id: str, *, as_json: bool) -> None:
    """Follow a job to its end. Ctrl-C stops watching, not the job."""
    from cryomamba_core.wire import to_plain

    record = state.run(lambda _: _watch(state, job_id))
    if record.error is not None:
        raise JobFailed(record.error)
    if record.state == "canceled":
        raise JobWasCanceled("the job was canceled", hint=f"{state.command(f'jobs retry {record.id}')} runs it again")
    if as_json:
        state.print_json(to_plain(record))
    else:
        _show(state, record)


@jobs.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_jobs)
@server_options
@json_option
@click.pass_obj
def cancel_jobs(state: CliState, job_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Stop jobs, and wait until they have stopped."""

    async def ask(session: Session) -> list[JobRecord]:
        chosen = [await resolve(session, job_id) for job_id in job_ids]
        return [await session.cancel(job_id) for job_id in dict.fromkeys(chosen)]

    _tell(state, state.ask(ask), as_json=as_json)


@jobs.command("retry")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_jobs)
@server_options
@json_option
@click.pass_obj
def retry_jobs(state: CliState, job_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Queue failed or canceled jobs again; follow them with watch."""

    async def ask(session: Session) -> list[JobRecord]:
        chosen = [await resolve(session, job_id) for job_id in job_ids]
        return [await session.retry(job_id) for job_id in dict.fromkeys(chosen)]

    records = state.ask(ask)
    _tell(state, records, as_json=as_json)
    if not as_json:
        state.err.print(f"follow with: {state.command(f'jobs watch {records[0].id[:SHORT]}')}", style="dim")


@jobs.command("fetch")
@click.argument("job_id", metavar="ID", shell_complete=complete_jobs)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the results; the current one if left out.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@server_options
@json_option
@click.pass_obj
def fetch_job(state: CliState, job_id: str, *, out: Path, overwrite: bool, as_json: bool) -> None:
    """Save the results of a job that has completed, as segment would have."""
    from cryomamba_core import wording

    saved = state.run(lambda _: _fetch(state, job_id, out, overwrite=overwrite))
    if as_json:
        state.print_json({"artifacts": saved.plain_artifacts()})
        return
    for _, path in saved.files:
        state.out.print(wording.shown_path(path))


async def resolve(session: Session, prefix: str) -> str:
    """The id that `prefix` begins.

    Raises
    ------
    UnknownJob
        If no job's id begins so, or several do.
    """
    if len(prefix) >= len("00000000-0000-0000-0000-000000000000"):
        return (await session.job(prefix)).id
    found: list[JobRecord] = []
    page = await session.jobs(limit=PAGE)
    while page:
        found += [record for record in page if prefix and record.id.startswith(prefix.lower())]
        page = await session.jobs(limit=PAGE, before=page[-1].id) if len(page) == PAGE else ()
    if len(found) == 1:
        return found[0].id
    if not found:
        raise UnknownJob(f"no job's id begins with {prefix!r}", hint="list them with: cryomamba jobs list")
    length = short_length([record.id for record in found])
    several = ", ".join(f"{record.id[:length]} ({record.config.label})" for record in found[:5])
    raise UnknownJob(f"{len(found)} jobs' ids begin with {prefix!r}", hint=f"write more of it: {several}")


def short_length(ids: Sequence[str]) -> int:
    """How many characters tell `ids` apart."""
    length = SHORT
    while len({job_id[:length] for job_id in ids}) < len(set(ids)):
        length += 1
    return length


async def _newest(session: Session, limit: int) -> list[JobRecord]:
    records = list(await session.jobs(limit=min(limit, PAGE)))
    while records and len(records) < limit and len(records) % PAGE == 0:
        page = await session.jobs(limit=min(limit - len(records), PAGE), before=records[-1].id)
        if not page:
            break
        records += page
    return records


async def _watch(state: CliState, job_id: str) -> JobRecord:
    import trio

    from cryomamba_core.cli.boards import open_board
    from cryomamba_core.cli.places import keep_places
    from cryomamba_core.cli.rows import Row, follow

    async with state.session() as session:
        record = await session.job(await resolve(session, job_id))
        row = Row(name=record.config.label or record.id[:SHORT])
        row.take_record(record)
        with open_board(state.err, [row], session) as board:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.tick)
                nursery.start_soon(keep_places, session, [row], board)
                record = await follow(session, row, board)
                board.changed(row)
                nursery.cancel_scope.cancel()
        return record


async def _fetch(state: CliState, job_id: str, out: Path, *, overwrite: bool) -> Saved:
    import trio

    from cryomamba_core.cli.boards import open_board
    from cryomamba_core.cli.outputs import OutputFolder, stem_of
    from cryomamba_core.cli.results import fetch
    from cryomamba_core.cli.rows import Row

    async with state.session() as session:
        record = await session.job(await resolve(session, job_id))
        if record.state != "completed":
            raise JobError(
                f"the job is {record.state} and has no results",
                hint=f"see: {state.command(f'jobs show {record.id[:SHORT]}')}",
            )
        label = record.config.label or record.id
        row = Row(name=label)
        with (
            OutputFolder(out, overwrite=overwrite) as folder,
            open_board(state.err, [row], session) as board,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.tick)
                saved = await fetch(session, record, folder, stem_of(label, state.host), (), row, board)
                nursery.cancel_scope.cancel()
        return saved


def _tell(state: CliState, records: Sequence[JobRecord], *, as_json: bool) -> None:
    from rich.text import Text

    from cryomamba_core.cli.tables import state_text
    from cryomamba_core.wire import to_plain

    if as_json:
        state.print_json({"jobs": [to_plain(record) for record in records]})
        return
    for record in records:
        state.out.print(Text.assemble((record.id[:SHORT], "bold"), "  ", state_text(record.state)))


def _show(state: CliState, record: JobRecord) -> None:
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.failures import show_error
    from cryomamba_core.cli.tables import new_form, state_text
    from cryomamba_core.parameters import format_value

    config = record.config
    heading = wording.one_line(config.label) or "job"
    state.out.print(Text.assemble((heading, "bold"), "  ", state_text(record.state)))
    form = new_form()
    params = "  ".join(f"{name}={format_value(value)}" for name, value in config.params.items())
    facts = {
        "id": record.id,
        "source": config.source.path or f"uploaded file {config.source.file_id}",
        "model": f"{config.model} (runner {config.runner})",
        "parameters": params,
        "shards": str(config.shards) if config.shards > 1 else "",
        "voxel size": wording.lengths(config.voxel_size, "Å, as given") if config.voxel_size else "",
        "queue": wording.place(record.queue_position, record.starts_in_seconds),
        "done": wording.percent(record.progress.fraction) if record.progress and record.state.active else "",
        "time left": wording.duration(record.eta_seconds) if record.state.active else "",
        "attempt": str(record.attempt) if record.attempt > 1 else "",
        "created": wording.moment(record.created_at),
        "started": wording.moment(record.started_at),
        "finished": wording.moment(record.finished_at),
        "time": wording.duration(_seconds(record)),
    }
    for key, value in facts.items():
        if value:
            form.add_row(f"  {key}", value)
    for artifact in record.artifacts:
        form.add_row("  artifact", f"{artifact.name}  {wording.byte_size(artifact.size)}")
    state.out.print(form)
    if record.error is not None:
        show_error(state.out, record.error)


def _seconds(record: JobRecord) -> float | None:
    if record.started_at is None or record.finished_at is None:
        return None
    return (record.finished_at - record.started_at).total_seconds()

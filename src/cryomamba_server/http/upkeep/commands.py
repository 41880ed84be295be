"""``cryomamba backup`` and ``cryomamba restore``: the records of a server, safe elsewhere."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from cryomamba_core.cli.options import json_option
from cryomamba_core.cli.state import CliState
from cryomamba_server.http.access.commands import data_dir_option


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_dir_option
@click.option("--with-keys", is_flag=True, help="Also what tokens and addresses are signed with, and the certificate.")
@json_option
@click.pass_obj
def backup(state: CliState, file: Path, *, data_dir: Path | None, with_keys: bool, as_json: bool) -> None:
    """Copy the records of a data directory into FILE, while its server goes on.

    Records are jobs, files, uploads and tokens, as they are at one moment. What is in the files is not
    copied: keep copies of the folders raw, artifacts and models of the data directory. With keys the
    file is a secret: whoever has it can make tokens.
    """
    from cryomamba_core.wire import to_plain
    from cryomamba_core.wording import byte_size, plural
    from cryomamba_server.http.upkeep.backup import make_backup

    state.use_data_dir(data_dir)
    manifest = make_backup(state.settings.data_dir, file.absolute(), with_keys=with_keys)
    if as_json:
        state.print_json(to_plain(manifest))
        return
    size = byte_size(file.stat().st_size)
    state.out.print(f"{file}: {plural(manifest.jobs, 'job')}, {plural(manifest.files, 'file')}, {size}")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_dir_option
@json_option
@click.pass_obj
def restore(state: CliState, file: Path, *, data_dir: Path | None, as_json: bool) -> None:
    """Put the records in FILE, which cryomamba backup wrote, into a new data directory.

    Put the folders raw, artifacts and models back first, where there are copies of them: jobs without
    their results become failed ones, and files without their content are forgotten. Jobs that ran
    wait again.
    """
    from cryomamba_core.wire import to_plain
    from cryomamba_core.wording import moment, plural
    from cryomamba_server.http.upkeep.restore import restore_backup

    state.use_data_dir(data_dir)
    folder = state.settings.data_dir
    restored = restore_backup(file.absolute(), folder, state.host.storages.get("filesystem"))
    if as_json:
        state.print_json(to_plain(restored))
        return
    manifest = restored.manifest
    state.out.print(
        f"{folder}: {plural(manifest.jobs, 'job')} and {plural(manifest.files, 'file')}"
        f" as of {moment(manifest.created_at)}"
    )
    changes = {
        f"{plural(restored.requeued, 'job')} that ran will run again": restored.requeued,
        f"{plural(restored.without_results, 'job')} without results: retry them": restored.without_results,
        f"{plural(restored.without_content, 'file')} without content: send them again": restored.without_content,
    }
    for words, count in changes.items():
        if count:
            state.out.print(f"  {words}")

"""``cryomamba join``: files that hold a channel each become one file that holds them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from cryomamba_core.cli.options import json_option, voxel_size_option
from cryomamba_core.cli.state import CliState

if TYPE_CHECKING:
    from cryomamba_core.cli.joining import Joined, Wish
    from cryomamba_core.geometry import Vector3

#: The state of a file that is written, and seconds before that is worth a word.
JOINING, QUICK = "joining", 1.0


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; its name says the format, e.g. both.mrc, both.nii.gz or both.nrrd.",
)
@voxel_size_option
@click.option(
    "--grid-of-first",
    is_flag=True,
    help="Take voxel size and place of the first FILE for all, whatever the other headers say.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@json_option
@click.pass_obj
def join(
    state: CliState,
    *,
    files: tuple[Path, ...],
    out: Path,
    voxel_size: Vector3 | None,
    grid_of_first: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the channels of one volume, each in a FILE of its own, into one file.

    They become channels in the order in which they are given, which for a model is that of its dataset.json. A FILE
    that holds several channels gives them all. All must lie on the same grid, and no voxel changes its value.
    """
    from cryomamba_core.cli.joining import Wish

    wish = Wish(files=files, target=out, voxel_size=voxel_size, grid_of_first=grid_of_first, overwrite=overwrite)
    joined = state.run(lambda _: _join(state, wish))
    if as_json:
        state.print_json(_plain(joined))
    else:
        _show(state, joined)


async def _join(state: CliState, wish: Wish) -> Joined:
    """Join, and show how far it is."""
    import trio

    from cryomamba_core.cli.boards import board_for
    from cryomamba_core.cli.joining import join_files
    from cryomamba_core.cli.rows import Row
    from cryomamba_core.cli.transfers import Transfer

    row = Row(name=wish.target.name, state=JOINING)
    board = board_for(state.err, [row])
    transfer = Transfer(row, JOINING, lambda: board.changed(row), after=QUICK)

    with board:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.tick)
            joined = await join_files(state.host, wish, on_progress=transfer.report)
            nursery.cancel_scope.cancel()
    return joined


def _plain(joined: Joined) -> dict[str, Any]:
    """What was written, as JSON types."""
    from cryomamba_core.wire import to_plain

    return {
        "path": str(joined.path.absolute()),
        "format": joined.format,
        "size": joined.size,
        "shape": list(joined.grid.shape),
        "voxel_size": list(joined.grid.voxel_size),
        "origin": list(joined.grid.origin),
        "stored_axes": list(joined.grid.stored_axes),
        "dtype": joined.dtype,
        "channels": [
            {"path": str(source.path), "channel": source.channel, "dtype": source.dtype} for source in joined.sources
        ],
        "notes": list(joined.notes),
        "warnings": [{"path": str(path), **to_plain(warning)} for path, warning in joined.warnings],
    }


def _show(state: CliState, joined: Joined) -> None:
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.tables import new_form

    heading = Text(wording.shown_path(joined.path), style="bold")
    state.out.print(heading.append(f"  {joined.format} · {wording.byte_size(joined.size)}", style="not bold dim"))
    form = new_form()
    form.add_row("  shape", f"{wording.shape(joined.grid.shape)} voxels (z, y, x)")
    form.add_row("  voxel size", wording.lengths(joined.grid.voxel_size, "Å"))
    form.add_row("  type", joined.dtype)
    for index, source in enumerate(joined.sources):
        form.add_row(f"  channel {index}", source.name)
    state.out.print(form)
    for note in joined.notes:
        state.out.print(Text.assemble(("  note: ", "cyan"), note))
    for path, warning in joined.warnings:
        state.out.print(Text.assemble(("  warning: ", "yellow"), f"{path}: {warning.message}"))
        if warning.hint:
            state.out.print(Text.assemble(("  hint:    ", "cyan"), warning.hint))

"""``cryomamba demo``: the main job on a tomogram of which every label is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from cryomamba_core.cli.state import CliState

#: Seed of the demonstration's tomogram; the model has never seen it.
SEED = 7


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for tomogram, truth, results and picture; files of an earlier demo are replaced.",
)
@click.option("--seed", type=click.IntRange(0, 9999), default=SEED, show_default=True, help="Which tomogram to make.")
@click.option("--in-process", is_flag=True, help="Run the engine in this process instead of starting a server.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of a table.")
@click.pass_context
def demo(context: click.Context, /, *, out: Path, seed: int, in_process: bool, as_json: bool) -> None:
    """Make a synthetic tomogram, segment it, and compare the answer with the truth.

    The tomogram holds vesicles, microtubules and ribosomes, seen through a microscope with contrast
    transfer, missing wedge and more noise than signal. A small nnU-Net that comes with CryoMamba
    segments it in a worker process, as it would yours.

    A server is started for the demo, on this computer only; the tomogram is uploaded to it, the answer
    is watched and downloaded, and the server is stopped. With the global option --server the demo runs
    on that server instead.
    """
    from click.core import ParameterSource

    from cryomamba_backends.demo.demonstration import Demonstration
    from cryomamba_core.cli.state import LOCAL

    state: CliState = context.obj
    source = context.find_root().get_parameter_source("server")
    if in_process and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("--in-process and --server exclude each other")
    if in_process:
        state.server = LOCAL
    own_server = not in_process and source in (None, ParameterSource.DEFAULT)
    summary = Demonstration(state, out, seed, own_server=own_server).run()
    if as_json:
        state.out.print(json.dumps(summary))

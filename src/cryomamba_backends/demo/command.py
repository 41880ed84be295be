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
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of a table.")
@click.pass_obj
def demo(state: CliState, *, out: Path, seed: int, as_json: bool) -> None:
    """Make a synthetic tomogram, segment it, and compare the answer with the truth.

    The tomogram holds vesicles, microtubules and ribosomes, seen through a microscope with contrast
    transfer, missing wedge and more noise than signal. A small nnU-Net that comes with CryoMamba
    segments it in a worker process, as it would yours.
    """
    from cryomamba_backends.demo.demonstration import Demonstration

    summary = Demonstration(state, out, seed).run()
    if as_json:
        state.out.print(json.dumps(summary))

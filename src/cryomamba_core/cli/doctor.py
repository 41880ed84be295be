"""``cryomamba doctor``: whether the main job can run here, and what to do if it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from cryomamba_core.cli.options import json_option, server_options
from cryomamba_core.cli.state import CliState, hushed

if TYPE_CHECKING:
    from cryomamba_core.cli.diagnosis import Finding


@click.command()
@server_options
@json_option
@click.pass_obj
def doctor(state: CliState, *, as_json: bool) -> None:
    """Say what is installed, which device will be used, what is missing, and the command that fixes it.

    The exit status is 0 if an nnU-Net model can segment a tomogram on this machine, else 1; with
    --server, if the server can be used from here.
    """
    from cryomamba_core.cli.diagnosis import examine
    from cryomamba_core.wire import to_plain

    with hushed("cryomamba_core.plugins"):
        findings = examine(state)
    ready = all(finding.state != "problem" for finding in findings)
    if as_json:
        state.print_json({"ready": ready, "findings": [to_plain(finding) for finding in findings]})
    else:
        _show(state, findings, ready=ready)
    raise Exit(0 if ready else 1)


def _show(state: CliState, findings: list[Finding], *, ready: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    marks: dict[str, Any] = {
        "ok": Text("✓", style="green"),
        "info": Text("·", style="dim"),
        "missing": Text("–", style="yellow"),
        "problem": Text("✗", style="bold red"),
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.message)
        if finding.fix:
            said.append("\nfix: ", style="cyan").append(finding.fix)
        table.add_row(marks[finding.state], Text(finding.name, style="bold"), said)
    state.out.print(table)
    state.out.print()
    if ready:
        state.out.print(Text("the main job can run here", style="green"))
    else:
        state.out.print(Text("the main job cannot run here: see ✗ above", style="bold red"))

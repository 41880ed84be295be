"""``cryomamba plugins``: what is installed, what it provides, and what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from cryomamba_core.cli.options import json_option
from cryomamba_core.cli.state import CliState, hushed

if TYPE_CHECKING:
    from cryomamba_core.plugin_record import PluginRecord


@click.command()
@json_option
@click.pass_obj
def plugins(state: CliState, *, as_json: bool) -> None:
    """Show what is installed, what it provides, and what was left out and why."""
    with hushed("cryomamba_core.plugins"):
        records = state.host.plugins
    if as_json:
        from cryomamba_core.wire import to_plain

        state.print_json({"plugins": [to_plain(record) for record in records]})
        return
    _show(state, [record for record in records if not record.error])
    broken = [record for record in records if record.error]
    if broken:
        from rich.text import Text

        state.out.print()
        state.out.print(Text("left out", style="bold yellow"))
        for record in broken:
            state.out.print(Text.assemble((f"  {record.name}", "bold"), f"  {record.distribution} {record.version}"))
            state.out.print(Text(f"    {record.error}", style="yellow"))


def _show(state: CliState, records: list[PluginRecord]) -> None:
    from cryomamba_core.cli.tables import new_table

    table = new_table("plugin", "package", "provides")
    for record in records:
        provides = "; ".join(f"{kind} {', '.join(names)}" for kind, names in record.provides.items())
        table.add_row(record.name, f"{record.distribution} {record.version}", provides or "–")
    state.out.print(table)

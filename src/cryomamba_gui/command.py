"""``cryomamba gui``: the desktop."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from cryomamba_core.cli.known_servers import complete_servers
from cryomamba_core.cli.options import voxel_size_option
from cryomamba_core.errors import PluginUnavailable

if TYPE_CHECKING:
    from cryomamba_core.cli.state import CliState
    from cryomamba_core.geometry import Vector3

#: What stands for a screen on Linux.
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
#: Modules of which one is needed to have windows.
BINDINGS = ("PyQt6", "PyQt5")


@click.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--connect",
    "url",
    metavar="URL",
    help="Engine to connect to; the last one if left out. local: is this computer.",
    shell_complete=complete_servers,
)
@voxel_size_option
@click.pass_obj
def gui(state: CliState, *, files: tuple[Path, ...], url: str | None, voxel_size: Vector3 | None) -> None:
    """Open the desktop: look at tomograms, segment them, correct the masks.

    It is a window of napari with a panel of CryoMamba's, which can also be opened in a napari that runs
    already: Plugins, CryoMamba.
    """
    _require_windows()
    for path in files:
        state.host.reader_for(path)
    from cryomamba_gui.qt.app import run

    server = url or (state.server if state.remote else None)
    run(state.host, files=[path.absolute() for path in files], url=server, voxel_size=voxel_size)


def _require_windows() -> None:
    """Raise `PluginUnavailable` where no window can be opened."""
    if find_spec("napari") is None or not any(find_spec(binding) for binding in BINDINGS):
        raise PluginUnavailable(
            "the desktop is not installed", hint="install it with: pip install 'cryomamba[gui-qt6]'"
        )
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in DISPLAYS):
        raise PluginUnavailable(
            "there is no screen to open a window on",
            hint="run it on the computer that you sit at, and name the server: cryomamba gui --connect URL",
        )

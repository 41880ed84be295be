"""The desktop as a program of its own: a window of napari with our panel in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

    from cryomamba_core.geometry import Vector3
    from cryomamba_core.plugins import PluginHost
    from cryomamba_gui.qt.panel import Panel

#: Of the panel in napari's window.
TITLE = "CryoMamba"


def run(
    host: PluginHost, *, files: Sequence[Path] = (), url: str | None = None, voxel_size: Vector3 | None = None
) -> None:
    """Show the window, and return when it has been closed and nothing of it is left.

    Parameters
    ----------
    host
        Every plugin.
    files
        Tomograms to open.
    url
        Engine to connect to; None for the last one.
    voxel_size
        Voxel size (z, y, x) in Å of the tomograms, instead of what their headers say.
    """
    import napari
    from napari.qt import get_qapp

    from cryomamba_gui.canvas.warming import warm_up
    from cryomamba_gui.qt.collecting import IdleCollector

    application = get_qapp()
    application.setApplicationDisplayName(TITLE)
    application.setQuitOnLastWindowClosed(False)  # trio ends before Qt does
    viewer = napari.Viewer(title=TITLE, show=False)
    panel = dock(viewer, host)
    bridge = panel.workplace.bridge
    application.lastWindowClosed.connect(lambda: bridge.close(application.quit))
    viewer.show()
    warm_up(viewer)
    IdleCollector(application)
    panel.connect_to(url)
    for path in files:
        panel.workplace.bench.open(path, voxel_size=voxel_size)
    napari.run()


def dock(viewer: napari.Viewer, host: PluginHost) -> Panel:
    """Put the panel into the window of a viewer of our own."""
    from cryomamba_gui.qt.panel import Panel
    from cryomamba_gui.qt.workplace import workplace_of

    panel = Panel(viewer, workplace_of(viewer, lambda: host))
    viewer.window.add_dock_widget(panel, name=TITLE, area="right")
    return panel

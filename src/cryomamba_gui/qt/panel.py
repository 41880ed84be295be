"""The panel: everything of ours in one dock beside napari's canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QTabWidget, QVBoxLayout

from cryomamba_gui.qt.connecting import ConnectBar
from cryomamba_gui.qt.debugging import DebugTab
from cryomamba_gui.qt.folding import Column
from cryomamba_gui.qt.jobs import JobsTab
from cryomamba_gui.qt.masking import MaskTab
from cryomamba_gui.qt.messages import MessageBar
from cryomamba_gui.qt.pieces import named
from cryomamba_gui.qt.segmenting import SegmentTab
from cryomamba_gui.qt.tomogram import TomogramTab
from cryomamba_gui.qt.workplace import workplace_of

if TYPE_CHECKING:
    import napari

    from cryomamba_gui.qt.workplace import Workplace


class Panel(Column):
    """Connection, tabs and messages.

    Parameters
    ----------
    viewer
        Of napari, that it is docked into.
    workplace
        Of that viewer.
    """

    def __init__(self, viewer: napari.Viewer, workplace: Workplace) -> None:
        super().__init__()
        self.viewer = viewer
        self.workplace = workplace
        self._bar = ConnectBar(workplace)
        self._tabs = named(QTabWidget(), "tabs")
        self._tabs.setUsesScrollButtons(True)
        for title, tab in (
            ("Tomogram", TomogramTab(workplace)),
            ("Segment", SegmentTab(workplace)),
            ("Jobs", JobsTab(workplace)),
            ("Mask", MaskTab(workplace)),
            ("Debug", DebugTab(workplace)),
        ):
            self._tabs.addTab(tab, title)
        layout = QVBoxLayout(self)
        layout.addWidget(self._bar)
        layout.addWidget(self._tabs, 1)
        layout.addWidget(MessageBar(workplace))
        named(self, "panel")

    def connect_to(self, url: str | None) -> None:
        """Connect with an engine; None for the one that was used last, if any."""
        wanted = url or self.workplace.desk.history.engine
        if wanted is not None:
            self._bar.connect_to(wanted)

    def turn_to(self, title: str) -> None:
        """Show a tab."""
        for index in range(self._tabs.count()):
            if self._tabs.tabText(index) == title:
                self._tabs.setCurrentIndex(index)


class DockedPanel(Panel):
    """The panel in a napari of somebody else.

    Parameters
    ----------
    napari_viewer
        As napari hands it to a widget of a plugin, which it knows by this name: behind a proxy.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        super().__init__(viewer, workplace_of(viewer))

"""What belongs to one viewer of napari: the desk, the tomograms on it, and trio's run in Qt's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio
from qtpy.QtCore import QCoreApplication

from cryomamba_core.artifacts import Manifest
from cryomamba_core.events import Completed, Failed, PreviewReady, Progress, StateChanged
from cryomamba_core.interfaces import ServerInfo
from cryomamba_core.jobs import JobConfig, JobProgress
from cryomamba_core.plans import JobPlan
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import Preview
from cryomamba_core.protocol.jobs import JobPage, JobView
from cryomamba_core.protocol.server import InputPage, ModelList
from cryomamba_core.protocol.uploads import PartReceipt, UploadedFile, UploadRequest, UploadStatus
from cryomamba_core.settings import load_settings
from cryomamba_core.wire import prepare
from cryomamba_gui.canvas.bench import Bench
from cryomamba_gui.desk.desk import Desk
from cryomamba_gui.qt.bridge import Bridge

if TYPE_CHECKING:
    import napari
    from qtpy.QtWidgets import QWidget

#: Property of Qt's application that holds the bridge: there is one of each.
BRIDGE = "cryomamba_bridge"

#: What engines tell and are told: Qt is not to wait while it is first read or written.
TOLD = (
    Completed,
    Failed,
    InputPage,
    JobConfig,
    JobPage,
    JobPlan,
    JobProgress,
    JobView,
    Manifest,
    ModelList,
    PartReceipt,
    Preview,
    PreviewReady,
    Progress,
    ServerInfo,
    StateChanged,
    UploadRequest,
    UploadStatus,
    UploadedFile,
)

_workplaces: WeakKeyDictionary[napari.Viewer, Workplace] = WeakKeyDictionary()


class Workplace:
    """A viewer's desk and bench, alive from the first use until its window or the bridge is closed.

    Attributes
    ----------
    desk, bench
        As named.
    """

    def __init__(self, viewer: napari.Viewer, host: PluginHost, bridge: Bridge) -> None:
        self.desk = Desk(host)
        self.bench = Bench(viewer, self.desk)
        self.bridge = bridge
        self._scope = trio.CancelScope()
        _window_of(viewer).destroyed.connect(self.close)
        bridge.run(self._run, name="desk")

    def close(self) -> None:
        """End what goes on, and save what is edited; it takes some turns of Qt."""
        self._scope.cancel()

    async def _run(self) -> None:
        with self._scope:
            try:
                await self.desk.run()
            finally:
                await self.bench.aclose()


def workplace_of(viewer: napari.Viewer, make_host: Callable[[], PluginHost] | None = None) -> Workplace:
    """The workplace of a viewer, made when it is first asked for.

    Parameters
    ----------
    viewer
        Of napari.
    make_host
        Gives the plugins; None for all that are installed, with the settings of this process.
    """
    if viewer not in _workplaces:
        prepare(*TOLD)
        host = make_host() if make_host is not None else PluginHost.discover(load_settings())
        _workplaces[viewer] = Workplace(viewer, host, bridge_of_application())
        _window_of(viewer).destroyed.connect(lambda: _workplaces.pop(viewer, None))
    return _workplaces[viewer]


def _window_of(viewer: napari.Viewer) -> QWidget:
    """The window that Qt deletes when the viewer is closed; of what napari says in public, its menu belongs to it."""
    window: QWidget = viewer.window.main_menu.window()
    return window


def bridge_of_application() -> Bridge:
    """Trio's run in Qt's thread; as a guest it ends when the application is about to quit."""
    application = QCoreApplication.instance()
    assert application is not None, "napari makes one"
    bridge = application.property(BRIDGE)
    if not isinstance(bridge, Bridge) or not bridge.running:
        bridge = Bridge()
        bridge.start()
        application.setProperty(BRIDGE, bridge)
        application.aboutToQuit.connect(bridge.drain)
    return bridge

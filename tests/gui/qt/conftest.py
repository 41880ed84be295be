"""Widgets at a real desk, with nothing of this computer's user."""

from types import SimpleNamespace

import engines
import mrcfile
import numpy as np
import pytest
import servers
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QWidget

from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_gui.desk.desk import Desk
from cryomamba_gui.qt.bridge import Bridge

#: Milliseconds in which what is waited for must come true, on a busy machine.
PATIENCE = 60_000


@pytest.fixture
def host(tmp_path):
    """Every installed plugin."""
    return PluginHost.discover(engines.make_settings(tmp_path / "desktop-data"))


@pytest.fixture
def workplace(host, qapp):
    """A desk that is at work, without a viewer."""
    bridge, desk = Bridge(), Desk(host)
    bridge.start()
    bridge.run(desk.run, name="desk")
    yield SimpleNamespace(desk=desk, bridge=bridge)
    bridge.drain()


@pytest.fixture
def eventually(qtbot):
    """Let Qt run until something has come true."""
    return lambda condition: qtbot.waitUntil(lambda: bool(condition()), timeout=PATIENCE)


@pytest.fixture
def show(qtbot):
    """Show a widget, in the width of a narrow panel."""

    def show(widget, *, height=400):
        qtbot.addWidget(widget)
        widget.resize(320, height)
        with qtbot.waitExposed(widget):
            widget.show()
        return widget

    return show


@pytest.fixture
def find():
    """A child by its object name, behind ``cryomamba.``."""

    def find(parent, kind, name):
        found = parent.findChild(kind, f"cryomamba.{name}")
        assert found is not None, f"there is no {kind.__name__} called {name}"
        return found

    return find


@pytest.fixture
def server_process(tmp_path):
    """A server in a process of its own."""
    with servers.ServerProcess(tmp_path / "served") as server:
        yield server


@pytest.fixture
def tls_server_process(tmp_path):
    """One that made its own certificate."""
    with servers.ServerProcess(tmp_path / "served-by-tls", "--tls-self-signed") as server:
        yield server


@pytest.fixture
def strangers_installed(tmp_path, monkeypatch):
    """Plugins of strangers, in this process and in those that it starts."""
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture
def take_seat(tmp_path, strangers_installed, qapp):
    """Sit down at the desktop, once or again."""
    from seats import Seat  # napari warns at its import, and here that is ignored

    seats = []

    def take():
        seats.append(Seat(tmp_path / "desktop-data"))
        return seats[-1]

    yield take
    for seat in seats:
        seat.close()


@pytest.fixture
def seat(take_seat):
    """A seat at the desktop."""
    return take_seat()


@pytest.fixture
def server(strangers_installed, server_process):
    """A server that has the plugins of the strangers."""
    return server_process


@pytest.fixture
def see(qtbot, find):
    """What a user sees of a widget and does with it."""
    return lambda widget: Eyes(widget, qtbot, find)


class Eyes:
    """A widget as its user meets it; children are named by their object names behind ``cryomamba.``."""

    def __init__(self, widget, qtbot, find):
        self.widget, self.qtbot, self._find = widget, qtbot, find

    def child(self, name, kind=QWidget):
        return self._find(self.widget, kind, name)

    def seen(self, name):
        """Whether there is such a child that is not hidden."""
        return any(child.isVisible() for child in self.widget.findChildren(QWidget, f"cryomamba.{name}"))

    def text(self, name):
        """Text of a child, None while it is hidden."""
        child = self.child(name)
        return child.text() if child.isVisible() else None

    def click(self, name):
        button = self.child(name)
        assert button.isVisible(), name
        assert button.isEnabled(), name
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, button.height() // 2))

    def type(self, name, text):
        line = self.child(name)
        line.selectAll()
        self.qtbot.keyClicks(line, text) if text else self.qtbot.keyClick(line, Qt.Key.Key_Delete)

    def choose(self, name, entry):
        """Choose an entry of a combo box by the arrow keys."""
        box = self.child(name)
        wanted = box.findText(entry)
        assert wanted >= 0, entry
        while (step := wanted - box.currentIndex()) != 0:
            self.qtbot.keyClick(box, Qt.Key.Key_Down if step > 0 else Qt.Key.Key_Up)


@pytest.fixture
def desktop(viewer, host, pump, monkeypatch):
    """A window of napari with our panel, worked by mouse and keyboard."""
    from desktops import Desktop  # napari warns at its import, and here that is ignored

    from cryomamba_gui.qt.app import dock

    monkeypatch.setenv("CRYOMAMBA_DATA_DIR", str(host.settings.data_dir))
    viewer.window.resize(1200, 900)
    desktop = Desktop(viewer, dock(viewer, host), pump)
    yield desktop
    desktop.panel.workplace.bridge.drain()


@pytest.fixture
def write_tomogram(tmp_path):
    """Write blobs (z, y, x) into an MRC file."""

    def write(name="tomo.mrc", *, shape=(10, 40, 50), voxel_size=8.0, origin=(0.0, 0.0, 0.0)):
        path = tmp_path / name
        noise = np.random.default_rng(5).normal(size=shape)
        blobs = sum(np.roll(noise, step, axis) for step in range(4) for axis in range(3))
        with mrcfile.new(path, blobs.astype(np.float32)) as file:
            file.voxel_size = voxel_size
            file.header.origin = origin
        return path

    return write


@pytest.fixture
def masked(desktop, write_tomogram, pump):
    """A desktop that shows the mask of a finished job, with the tab of the mask in front."""
    place = desktop.open(write_tomogram(origin=(-120.0, 80.0, 33.5)))
    desktop.connect("local:")
    config = JobConfig(source=Source(path=str(place.path)), runner="threshold")
    desktop.jobs.outbox.prepare(place.path, config, auto=True)
    pump(lambda: place.mask is not None and place.tomogram.overview is not None and not place.works)
    desktop.turn_to("Mask")
    pump(lambda: desktop.find("mask.note").isEnabled())
    return desktop

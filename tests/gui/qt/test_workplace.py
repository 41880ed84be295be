"""Several viewers in one Python: each has a desk of its own, which ends with its window."""

import gc

import napari
import psutil
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QEvent

from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.qt.app import dock
from cryomamba_gui.qt.workplace import workplace_of


@pytest.fixture
def open_viewer(host, qapp):
    """Open a viewer with our panel, for the time of the test. Nothing is drawn: Mesa draws in one window at a time."""
    viewers, bridges = [], []

    def open_one():
        viewers.append(napari.Viewer(show=False))
        bridges.append(dock(viewers[-1], host).workplace.bridge)
        return viewers[-1]

    yield open_one
    for bridge in bridges:
        bridge.drain()
    for viewer in viewers:
        if isalive(viewer.window.main_menu):
            viewer.close()
    gc.collect()
    delete_what_is_due()


def delete_what_is_due():
    """Delete what Qt deletes in its next turn, if nobody else lets it take turns."""
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def open_tomogram(viewer, path, pump):
    """Open a tomogram in a viewer that is connected with this computer; returns its workplace."""
    workplace = workplace_of(viewer)
    workplace.bench.open(path)
    workplace.desk.link.connect("local:", remember=False)
    pump(lambda: workplace.bench.at(path) is not None and workplace.desk.link.connected)
    return workplace


def held_open(path):
    return str(path) in {file.path for file in psutil.Process().open_files()}


@pytest.mark.parametrize(
    "close",
    [lambda viewer: viewer.close(), lambda viewer: viewer.window.main_menu.window().close()],
    ids=["by a program", "by its user"],
)
def test_a_viewer_that_is_closed_ends_its_desk_and_no_other(open_viewer, write_tomogram, pump, close):
    paths = [write_tomogram("one.mrc"), write_tomogram("two.mrc")]
    viewers = [open_viewer(), open_viewer()]
    one, two = (open_tomogram(viewer, path, pump) for viewer, path in zip(viewers, paths, strict=True))
    assert one is not two
    assert held_open(paths[0])
    close(viewers[0])
    delete_what_is_due()
    pump(lambda: not held_open(paths[0]) and one.desk.link.state is LinkState.APART)
    assert one.desk.soon(lambda: None, name="nothing").cancel_called, "it takes no more work"
    assert two.desk.link.connected
    assert held_open(paths[1])
    assert open_tomogram(viewers[1], write_tomogram("three.mrc"), pump) is two

"""``cryomamba gui`` in a process of its own, worked by a script of clicks.

::

    python driven_desktop.py DEED DATA_DIR TOMOGRAM URL GATE

With ``napari`` in the place of the address, it is the command ``napari`` with our panel. The token is in
``CRYOMAMBA_TOKEN``. What has come true is printed, a word a line.
"""

import os
import sys
import time
import traceback
from pathlib import Path

import napari
from desktops import Desktop
from napari.qt import get_qapp
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

from cryomamba_core.cli.main import main
from cryomamba_core.jobs import JobState

#: Seconds in which what is waited for must come true, on a busy machine.
DEADLINE = 120


def pump(condition):
    """Let Qt take turns until something has come true."""
    alarm = QTimer()
    alarm.start(5)
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            sys.exit("it did not come true")
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)


def submit_and_leave(desktop, tomogram, gate):
    """Close the window as soon as a job runs."""
    pump(lambda: desktop.bench.at(tomogram) is not None and desktop.link.connected)
    desktop.turn_to("Segment")
    desktop.choose("segment.model", "steps")
    desktop.type("form.free" if "steps" not in desktop.host.runners else "form.gate", _assignment(desktop, gate))
    desktop.click("segment.submit")
    pump(lambda: any(item.state.active for item in desktop.jobs.items))
    print("active", flush=True)


def come_back(desktop, tomogram, gate):
    """See the job that runs, let it end, and see its mask."""
    pump(lambda: desktop.jobs.items and desktop.jobs.items[0].state.active)
    print("active", flush=True)
    for section in range(1000):
        (gate / str(section)).touch()
    pump(lambda: desktop.jobs.items[0].state is JobState.COMPLETED)
    pump(lambda: desktop.bench.at(tomogram).mask is not None)
    print("mask", flush=True)


def open_and_leave(desktop, tomogram, gate):
    """Close the window as soon as the tomogram is shown."""
    pump(lambda: desktop.bench.at(tomogram) is not None)
    print("open", flush=True)


def _assignment(desktop, gate):
    return str(gate) if "steps" in desktop.host.runners else f"gate={gate}"


DEEDS = {deed.__name__: deed for deed in (submit_and_leave, come_back, open_and_leave)}


def drive(deed, tomogram, gate):
    """Find the window that the command has opened, do the deed, and close it as its user does."""
    pump(lambda: any(widget.objectName() == "cryomamba.panel" and widget.isVisible() for widget in _widgets()))
    [panel] = [widget for widget in _widgets() if widget.objectName() == "cryomamba.panel"]
    try:
        DEEDS[deed](Desktop(napari.current_viewer(), panel, pump), tomogram, gate)
    except BaseException:  # noqa: BLE001  # Qt would go on
        traceback.print_exc()
        os._exit(1)
    panel.window().close()


def _widgets():
    return QApplication.allWidgets()


def run_our_command(data_dir, tomogram, url):
    """``cryomamba gui``."""
    return main(["--data-dir", data_dir, "gui", tomogram, "--connect", url])


def run_napari(data_dir, tomogram, _):
    """``napari`` with our panel, as somebody starts it who has installed the plugin."""
    from napari.__main__ import _run

    os.environ["CRYOMAMBA_DATA_DIR"] = data_dir
    sys.argv = ["napari", "--with", "cryomamba", "--", tomogram]
    _run()
    return 0


if __name__ == "__main__":
    deed, data_dir, tomogram, url, gate = sys.argv[1:]
    get_qapp()
    run = napari.run

    def run_driven(**how):
        QTimer.singleShot(0, lambda: drive(deed, Path(tomogram), Path(gate)))
        run(**how)

    napari.run = run_driven  # the window is there, and its user begins
    sys.exit((run_napari if url == "napari" else run_our_command)(data_dir, tomogram, url))

"""``cryomamba gui`` in a process of its own, worked by a script of clicks.

::

    python driven_desktop.py DEED DATA_DIR TOMOGRAM URL GATE

With ``napari`` in the place of the address, it is the command ``napari`` with our panel. The token is in
``CRYOMAMBA_TOKEN``. What has come true is printed, a word a line.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import looks
import napari
from desktops import Desktop
from napari.qt import get_qapp
from qtpy.QtCore import QEventLoop, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication

from cryomamba_core.cli.main import main
from cryomamba_core.errors import ServerUnreachable
from cryomamba_core.jobs import JobConfig, JobState, Source

#: Seconds in which what is waited for must come true, on a busy machine.
DEADLINE = 120
#: Seconds in which the window must look as it should.
PATIENCE = 10
#: Width and height of a window that has hardly room for the panel, in pixels of Qt.
NARROW = (760, 600)


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


def look_through(desktop, tomogram, gate):
    """Step through sections in all three directions, turn the volume, and tell what was read of the file and held."""
    pump(lambda: desktop.bench.at(tomogram) is not None)
    place = desktop.bench.at(tomogram)
    pump(lambda: place.tomogram.overview is not None and not place.works)
    planes, stepper = place.tomogram.planes, place.stage.stepper
    _tell("open")
    before = _file_bytes()
    desktop.slide(0.8)
    pump(lambda: stepper.section > 0.7 * planes.shape[0] and not planes.pending)
    _tell("slider", file=_file_bytes() - before)
    desktop.slide(0.5)
    pump(lambda: stepper.section < 0.6 * planes.shape[0] and not planes.pending)
    for _ in "zyx":
        axis, section, before = stepper.axis, stepper.section, _file_bytes()
        for step in range(1, 9):
            desktop.press(Qt.Key.Key_Right)
            pump(lambda wanted=section + step: stepper.section == wanted and not planes.pending)
        _tell("zyx"[axis], file=_file_bytes() - before)
        desktop.press(Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)
        pump(lambda axis=axis: stepper.axis != axis and not planes.pending)
    desktop.press(Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
    pump(lambda: place.stage.overview.visible)
    before = _file_bytes()
    desktop.turn()
    _tell("volume", file=_file_bytes() - before)


def look_over(desktop, tomogram, gate):
    """Tell of each tab, in the light theme and a narrow window, what is cut, nameless, or out of reach of the keys."""
    desktop.viewer.theme = "light"
    panel, jobs = desktop.panel, desktop.jobs
    panel.window().resize(*NARROW)
    pump(lambda: desktop.bench.at(tomogram) is not None and desktop.link.connected)
    place = desktop.bench.at(tomogram)
    config = JobConfig(source=Source(path=str(tomogram)), runner="threshold")
    jobs.outbox.prepare(tomogram, config, auto=True)
    pump(lambda: place.mask is not None and place.tomogram.overview is not None and not place.works)
    planned = jobs.outbox.prepare(tomogram, config)
    pump(lambda: planned.plan is not None)
    for title in ("Tomogram", "Segment", "Jobs", "Mask", "Debug"):
        desktop.turn_to(title)
        if title == "Jobs":
            desktop.find("jobs.table").selectRow(0)
        for fold in panel.findChildren(QAbstractButton):
            if fold.objectName().endswith(".fold") and fold.isVisible():
                fold.setChecked(True)
        _look_at(desktop, title)
    panel.workplace.desk.troubles.report(ServerUnreachable("nobody answers", hint="ask again"), what="asking")
    desktop.link.connect("http://127.0.0.1:9", remember=False)
    pump(lambda: desktop.find("connect.retry").isVisible() and desktop.find("messages.dismiss").isVisible())
    _look_at(desktop, "away")


def _look_at(desktop, what):
    end = time.monotonic() + PATIENCE
    while (found := _found(desktop)) and time.monotonic() < end:
        QTest.qWait(100)  # Qt may not have laid out all of it yet
    print(json.dumps({"what": what, "found": found}), flush=True)


def _found(desktop):
    panel, first = desktop.panel, [desktop.find("connect.retry"), desktop.find("connect.address")]
    order = looks.walk(panel, next(widget for widget in first if widget.isVisible()))
    found = looks.cut(panel) + looks.overlapping(panel) + looks.nameless(panel)
    found += looks.unreached(panel, order) + looks.going_back(panel, order)
    return found + looks.doubled_keys(panel, [menu.text() for menu in desktop.viewer.window.main_menu.actions()])


def _tell(what, **figures):
    """Print what was measured, with the memory that this process has held at most, in bytes."""
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(json.dumps({"what": what, **figures, "peak": int(peak.split()[1]) << 10}), flush=True)


def _file_bytes():
    """Bytes that this process has read of files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _assignment(desktop, gate):
    return str(gate) if "steps" in desktop.host.runners else f"gate={gate}"


DEEDS = {deed.__name__: deed for deed in (submit_and_leave, come_back, open_and_leave, look_through, look_over)}


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

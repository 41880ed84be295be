"""Photograph the desktop in each of its states, for the documentation: real windows, a real server, the demo model.

::

    nox -s screenshots
    python tools/screenshots.py FOLDER [--theme light]

The tomogram is that of ``cryomamba demo``. It takes some minutes: the job that is watched is a real one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

WIDTH, HEIGHT = 1440, 900
#: Of the first that the demo's model is done with.
SECTION = 14
#: Seconds in which each state must come true.
DEADLINE = 600.0


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--theme", default="dark", choices=("dark", "light"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        _settle_in(Path(name))
        _work(Path(name), options.folder, options.theme)
    return 0


def _settle_in(home: Path) -> None:
    """Let nothing of this computer's user be read, written or photographed."""
    home.chmod(0o700)
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        os.environ[variable] = str(home)
    os.environ.update(NAPARI_CONFIG="", PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring", CRYOMAMBA_CONFIG="")


def _work(home: Path, folder: Path, theme: str) -> None:
    import napari
    import servers
    from desktops import Desktop
    from napari.qt import get_qapp
    from qtpy.QtTest import QTest

    from cryomamba_core.plugins import PluginHost
    from cryomamba_core.settings import Settings
    from cryomamba_gui.qt.app import dock

    get_qapp()
    tomogram = _make_tomogram(home / "lamella_07.mrc")
    viewer = napari.Viewer(show=False)
    panel = dock(viewer, PluginHost.discover(Settings(data_dir=home / "desktop")))
    viewer.show()
    viewer.window.resize(WIDTH, HEIGHT)
    viewer.theme = theme
    desktop = Desktop(viewer, panel, _pump)

    def shoot(name: str) -> None:
        QTest.qWait(500)  # what fades in and out, and what is laid out late
        panel.window().grab().save(str(folder / f"{name}.png"))
        _make_small(folder / f"{name}.png")
        print(folder / f"{name}.png", flush=True)

    with servers.ServerProcess(home / "server") as server:
        _tell_the_story(desktop, server, tomogram, shoot)
    if panel.workplace.desk.troubles.items:
        sys.exit(f"something went wrong: {panel.workplace.desk.troubles.items}")
    panel.workplace.bridge.drain()
    viewer.close()


def _tell_the_story(desktop: Any, server: Any, tomogram: Path, shoot: Callable[[str], None]) -> None:
    """Open, connect, segment, watch, look, correct, turn: a picture of each."""
    shoot("empty")
    place = desktop.open(tomogram)
    _pump(lambda: place.tomogram.overview is not None and not place.works)
    shoot("tomogram")
    desktop.type("connect.address", server.url)
    desktop.click("connect.login")
    shoot("connecting")
    desktop.type("dialog.token", server.token())
    desktop.click("dialog.go")
    _pump(lambda: desktop.link.connected)
    desktop.turn_to("Segment")
    desktop.choose("segment.model", "cryomamba-demo")
    desktop.choose("form.uncertainty", "margin")
    desktop.click("segment.plan")
    _pump(lambda: desktop.text("sending.plan"))
    shoot("plan")
    desktop.click("sending.submit")
    desktop.turn_to("Jobs")
    _pump(lambda: place.stage.preview.visible)
    desktop.find("jobs.table").selectRow(0)
    desktop.viewer.dims.set_current_step(0, SECTION)
    shoot("preview")
    _pump(lambda: place.mask is not None and not place.works)
    desktop.turn_to("Mask")
    desktop.viewer.dims.set_current_step(0, place.tomogram.grid.shape[0] // 2)
    shoot("mask")
    [uncertainty] = place.stage.companions.layers
    uncertainty.visible = True  # a click on its eye
    _pump(lambda: place.companions.files and not place.companions.files[0].planes.pending)
    shoot("uncertainty")
    uncertainty.visible = False
    desktop.click("mask.tool.paint")
    middle = [size // 2 for size in place.tomogram.grid.shape[1:]]
    desktop.paint(place, (middle[0], middle[1] - 40), (middle[0] + 30, middle[1] + 40))
    _pump(lambda: place.measures.current)
    shoot("edited")
    desktop.click("mask.tool.pan_zoom")
    desktop.viewer.dims.ndisplay = 3
    desktop.viewer.reset_view()
    shoot("volume")
    desktop.turn_to("Debug")
    shoot("debug")
    server.kill()
    desktop.viewer.dims.ndisplay = 2
    desktop.turn_to("Jobs")
    _pump(lambda: "not answer" in desktop.text("connect.state"))
    shoot("server-lost")


def _make_small(path: Path) -> None:
    """Keep 256 colours, for a page of documentation: those that are far apart, as few points show a label's colour."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def _make_tomogram(path: Path) -> Path:
    """The tomogram of the demo."""
    import mrcfile

    from cryomamba_backends.demo.phantom import PhantomParameters, make_phantom

    phantom = make_phantom(PhantomParameters())
    with mrcfile.new(path, data=phantom.tomogram) as file:
        file.voxel_size = phantom.parameters.voxel_size
    return path


def _pump(condition: Callable[[], object]) -> None:
    """Let Qt take turns until something has come true."""
    from qtpy.QtCore import QEventLoop, QTimer
    from qtpy.QtWidgets import QApplication

    alarm = QTimer()
    alarm.start(5)
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            sys.exit("it did not come true")
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)


if __name__ == "__main__":
    sys.exit(main())

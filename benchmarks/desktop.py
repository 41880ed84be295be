"""What a user of the desktop waits for: longest gaps of the event loop, times and memory, beside napari-mrcfile-reader.

::

    python benchmarks/desktop.py [--mib 2048]

Each window has a process of its own, on a hidden screen where there is Xvfb, and opens the same file. A gap is the
time between two ticks of a timer of 5 ms in Qt's thread, drawing included; a turn is what one of our own tasks does
there before Qt has its next turn. A layer or a slider that napari adds to its window is one call, which cannot be left
in its middle: turns are given with these calls, and without them. The peer is measured if it is installed:
``pip install napari-mrcfile-reader``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rig.files import make_tomogram
from rig.report import Figure, report
from rig.servers import serving

#: Milliseconds: while the window is used, while it opens a file, and for a turn of our own.
MOST_GAP, MOST_GAP_OPENING, MOST_TURN = 100, 350, 20
#: Sections that are stepped through in each direction, and milliseconds between them.
STEPS, PAUSE = 30, 60
#: Done part of a job up to which it is previewed.
LATE = 0.9
#: Seconds in which each thing must come true.
DEADLINE = 600.0
SCREEN = "-screen 0 1600x1000x24"
TURN, OWN_TURN = "longest turn", "longest turn without what napari adds"
#: Phases in which napari adds to its window: there the limit is for turns without that.
ADDING = ("opening", "3D")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048, help="size of the tomogram")
    parser.add_argument("--window", choices=sorted(WINDOWS), help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.window:
        print(json.dumps(WINDOWS[options.window](*options.words)))
        return 0
    with tempfile.TemporaryDirectory(prefix="cryomamba-bench-") as name:
        folder = Path(name)
        tomogram = make_tomogram(folder / "noise.mrc", options.mib)
        with serving(folder / "server") as server:
            mine = _measure("ours", folder, str(tomogram), server.url, server.token)
        theirs = _measure("peer", folder, str(tomogram)) if find_spec("napari_mrcfile_reader") else {}
    limits = {"opening": MOST_GAP_OPENING, **dict.fromkeys(("turning", "3D", "the mask comes"))}
    figures = [
        Figure(name=f"{what}, ours", value=value, unit=_unit(what), most=_limit(what, limits))
        for what, value in mine.items()
    ]
    figures += [
        Figure(name=f"{what}, napari-mrcfile-reader", value=value, unit=_unit(what)) for what, value in theirs.items()
    ]
    return report(f"a window on a tomogram of {options.mib} MiB", figures)


def _unit(what: str) -> str:
    return "MB" if "memory" in what else "ms"


def _limit(what: str, limits: dict[str, float | None]) -> float | None:
    if what.startswith(OWN_TURN):
        return MOST_TURN
    if what.startswith(TURN):
        return None if what.endswith(ADDING) else MOST_TURN
    if what.startswith("longest gap"):
        return next((most for phase, most in limits.items() if phase in what), MOST_GAP)
    return 1000 if what == "peak memory" else None


def _measure(window: str, folder: Path, *words: str) -> dict[str, float]:
    """Run a window in a process of its own."""
    home = folder / window
    home.mkdir(mode=0o700)
    environment = {
        **os.environ,
        **{name: str(home) for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")},
        "NAPARI_CONFIG": "",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }
    hidden = ["xvfb-run", "--auto-servernum", f"--server-args={SCREEN}"] if shutil.which("xvfb-run") else []
    command = [*hidden, sys.executable, __file__, "--window", window, *words]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(f"the window of {window} ended with {ended.returncode}")
    result: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return result


class Pulse:
    """Ticks in Qt's thread, and what comes between two of them."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.longest: dict[str, float] = {}
        self._phase = ""
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(5)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Take the gaps until the end of the block, and a little longer, for those of `phase`."""
        self._last, self._phase = time.perf_counter(), phase
        yield
        wait(500)
        self._phase = ""

    def take(self, kind: str, seconds: float) -> None:
        """Remember the longest."""
        if self._phase:
            name = f"{kind}, {self._phase}"
            self.longest[name] = max(self.longest.get(name, 0.0), 1000 * seconds)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.take("longest gap", now - self._last)
        self._last = now


def ours(tomogram: str, url: str, token: str) -> dict[str, float]:
    """Our panel in a window of napari."""
    import napari
    from napari.qt import get_qapp

    from cryomamba_core.interfaces import Credentials
    from cryomamba_core.jobs import JobConfig, Source
    from cryomamba_core.plugins import PluginHost
    from cryomamba_core.settings import load_settings
    from cryomamba_gui.canvas.warming import warm_up
    from cryomamba_gui.qt.app import dock
    from cryomamba_gui.qt.collecting import IdleCollector

    application = get_qapp()
    pulse = Pulse()
    _time_turns(pulse)
    viewer = napari.Viewer(show=False)
    panel = dock(viewer, PluginHost.discover(load_settings()))
    viewer.window.resize(1500, 950)
    viewer.show()
    warm_up(viewer)
    IdleCollector(application)
    wait(2000)
    desk, bench = panel.workplace.desk, panel.workplace.bench
    path = Path(tomogram)
    began = time.perf_counter()
    with pulse.during("opening"):
        bench.open(path)
        until(lambda: bench.at(path) is not None)
        first = time.perf_counter() - began
        until(lambda: len(viewer.layers) == 4)
    place = bench.at(path)
    assert place is not None, "it is open"
    with pulse.during("the overview is made"):
        until(lambda: place.tomogram.overview is not None and not place.works)
    _step_through(viewer, pulse)
    with pulse.during("3D"):
        viewer.dims.ndisplay = 3
        for angle in range(0, 180, 30):
            viewer.scene.camera.angles = (0, angle, 90)
            wait(200)
    memory = _peak_memory()
    viewer.dims.ndisplay = 2
    desk.link.connect(url, Credentials(token=token))
    until(lambda: desk.link.connected)
    config = JobConfig(source=Source(path=tomogram), model="paced", runner="paced", params={"pause": 0.05, "depth": 16})
    with pulse.during("sending the file"):
        submission = desk.jobs.outbox.prepare(path, config, auto=True)
        until(lambda: submission.item is not None)
    item = submission.item
    assert item is not None, "it is a job"
    with pulse.during("previews"):
        until(lambda: item.fraction > LATE)
    with pulse.during("the mask comes"):
        until(lambda: place.mask is not None and not place.works)
    panel.workplace.bridge.drain()
    return {
        "first section": 1000 * first,
        **_without_repetition(pulse.longest),
        "peak memory": memory,
        "peak memory, with the mask": _peak_memory(),
    }


def peer(tomogram: str) -> dict[str, float]:
    """napari-mrcfile-reader in a window of napari."""
    import napari
    from napari.qt import get_qapp

    get_qapp()
    pulse = Pulse()
    viewer = napari.Viewer(show=False)
    viewer.window.resize(1500, 950)
    viewer.show()
    wait(2000)
    began = time.perf_counter()
    with pulse.during("opening"):
        viewer.open(tomogram, plugin="napari-mrcfile-reader")
        first = time.perf_counter() - began
    _step_through(viewer, pulse)
    return {"first section": 1000 * first, **pulse.longest, "peak memory": _peak_memory()}


def _step_through(viewer: Any, pulse: Pulse) -> None:
    """Step through sections of each direction."""
    for name, order in (("XY", (0, 1, 2)), ("XZ", (1, 0, 2)), ("YZ", (2, 0, 1))):
        with pulse.during(f"turning to {name}"):
            viewer.dims.order = order
        with pulse.during(f"stepping through {name}"):
            for step in range(STEPS):
                viewer.dims.set_current_step(order[0], 100 + step)
                wait(PAUSE)


def _time_turns(pulse: Pulse) -> None:
    """Time what our tasks do between two turns of Qt, and how much of it napari takes to add to its window."""
    from napari.components import Dims, LayerList

    from cryomamba_gui.qt.bridge import _Turns

    adding = Stopwatch()
    for owner, name in ((LayerList, "insert"), (Dims, "__setattr__")):
        setattr(owner, name, adding.timed(getattr(owner, name)))

    def take(seconds: float) -> None:
        pulse.take(TURN, seconds)
        pulse.take(OWN_TURN, seconds - adding.stop())

    for name in ("event", "_go_on"):
        turns = Stopwatch(begun=adding.stop, ended=take)
        setattr(_Turns, name, turns.timed(getattr(_Turns, name)))


def _without_repetition(longest: dict[str, float]) -> dict[str, float]:
    """Leave turns without what napari adds out of phases in which whole turns have the limit."""
    return {name: value for name, value in longest.items() if not name.startswith(OWN_TURN) or name.endswith(ADDING)}


class Stopwatch:
    """Adds up the time in methods; one within another counts once.

    Parameters
    ----------
    begun, ended
        Called before the outermost of them, and after it with its seconds.
    """

    def __init__(
        self, begun: Callable[[], object] = lambda: None, ended: Callable[[float], object] = lambda _: None
    ) -> None:
        self._begun, self._ended = begun, ended
        self._within = False
        self._total = 0.0

    def stop(self) -> float:
        """Seconds since it was stopped last."""
        total, self._total = self._total, 0.0
        return total

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that does the same, and is timed."""

        def timed(*words: Any) -> Any:
            if self._within:
                return method(*words)
            self._begun()
            self._within, began = True, time.perf_counter()
            try:
                return method(*words)
            finally:
                self._within = False
                seconds = time.perf_counter() - began
                self._total += seconds
                self._ended(seconds)

        return timed


def until(condition: Callable[[], object]) -> None:
    """Let Qt go on until something has come true."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            sys.exit("it did not come true")
        wait(5)


def wait(milliseconds: int) -> None:
    """Let Qt go on for some time."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec_()


def _peak_memory() -> float:
    """The most that this process has held at any time, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


WINDOWS: dict[str, Callable[..., dict[str, float]]] = {"ours": ours, "peer": peer}


if __name__ == "__main__":
    sys.exit(main())

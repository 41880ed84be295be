"""Trio and Qt in one thread."""

import os
import subprocess
import sys
import threading

import pytest
import trio
from qtpy.QtCore import QEventLoop, QTimer

from cryomamba_gui.qt.bridge import Bridge


@pytest.fixture
def bridge(qapp):
    bridge = Bridge()
    bridge.start()
    yield bridge
    bridge.drain()


def run_until(event_loop_time_ms, done):
    """Let Qt run until `done` is set, or the time is over."""
    loop = QEventLoop()
    done.append(loop.quit)
    QTimer.singleShot(event_loop_time_ms, loop.quit)
    loop.exec_()


def test_tasks_run_in_the_thread_of_qt(bridge, qtbot):
    seen = []

    async def work():
        await trio.sleep(0)
        seen.append(threading.current_thread())
        seen.append(await trio.to_thread.run_sync(threading.current_thread))

    bridge.run(work, name="work")
    qtbot.waitUntil(lambda: len(seen) == 2)
    assert seen[0] is threading.main_thread()
    assert seen[1] is not threading.main_thread()


def test_a_task_that_never_rests_leaves_qt_its_turns(bridge, qtbot):
    turns, ticks = 0, []

    async def busy():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    bridge.run(busy, name="busy")
    timer = QTimer(interval=1)
    timer.timeout.connect(lambda: ticks.append(turns))
    timer.start()
    qtbot.waitUntil(lambda: len(ticks) >= 20)
    assert turns > 20, "and has its own"


def test_what_is_started_before_trio_runs_is_not_lost(qapp, qtbot):
    bridge, seen = Bridge(), []

    async def work():
        seen.append("ran")

    bridge.run(work, name="early")
    bridge.start()
    qtbot.waitUntil(lambda: seen == ["ran"])
    bridge.drain()


def test_draining_waits_for_what_tasks_have_to_clean_up(qapp):
    bridge, seen = Bridge(), []

    async def work():
        try:
            seen.append("begun")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(threading.Event().wait, 0.05)
            seen.append("cleaned up")

    bridge.run(work, name="work")
    bridge.start()
    while not seen:
        qapp.processEvents()
    bridge.drain()
    assert seen == ["begun", "cleaned up"]
    assert not bridge.running


def test_whoever_closes_hears_when_all_has_ended(qapp, qtbot):
    bridge, seen = Bridge(), []
    bridge.start()
    qapp.processEvents()
    bridge.close(lambda: seen.append("ended"))
    assert seen == []
    qtbot.waitUntil(lambda: seen == ["ended"])
    bridge.close(lambda: seen.append("again"))
    assert seen == ["ended", "again"]


PROGRAM = """
import sys, trio
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from cryomamba_gui.qt.bridge import Bridge
app = QApplication(sys.argv)
bridge = Bridge()
bridge.start()
async def work():
    await trio.sleep(0.01)
    bridge.close(app.quit)
bridge.run(work, name="work")
getattr(app, "exec", None)()
print("ended", bridge.running)
"""


def test_a_program_of_its_own_ends_without_a_word(tmp_path):
    tmp_path.chmod(0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}  # Qt complains where there is none
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended False\n", "")

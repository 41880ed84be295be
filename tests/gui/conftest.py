"""A window of napari, and turns of Qt until something has come true."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import keyring
import pytest
import trio
from keyring.backends.fail import Keyring as NoKeyring

if TYPE_CHECKING:
    import napari

#: Seconds in which what is waited for must come true, on a busy machine.
DEADLINE = 60.0

Pump = Callable[[Callable[[], object]], None]
Settle = Callable[[Callable[[], object]], Awaitable[None]]

#: What libraries warn of that no code of ours brings about, and where. It is ignored only here, so that all
#: other tests run without.
IGNORED: tuple[tuple[str, type[Warning]], ...] = (
    ("System theme detection requires a Qt6 backend", UserWarning),  # napari 0.9.2 with PyQt5, for any window
    # napari 0.9.2 and npe2 0.10.0 with pydantic 2.14, at their import
    ("`json_encoders` is deprecated", DeprecationWarning),
    ("`allow_mutation` is deprecated", DeprecationWarning),
    ("Using extra keyword arguments on `Field` is deprecated", DeprecationWarning),
)


def pytest_configure(config: pytest.Config) -> None:
    os.environ["NAPARI_CONFIG"] = ""  # the settings are napari's own, and what tests change is not kept
    for message, category in IGNORED:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:{category.__name__}")  # for tests
        warnings.filterwarnings("ignore", message, category)  # for the modules that are collected


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of this computer's user is read or written."""
    for name in [name for name in os.environ if name.startswith("CRYOMAMBA_")]:
        monkeypatch.delenv(name)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CRYOMAMBA_CONFIG", "")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def viewer() -> Iterator[napari.Viewer]:
    """A viewer in a real window; when it is closed, no window of its is left."""
    import napari
    from napari.qt import get_qapp
    from qtpy.QtCore import QCoreApplication, QEvent

    application = get_qapp()
    before = set(application.topLevelWidgets())
    viewer = napari.Viewer(show=True)
    application.processEvents()
    yield viewer
    viewer.close()
    gc.collect()
    application.processEvents()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    left = [widget for widget in application.topLevelWidgets() if widget not in before]
    assert not left, f"windows that were not closed: {left}"


@pytest.fixture
def pump() -> Pump:
    """Let Qt take turns until something has come true."""
    from napari.qt import get_qapp
    from qtpy.QtCore import QEventLoop, QTimer

    application = get_qapp()

    def until(condition: Callable[[], object]) -> None:
        alarm = QTimer()  # wakes Qt, so that the condition is looked at again
        alarm.start(5)
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"it did not come true within {DEADLINE:.0f} s"
            application.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    return until


@pytest.fixture
def settle() -> Settle:
    """Let Qt and trio take turns until something has come true: for tests that are tasks of trio."""
    from napari.qt import get_qapp

    application = get_qapp()

    async def until(condition: Callable[[], object]) -> None:
        with trio.fail_after(DEADLINE):
            while not condition():
                application.processEvents()
                await trio.sleep(0.001)

    return until

"""How a thread tells Qt's thread that there is something to do."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QObject, Qt, Signal


class Bell(QObject):
    """Calls something in Qt's thread, once for any number of rings since the last call.

    Parameters
    ----------
    answer
        What to call.
    """

    _rung = Signal()

    def __init__(self, answer: Callable[[], object]) -> None:
        super().__init__()
        self._answer: Callable[[], object] | None = answer
        self._ringing = False
        self._rung.connect(self._hear, Qt.ConnectionType.QueuedConnection)  # type: ignore[call-arg]  # stubs lack it

    def ring(self, *_: object) -> None:
        """Have it called soon; for any thread."""
        if not self._ringing and self._answer is not None:
            self._ringing = True
            self._rung.emit()

    def mute(self) -> None:
        """Never call again."""
        self._answer = None

    def _hear(self) -> None:
        self._ringing = False
        if self._answer is not None:
            self._answer()

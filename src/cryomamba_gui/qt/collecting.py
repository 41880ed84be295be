"""Python's search for garbage at moments at which nobody waits for Qt's thread."""

from __future__ import annotations

import gc

from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QApplication

#: Milliseconds between two looks at whether the user rests.
PAUSE = 2000
#: Looks after which it is done, whether the user rests or not.
PATIENCE = 30
#: Searches of the middle generation after which the oldest is due: Python's own number.
DUE = 10
#: The same, so high that Python does not begin by itself.
NEVER = 1_000_000


class IdleCollector(QObject):
    """Searches the oldest generation of objects for garbage while the user rests.

    That takes 50 ms and more in a window with tomograms, and Python would begin whenever objects are made: in the
    middle of drawing, or of what one of our own tasks does in its turn. The younger generations stay Python's.

    Parameters
    ----------
    application
        Qt's; it keeps the collector.
    """

    def __init__(self, application: QApplication) -> None:
        super().__init__(application)
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)
        self._pointed_at = QCursor.pos()
        self._looks = 0
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.look)
        self._timer.start(PAUSE)

    def look(self) -> None:
        """Search if it is due and the mouse has neither moved nor been pressed since the last look."""
        before, self._pointed_at = self._pointed_at, QCursor.pos()
        if gc.get_count()[2] < DUE:
            return
        self._looks += 1
        rests = before == self._pointed_at and QApplication.mouseButtons() == Qt.MouseButton.NoButton
        if rests or self._looks >= PATIENCE:
            self._looks = 0
            gc.collect()

"""The grey values of a tomogram, and where black and white are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

#: Lines of text that it is as high as.
LINES = 6
#: How opaque the counts are.
FAINT = 0.35
#: Part of the range by which a key moves a limit.
KEY_STEP = 0.01
#: Which of the two limits is held.
BLACK, WHITE = 0, 1


class HistogramView(QWidget):
    """Counts on a logarithmic scale; the user moves the limits of contrast, by mouse or by keyboard.

    Attributes
    ----------
    chosen
        Emitted with the grey values that are to be black and white.
    """

    chosen = Signal(float, float)

    def __init__(self) -> None:
        super().__init__()
        self._heights: NDArray[np.float64] = np.zeros(1)
        self._edges: NDArray[np.float64] = np.array([0.0, 1.0])
        self._limits = (0.0, 1.0)
        self._held = BLACK
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setToolTip(
            "Grey values of all voxels, on a logarithmic scale. Drag the lines to set black and white, "
            "or choose one with Up and Down and move it with Left and Right."
        )
        self.setAccessibleName("histogram of grey values")

    @property
    def limits(self) -> tuple[float, float]:
        """Grey values that are black and white."""
        return self._limits

    def show_counts(self, counts: NDArray[np.int64], edges: NDArray[np.float64], limits: tuple[float, float]) -> None:
        """Show how many voxels are in each bin.

        Parameters
        ----------
        counts
            One for each bin.
        edges
            Of the bins, ascending, one more than there are bins.
        limits
            Grey values that are black and white now.
        """
        logarithms = np.log1p(counts.astype(np.float64))
        self._heights = logarithms / max(1.0, float(logarithms.max()))
        self._edges = edges
        self.show_limits(*limits)

    def show_limits(self, low: float, high: float) -> None:
        """Show that black and white are elsewhere now."""
        self._limits = (low, high)
        self.setAccessibleDescription(f"black is {low:.4g}, white is {high:.4g}")
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(self.fontMetrics().averageCharWidth() * 30, self.fontMetrics().height() * LINES)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        base = self.height() - self.fontMetrics().height() - 3
        colour = self.palette().color(self.foregroundRole())
        faint = QColor(colour)
        faint.setAlphaF(FAINT)
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(faint)
            painter.drawPolygon(self._outline(base))
            painter.setPen(colour)
            painter.drawLine(0, base, self.width(), base)
            for which, limit in enumerate(self._limits):
                x = min(self.width() - 1, max(0, round(self._x(limit))))
                painter.drawLine(x, 0, x, base)
                if self.hasFocus() and which == self._held:
                    painter.drawLine(x + 1, 0, x + 1, base)
            low, high = self._limits
            for text, side in (
                (f"black {low:.4g}", Qt.AlignmentFlag.AlignLeft),
                (f"white {high:.4g}", Qt.AlignmentFlag.AlignRight),
            ):
                painter.drawText(self.rect(), _flags(side | Qt.AlignmentFlag.AlignBottom), text)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            at = event.pos().x()
            self._held = min((BLACK, WHITE), key=lambda which: abs(self._x(self._limits[which]) - at))
            self._move_to(self._value(at))

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        if event is not None and event.buttons() & Qt.MouseButton.LeftButton:
            self._move_to(self._value(event.pos().x()))

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}
        if event is None:
            return
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._held = WHITE if self._held == BLACK else BLACK
            self.update()
        elif event.key() in steps:
            span = float(self._edges[-1] - self._edges[0])
            self._move_to(self._limits[self._held] + steps[Qt.Key(event.key())] * KEY_STEP * span)
        else:
            super().keyPressEvent(event)

    def _move_to(self, value: float) -> None:
        """Move the limit that is held, as far as the other one lets it."""
        low, high = (value, self._limits[1]) if self._held == BLACK else (self._limits[0], value)
        if low < high:
            self.show_limits(low, high)
            self.chosen.emit(low, high)

    def _outline(self, base: int) -> QPolygonF:
        middles = (self._edges[:-1] + self._edges[1:]) / 2
        tops = [
            QPointF(self._x(float(value)), base * (1 - float(height)))
            for value, height in zip(middles, self._heights, strict=True)
        ]
        return QPolygonF([QPointF(tops[0].x(), base), *tops, QPointF(tops[-1].x(), base)])

    def _x(self, value: float) -> float:
        span = float(self._edges[-1] - self._edges[0]) or 1.0
        return (value - float(self._edges[0])) / span * (self.width() - 1)

    def _value(self, x: int) -> float:
        span = float(self._edges[-1] - self._edges[0])
        return float(self._edges[0]) + span * min(1.0, max(0.0, x / max(1, self.width() - 1)))


def _flags(alignment: Any) -> int:
    """Flags as `QPainter.drawText` takes them, in both bindings."""
    return int(getattr(alignment, "value", alignment))

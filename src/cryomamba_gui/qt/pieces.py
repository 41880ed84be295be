"""Small widgets that several tabs are made of, and how a widget hears of what goes on at the desk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakMethod, ref

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QFontDatabase, QPainter, QPaintEvent
from qtpy.QtWidgets import QApplication, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from psygnal import SignalInstance

    from cryomamba_core.errors import ErrorInfo

W = TypeVar("W", bound=QWidget)

#: Steps of a progress bar: Qt's are 32-bit integers, and bytes of a tomogram are more.
STEPS = 1000
#: Pixels around the text of a label that can be selected, which is a document of Qt.
DOCUMENT_MARGIN = 4


def named(widget: W, name: str, *, tip: str = "", spoken: str = "") -> W:
    """The same widget, with what finds it and what explains it.

    Parameters
    ----------
    widget
        Any.
    name
        Its object name, behind ``cryomamba.``, e.g. ``connect.token``.
    tip
        What is shown while the mouse rests on it.
    spoken
        What a screen reader says, where the widget has no words of its own.
    """
    widget.setObjectName(f"cryomamba.{name}")
    if tip:
        widget.setToolTip(tip)
        widget.setAccessibleDescription(tip)
    if spoken:
        widget.setAccessibleName(spoken)
    return widget


def hear(widget: QWidget, signal: SignalInstance, method: Callable[..., object]) -> Callable[[], None]:
    """Let a method of a widget hear a signal of the desk for as long as Qt keeps the widget.

    Parameters
    ----------
    widget
        When Qt deletes it, it hears no more.
    signal
        Of an object that may live longer.
    method
        A method of the widget or of what belongs to it; it is not kept alive.

    Returns
    -------
    stop
        Call it to hear no more; it may be called twice.
    """
    kept, heard = ref(widget), WeakMethod(method)

    def tell(*said: Any) -> None:
        owner, call = kept(), heard()
        if owner is None or call is None or not alive(owner):
            signal.disconnect(tell, missing_ok=True)
        else:
            call(*said)

    signal.connect(tell, check_nargs=False, max_args=_taken(method))
    return lambda: signal.disconnect(tell, missing_ok=True)


def alive(widget: QWidget) -> bool:
    """Whether Qt still keeps a widget: one that it has deleted cannot be asked for anything."""
    from qtpy.compat import isalive

    return bool(isalive(widget))  # type: ignore[no-untyped-call]  # it has no types


def copy(text: str) -> None:
    """Put text on the clipboard."""
    clipboard = QApplication.clipboard()
    assert clipboard is not None, "there is an application"
    clipboard.setText(text)


def wrapped(text: str = "", *, selectable: bool = False) -> QLabel:
    """A label for sentences: as plain text, over as many lines as they take."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
    label.setMinimumWidth(1)
    if selectable:
        label.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
    return label


def fixed_pitch(widget: W) -> W:
    """The same widget, with letters of equal width, in the size that it has."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    size = widget.font().pointSizeF()
    if size > 0:
        font.setPointSizeF(size)
    widget.setFont(font)
    return widget


class ElidedLabel(QLabel):
    """One line that is cut where there is no room, and then shown whole as a tooltip.

    Parameters
    ----------
    text
        Plain text.
    mode
        Where it is cut; in the middle suits paths.
    """

    def __init__(self, text: str = "", *, mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight) -> None:
        super().__init__(text)
        self._mode = mode
        self.setTextFormat(Qt.TextFormat.PlainText)

    def minimumSizeHint(self) -> QSize:
        return QSize(self.fontMetrics().horizontalAdvance("…"), super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent | None) -> None:
        space = self.contentsRect()
        shown = self.fontMetrics().elidedText(self.text(), self._mode, space.width())
        self.setToolTip(self.text() if shown != self.text() else "")
        style = self.style()
        assert style is not None, "every widget has one"
        with QPainter(self) as painter:
            alignment = int(getattr(self.alignment(), "value", self.alignment()))
            style.drawItemText(
                painter, space, alignment, self.palette(), self.isEnabled(), shown, self.foregroundRole()
            )


class ColourChip(QWidget):
    """A square in the colour of a label, as large as a letter; it has a rim, so that any colour is seen.

    Parameters
    ----------
    color
        ``#rrggbb``.
    """

    def __init__(self, color: str) -> None:
        super().__init__()
        self.show_color(color)

    def show_color(self, color: str) -> None:
        """Take another colour."""
        self.color = color
        self.setAccessibleName(f"colour {color}")
        self.update()

    def sizeHint(self) -> QSize:
        side = self.fontMetrics().ascent() + 2
        return QSize(side, side)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        side = min(self.width(), self.sizeHint().width()) - 1
        with QPainter(self) as painter:
            painter.setPen(self.palette().color(self.foregroundRole()))
            painter.setBrush(QColor(self.color))
            painter.drawRect(0, (self.height() - side) // 2, side - 1, side - 1)


class ErrorNote(QWidget):
    """An error and its hint, beside what they are about; hidden while there is none."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.message = named(wrapped(selectable=True), f"{name}.message")
        self.hint = named(wrapped(selectable=True), f"{name}.hint")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.message)
        layout.addWidget(self.hint)
        named(self, name).hide()

    def show_error(self, error: ErrorInfo | None) -> None:
        """Show an error, or nothing."""
        self.show_words(error.message if error else "", error.hint if error else "")

    def show_words(self, message: str, hint: str = "") -> None:
        """Show a message that is none of our errors; empty for nothing."""
        self.message.setText(f"✕ {message}")
        self.hint.setText(f"→ {hint}")
        self.hint.setVisible(bool(hint))
        self.setVisible(bool(message))


class PartBar(QProgressBar):
    """A progress bar that is drawn when Qt comes to it: Qt's own draws the whole window at each new value."""

    def __init__(self) -> None:
        super().__init__()
        self.setTextVisible(False)
        self.show_part(0, 1)

    def show_part(self, done: float, total: float) -> None:
        """Show how much of a known whole is done, in any unit."""
        self.setUpdatesEnabled(False)
        self.setRange(0, STEPS)
        self.setValue(round(STEPS * min(1.0, done / total)) if total > 0 else 0)
        self.setUpdatesEnabled(True)

    def show_busy(self) -> None:
        """Show that something goes on of which nobody knows how long it takes."""
        self.setRange(0, 0)


class ProgressRow(QWidget):
    """How far something long is, in a bar and in words, with a button that stops it; hidden while nothing runs.

    Parameters
    ----------
    name
        Object name, behind ``cryomamba.``; the bar, the words and the button are called ``NAME.bar`` and so on.

    Attributes
    ----------
    cancelled
        Emitted when the user wants it stopped.
    """

    cancelled = Signal()

    def __init__(self, name: str) -> None:
        super().__init__()
        self._bar = named(PartBar(), f"{name}.bar", spoken="progress")
        self._words = named(ElidedLabel(), f"{name}.words")
        self._cancel = named(QPushButton("Cancel"), f"{name}.cancel", tip="Stop this")
        self._cancel.clicked.connect(self.cancelled)
        row = QHBoxLayout()
        row.addWidget(self._bar, 1)
        row.addWidget(self._cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self._words)
        named(self, name).hide()

    def show_progress(self, done: float, total: float, words: str) -> None:
        """Show how much of a known whole is done, in any unit."""
        self._bar.show_part(done, total)
        self._words.setText(words)
        self.show()

    def show_busy(self, words: str) -> None:
        """Show that something goes on of which nobody knows how long it takes."""
        self._bar.show_busy()
        self._words.setText(words)
        self.show()

    def show_nothing(self) -> None:
        """It has ended."""
        self._bar.show_part(0, 1)
        self.hide()


def _taken(method: Callable[..., object]) -> int | None:
    """How many arguments a method takes, for signals that say more than it wants to know; None for any number."""
    import inspect

    parameters = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return None
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)

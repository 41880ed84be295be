"""Widgets that take the room that they need and no more: folded, scrolled once they are too long, or taken away."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from cryomamba_gui.qt.pieces import ElidedLabel, named

#: Lines of a `Shrinking` that are seen however little room there is.
FEWEST_LINES = 6


class Fold(QWidget):
    """A widget below a button that folds it away.

    Parameters
    ----------
    title
        What the button says.
    name
        Object name, behind ``cryomamba.``; the button and the words beside it are ``NAME.fold`` and ``NAME.summary``.
    content
        What is folded.
    unfolded
        Whether it is seen at first.
    """

    def __init__(self, title: str, name: str, content: QWidget, *, unfolded: bool = False) -> None:
        super().__init__()
        self._content = content
        self.button = named(QToolButton(), f"{name}.fold", tip=f"Show or hide: {title.lower()}", spoken=title)
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setChecked(unfolded)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.button.toggled.connect(self._turn)
        self._summary = named(ElidedLabel(), f"{name}.summary")
        self._summary.setEnabled(False)  # paler than what stands in the foreground
        head = QHBoxLayout()
        head.addWidget(self.button)
        head.addWidget(self._summary, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(head)
        layout.addWidget(content)
        named(self, name)
        self._turn()

    @property
    def unfolded(self) -> bool:
        """Whether the content is seen."""
        return self.button.isChecked()

    def unfold(self) -> None:
        """Show the content."""
        self.button.setChecked(True)  # Qt's

    def summarize(self, words: str) -> None:
        """Say beside the button what is inside."""
        self._summary.setText(words)

    def _turn(self) -> None:
        self.button.setArrowType(Qt.ArrowType.DownArrow if self.unfolded else Qt.ArrowType.RightArrow)
        self._content.setVisible(self.unfolded)


class Column(QWidget):
    """A widget whose smallest height is that of its layout with the words wrapped as they are.

    Qt's own is that of words on one line: in a window that is as low as it can be, widgets would lie over each other.
    """

    def minimumSizeHint(self) -> QSize:
        hint, layout = super().minimumSizeHint(), self.layout()
        if layout is None or not layout.hasHeightForWidth():
            return hint
        return QSize(hint.width(), layout.minimumHeightForWidth(max(self.width(), hint.width())))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        if event is not None and event.size().width() != event.oldSize().width():
            self.updateGeometry()


class Shrinking(QScrollArea):
    """As high as what is in it, as long as there is room; then it scrolls.

    Parameters
    ----------
    content
        What is in it.
    """

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self._content = content
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setWidget(content)

    def sizeHint(self) -> QSize:
        content, inside = self._content, self.maximumViewportSize()
        width, rim = inside.width(), self.height() - inside.height()
        height = content.heightForWidth(width) if content.hasHeightForWidth() else content.sizeHint().height()
        return QSize(content.minimumSizeHint().width(), height + rim)

    def minimumSizeHint(self) -> QSize:
        lines = FEWEST_LINES * self.fontMetrics().lineSpacing()
        return QSize(self._content.minimumSizeHint().width(), min(lines, self.sizeHint().height()))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        if event is not None and event.size().width() != event.oldSize().width():
            self.updateGeometry()  # words wrap elsewhere, and take more lines or fewer

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


def scrolled(content: QWidget) -> QScrollArea:
    """A widget that is scrolled up and down where there is not room for all of it."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(content)
    return area


def discard(widget: QWidget) -> None:
    """Take a widget away at once: until Qt deletes it, it would be found by its name, and be seen."""
    widget.hide()
    widget.setParent(None)
    widget.deleteLater()

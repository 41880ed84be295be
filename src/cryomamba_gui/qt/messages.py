"""What went wrong, at the foot of the panel: it says what, what can be done, and blocks nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from cryomamba_core.wording import moment, plural
from cryomamba_gui.desk.words import harmless
from cryomamba_gui.qt.folding import Shrinking
from cryomamba_gui.qt.pieces import ElidedLabel, ErrorNote, copy, fixed_pitch, hear, named, wrapped

if TYPE_CHECKING:
    from cryomamba_gui.desk.troubles import Trouble
    from cryomamba_gui.qt.workplace import Workplace

#: Lines of text that the bar takes of the panel at most; more are scrolled.
MOST_LINES = 16
#: Lines of details that are seen at a time.
DETAIL_LINES = 8
#: Troubles that are shown; the debug panel has all of them.
MOST_SHOWN = 20


class MessageBar(QWidget):
    """The troubles of the desk that were not dismissed, newest first; hidden while there are none.

    Parameters
    ----------
    workplace
        Whose desk.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._troubles = workplace.desk.troubles
        self._cards: dict[Trouble, TroubleCard] = {}
        self._count = named(ElidedLabel(), "messages.count")
        clear = named(QPushButton("Dismiss all"), "messages.clear", tip="Take all of these messages away")
        clear.clicked.connect(self._troubles.clear)
        top = QHBoxLayout()
        top.addWidget(self._count, 1)
        top.addWidget(clear)
        inside = QWidget()
        self._list = QVBoxLayout(inside)
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.addStretch()
        self._area = named(Shrinking(inside), "messages.list", spoken="list of messages")
        self._area.setMaximumHeight(MOST_LINES * self.fontMetrics().lineSpacing())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(top)
        layout.addWidget(self._area)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        named(self, "messages", spoken="messages")
        hear(self, self._troubles.changed, self._show)
        self._show()

    def _show(self) -> None:
        """Show what there is; cards of what was there before stay, and stay open."""
        shown = self._troubles.items[::-1][:MOST_SHOWN]
        above: QWidget = self._area
        for trouble in [each for each in self._cards if each not in shown]:
            card = self._cards.pop(trouble)
            self._list.removeWidget(card)
            card.deleteLater()
        for place, trouble in enumerate(shown):
            if trouble not in self._cards:
                self._cards[trouble] = card = TroubleCard(trouble)
                card.dismissed.clicked.connect(lambda _=False, it=trouble: self._troubles.dismiss(it))
                card.details.toggled.connect(lambda _, it=card: self._area.ensureWidgetVisible(it))
                self._list.insertWidget(place, card)
                card.follow(above)
            above = self._cards[trouble].last
        self._count.setText(f"{plural(len(self._troubles.items), 'problem')}, the newest first")
        self.setVisible(bool(shown))


class TroubleCard(QFrame):
    """One trouble.

    Attributes
    ----------
    details, copied, dismissed
        Its buttons.
    """

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self._trouble = trouble
        self._note = ErrorNote("messages.error")
        self._note.show_error(trouble.error)
        self._what = named(wrapped(f"{trouble.what}, {moment(trouble.at)[-8:]}"), "messages.what")
        self.details = named(QPushButton("Details"), "messages.details", tip="Show where this comes from")
        self.details.setCheckable(True)
        self.copied = named(QPushButton("Copy"), "messages.copy", tip="Copy the message with its details")
        self.copied.clicked.connect(lambda: copy(words_of(trouble)))
        self.dismissed = named(QPushButton("Dismiss"), "messages.dismiss", tip="Take this message away")
        buttons = QHBoxLayout()
        buttons.addStretch()
        for button in (self.details, self.copied, self.dismissed):
            buttons.addWidget(button)
        self._text = fixed_pitch(named(QPlainTextEdit(), "messages.traceback", spoken="details"))
        self._text.setReadOnly(True)
        self._text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._text.setFixedHeight((DETAIL_LINES + 1) * self._text.fontMetrics().lineSpacing())
        self._text.hide()
        self.details.toggled.connect(self._open)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (self._note, self._what, self._text):
            layout.addWidget(widget)
        layout.insertLayout(2, buttons)
        self.setFrameShape(QFrame.Shape.StyledPanel)

    @property
    def last(self) -> QWidget:
        """What the tab key reaches in it last."""
        return self._text

    def follow(self, above: QWidget) -> None:
        """Let the tab key come here from what stands above: Qt has it come to what is new at the very end."""
        for before, after in pairwise((above, self.details, self.copied, self.dismissed, self._text)):
            QWidget.setTabOrder(before, after)

    def _open(self, opened: bool) -> None:  # noqa: FBT001  # a slot
        if opened and not self._text.toPlainText():
            self._text.setPlainText(words_of(self._trouble))
        self._text.setVisible(opened)


def words_of(trouble: Trouble) -> str:
    """All that is known of a trouble, as text; no secret is in it."""
    error = trouble.error
    lines = [f"error: {error.message}  [{error.code}]", f"hint: {error.hint}" if error.hint else ""]
    lines += [f"while: {trouble.what}", f"at: {moment(trouble.at)}", "", trouble.details]
    return harmless("\n".join(line for place, line in enumerate(lines) if line or place > 1).rstrip()) + "\n"

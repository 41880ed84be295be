"""The bar that says what went wrong."""

import pytest
import trio
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLabel, QPlainTextEdit, QPushButton, QWidget

from cryomamba_core.errors import MissingFile
from cryomamba_gui.qt.messages import MessageBar, TroubleCard

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def bar(workplace, show):
    holder = show(QWidget())
    bar = MessageBar(workplace)
    bar.setParent(holder)
    bar.resize(320, 300)
    bar.holder = holder  # or it is gone
    return bar


def fail(workplace, name="a.mrc", secret=""):
    """Let a task of the desk fail."""

    async def work():
        await trio.lowlevel.checkpoint()
        raise MissingFile(f"{name} is not there", hint=f"look elsewhere {secret}")

    workplace.desk.soon(work, name=f"opening {name}")


def cards(bar):
    """Those that are shown, from above."""
    shown = [card for card in bar.findChildren(TroubleCard) if not card.isHidden()]
    return sorted(shown, key=lambda card: card.y())


def words(card, name):
    return card.findChild(QLabel, f"cryomamba.messages.{name}").text()


def test_there_is_no_bar_while_nothing_is_wrong(bar):
    assert bar.isHidden()


def test_what_a_task_raises_is_shown_with_its_hint(bar, workplace, eventually):
    fail(workplace)
    eventually(lambda: not bar.isHidden())
    [card] = cards(bar)
    assert words(card, "error.message") == "✕ a.mrc is not there"
    assert words(card, "error.hint") == "→ look elsewhere "
    assert words(card, "what").startswith("opening a.mrc, ")
    assert not card.findChild(QPlainTextEdit).isVisible()


def test_the_newest_stands_above(bar, workplace, eventually, qtbot):
    for name in ("first.mrc", "second.mrc", "third.mrc"):
        fail(workplace, name)
        eventually(lambda name=name: workplace.desk.troubles.items[-1:] and name in repr(workplace.desk.troubles.items))
    eventually(lambda: len(cards(bar)) == 3 and len({card.y() for card in cards(bar)}) == 3)
    assert [words(card, "error.message") for card in cards(bar)] == [
        "✕ third.mrc is not there",
        "✕ second.mrc is not there",
        "✕ first.mrc is not there",
    ]
    assert bar.findChild(QLabel, "cryomamba.messages.count").text() == "3 problems, the newest first"


def test_details_open_and_close(bar, workplace, eventually, qtbot):
    fail(workplace)
    eventually(lambda: cards(bar))
    [card] = cards(bar)
    button = card.findChild(QPushButton, "cryomamba.messages.details")
    text = card.findChild(QPlainTextEdit)
    qtbot.mouseClick(button, LEFT)
    assert text.isVisible()
    assert "input/missing-file" in text.toPlainText()
    assert "while: opening a.mrc" in text.toPlainText()
    assert "Traceback (most recent call last)" in text.toPlainText()
    qtbot.mouseClick(button, LEFT)
    assert not text.isVisible()


def test_a_message_is_copied_without_secrets(bar, workplace, eventually, qtbot):
    fail(workplace, secret="token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")
    eventually(lambda: cards(bar))
    [card] = cards(bar)
    qtbot.mouseClick(card.findChild(QPushButton, "cryomamba.messages.copy"), LEFT)
    copied = QApplication.clipboard().text()
    assert copied.startswith("error: a.mrc is not there  [input/missing-file]\nhint: look elsewhere")
    assert "eyJhbGci" not in copied


def test_one_is_dismissed_and_the_open_details_of_another_stay_open(bar, workplace, eventually, qtbot):
    fail(workplace, "first.mrc")
    eventually(lambda: len(cards(bar)) == 1)
    fail(workplace, "second.mrc")
    eventually(lambda: len(cards(bar)) == 2)
    newest, oldest = cards(bar)
    qtbot.mouseClick(oldest.findChild(QPushButton, "cryomamba.messages.details"), LEFT)
    qtbot.mouseClick(newest.findChild(QPushButton, "cryomamba.messages.dismiss"), LEFT)
    eventually(lambda: cards(bar) == [oldest])
    assert oldest.findChild(QPlainTextEdit).isVisible()
    assert [trouble.what for trouble in workplace.desk.troubles.items] == ["opening first.mrc"]


def test_all_are_dismissed_at_once(bar, workplace, eventually, qtbot):
    for name in ("first.mrc", "second.mrc"):
        fail(workplace, name)
    eventually(lambda: len(cards(bar)) == 2)
    qtbot.mouseClick(bar.findChild(QPushButton, "cryomamba.messages.clear"), LEFT)
    assert bar.isHidden()
    assert workplace.desk.troubles.items == ()


def test_many_messages_leave_the_panel_its_room(bar, workplace, eventually):
    for number in range(40):
        fail(workplace, f"{number}.mrc")
    eventually(lambda: len(workplace.desk.troubles.items) == 40)
    eventually(lambda: len(cards(bar)) == 20)  # Qt shows them a turn later
    assert bar.findChild(QLabel, "cryomamba.messages.count").text() == "40 problems, the newest first"
    assert bar.sizeHint().height() < 30 * bar.fontMetrics().lineSpacing()


def test_a_bar_that_is_gone_hears_nothing(workplace, eventually, qapp):
    bar = MessageBar(workplace)
    bar.deleteLater()
    qapp.sendPostedEvents(bar, 0)
    fail(workplace)
    eventually(lambda: workplace.desk.troubles.items)
    assert len(workplace.desk.troubles.items) == 1, "showing it made no other trouble"
    assert not any("cannot be shown" in entry.text for entry in workplace.desk.journal.entries)

"""The tab for finding out why."""

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QComboBox, QLabel, QPushButton, QTableView, QTreeWidget

from cryomamba_gui.desk.journal import MOST
from cryomamba_gui.qt.debugging import DebugTab

LEFT = Qt.MouseButton.LeftButton


class Misfit:
    """A plugin that was built for another version."""

    cryomamba_api_version = 99

    def cryomamba_register_runners(self, register):
        raise ValueError("it does not fit")


@pytest.fixture
def tab(workplace, show):
    return show(DebugTab(workplace), height=600)


def rows(tab, find, column=3):
    model = find(tab, QTableView, "debug.journal").model()
    return [model.index(row, column).data() for row in range(model.rowCount())]


def test_entries_of_before_and_of_now_are_shown(workplace, show, find):
    workplace.desk.journal.note("call", "before", 0.25)
    tab = show(DebugTab(workplace), height=600)
    workplace.desk.journal.note("task", "now")
    assert rows(tab, find)[-2:] == ["before", "now"]
    assert rows(tab, find, 1)[-2:] == ["call", "task"]
    assert rows(tab, find, 2)[-2:] == ["0.250", ""]
    assert rows(tab, find, 0)[-1].count(":") == 2


def test_one_kind_can_be_looked_at_alone(workplace, tab, find, qtbot):
    for kind, text in (("call", "first"), ("link", "second"), ("call", "third")):
        workplace.desk.journal.note(kind, text)
    kinds = find(tab, QComboBox, "debug.kind")
    kinds.setFocus()
    qtbot.keyClicks(kinds, "call")
    assert kinds.currentText() == "call"
    assert rows(tab, find)[-2:] == ["first", "third"]
    workplace.desk.journal.note("link", "fourth")
    workplace.desk.journal.note("call", "fifth")
    assert rows(tab, find)[-2:] == ["third", "fifth"]
    qtbot.keyClick(kinds, Qt.Key.Key_Home)
    assert rows(tab, find)[-5:] == ["first", "second", "third", "fourth", "fifth"]


def test_there_are_no_more_rows_than_the_journal_keeps(workplace, tab, find):
    for number in range(MOST + 50):
        workplace.desk.journal.note("task", str(number))
    shown = rows(tab, find)
    assert len(shown) == MOST
    assert shown[-1] == str(MOST + 49)
    assert shown == [entry.text for entry in workplace.desk.journal.entries]


def test_what_happens_while_the_tab_is_not_seen_is_there_when_it_is(workplace, tab, find, qtbot):
    tab.hide()
    workplace.desk.journal.note("task", "unseen")
    assert "unseen" not in rows(tab, find)
    tab.show()
    assert rows(tab, find)[-1] == "unseen"


def test_the_memory_is_looked_at_only_while_the_tab_is_seen(tab, find, qtbot):
    text = find(tab, QLabel, "debug.memory").text()
    assert text.startswith("Memory now ")
    assert "MB" in text or "GB" in text
    assert tab._timer.isActive()
    tab.hide()
    assert not tab._timer.isActive()


def test_plugins_are_listed_with_those_that_failed_first(host, workplace, show, find):
    record = host.register(Misfit(), name="misfit", distribution="strange-lab", version="3.1")
    assert record.error
    tree = find(show(DebugTab(workplace), height=600), QTreeWidget, "debug.plugins")
    first = tree.topLevelItem(0)
    assert (first.text(0), first.text(1)) == ("✕ misfit", "strange-lab 3.1")
    assert first.child(0).text(0) == record.error
    assert first.isExpanded()
    names = [tree.topLevelItem(row).text(0) for row in range(tree.topLevelItemCount())]
    assert "threshold" in names
    assert tree.headerItem().text(0) == f"{len(names)} plugins, 1 left out"


def test_the_report_is_copied_without_secrets(workplace, tab, find, qtbot, eventually):
    workplace.desk.journal.hide("a-word-nobody-may-see")
    workplace.desk.journal.note("call", "submit with a-word-nobody-may-see")
    QApplication.clipboard().clear()
    button = find(tab, QPushButton, "debug.copy")
    qtbot.mouseClick(button, LEFT)
    eventually(lambda: button.text() == "Copied")
    report = QApplication.clipboard().text()
    assert "## Plugins" in report
    assert "threshold of cryomamba" in report
    assert "submit with [hidden]" in report
    assert "a-word-nobody-may-see" not in report

"""What happened of late, what it takes, and what is installed: for finding out why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import psutil
import trio
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSplitter,
    QTableView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from cryomamba_core.wording import byte_size, plural
from cryomamba_gui.desk.journal import MOST
from cryomamba_gui.qt.folding import Column
from cryomamba_gui.qt.pieces import alive, copy, hear, named, wrapped

if TYPE_CHECKING:
    from cryomamba_core.plugin_record import PluginRecord
    from cryomamba_gui.desk.journal import Entry
    from cryomamba_gui.qt.workplace import Workplace

#: Milliseconds between two looks at the memory; there are none while the tab is not seen.
INTERVAL = 1000
#: What the filter says where nothing is left out.
ALL = "everything"
#: What the button says that copies the report.
COPY = "Cop&y report"


#: The parent of all rows.
NOWHERE = QModelIndex()


class DebugTab(Column):
    """The journal, the memory, the plugins, and a report of all of it to be pasted into a letter.

    Parameters
    ----------
    workplace
        Whose desk.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._journal = workplace.desk.journal
        self._process = psutil.Process()
        self._highest = 0
        self._timer = QTimer(self)
        self._timer.setInterval(INTERVAL)
        self._timer.timeout.connect(self._weigh)
        self._memory = named(wrapped(), "debug.memory", spoken="memory")
        self._copy = named(
            QPushButton(COPY), "debug.copy", tip="Copy versions, engine, plugins and journal; no secrets"
        )
        self._copy.clicked.connect(lambda: workplace.desk.soon(self._copy_report, name="writing a report"))
        top = QHBoxLayout()
        top.addWidget(self._memory, 1)
        top.addWidget(self._copy)
        parts = QSplitter(Qt.Orientation.Vertical)
        parts.addWidget(self._draw_journal())
        parts.addWidget(self._draw_plugins(workplace.desk.host.plugins))
        parts.setStretchFactor(0, 3)
        parts.setStretchFactor(1, 2)
        layout = QVBoxLayout(self)
        layout.addLayout(top)
        layout.addWidget(parts, 1)
        named(self, "debug")
        hear(self, self._journal.added, self._take)

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        self._model.show_entries(self._journal.entries)
        self._note_kinds(entry.kind for entry in self._journal.entries)
        self._table.scrollToBottom()
        self._weigh()
        self._timer.start()

    def hideEvent(self, event: QHideEvent | None) -> None:
        super().hideEvent(event)
        self._timer.stop()

    def _draw_journal(self) -> QWidget:
        self._kinds = named(QComboBox(), "debug.kind", tip="Show entries of one kind only", spoken="kind of entries")
        self._kinds.addItem(ALL)
        self._kinds.currentTextChanged.connect(self._filter)
        label = QLabel("&Journal:")
        label.setBuddy(self._kinds)
        self._model = JournalModel()
        self._table = named(QTableView(), "debug.journal", spoken="journal")
        self._table.setModel(self._model)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self._table.setWordWrap(False)
        self._table.setTabKeyNavigation(False)
        rows, columns = self._table.verticalHeader(), self._table.horizontalHeader()
        assert rows is not None, "a table has one"
        assert columns is not None, "a table has one"
        rows.hide()
        rows.setDefaultSectionSize(self.fontMetrics().lineSpacing() + 4)
        columns.setResizeContentsPrecision(0)  # by what is seen, and not by thousands of rows
        columns.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        columns.setSectionResizeMode(JournalModel.WORDS, QHeaderView.ResizeMode.Stretch)
        row = QHBoxLayout()
        row.addWidget(label)
        row.addWidget(self._kinds, 1)
        part = QWidget()
        layout = QVBoxLayout(part)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self._table, 1)
        return part

    def _draw_plugins(self, records: Iterable[PluginRecord]) -> QWidget:
        tree = named(QTreeWidget(), "debug.plugins", spoken="plugins")
        found = sorted(records, key=lambda record: not record.error)
        failed = sum(bool(record.error) for record in found)
        title = f"{plural(len(found), 'plugin')}, {failed} left out" if failed else plural(len(found), "plugin")
        tree.setHeaderLabels([title, "Package"])
        for record in found:
            _add_plugin(tree, record)
        header = tree.header()
        assert header is not None, "a tree has one"
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        return tree

    def _take(self, entry: Entry) -> None:
        """Take in an entry; while the tab is not seen, that can wait until it is."""
        if not self.isVisible():
            return
        bar = self._table.verticalScrollBar()
        follows = bar is None or bar.value() == bar.maximum()
        self._note_kinds([entry.kind])
        self._model.take(entry)
        if follows:
            self._table.scrollToBottom()

    async def _copy_report(self) -> None:
        """Copy the report, which takes too long to be written in Qt's thread."""
        report = await trio.to_thread.run_sync(self._journal.report, abandon_on_cancel=True)
        copy(report)
        if alive(self):
            self._copy.setText("Copied")
            QTimer.singleShot(2 * INTERVAL, lambda: self._copy.setText(COPY) if alive(self) else None)

    def _filter(self, kind: str) -> None:
        self._model.show_kind(None if kind == ALL else kind)
        self._table.scrollToBottom()

    def _note_kinds(self, kinds: Iterable[str]) -> None:
        known = {self._kinds.itemText(place) for place in range(self._kinds.count())}
        self._kinds.addItems(sorted(set(kinds) - known))

    def _weigh(self) -> None:
        size = self._process.memory_info().rss
        self._highest = max(self._highest, size)
        self._memory.setText(f"Memory now {byte_size(size)}, {byte_size(self._highest)} at most")


class JournalModel(QAbstractTableModel):
    """Entries of the journal as rows, the newest last."""

    COLUMNS = ("Time", "Kind", "Seconds", "What")
    #: The columns with numbers, and with words: the latter gets the room.
    SECONDS = 2
    WORDS = 3

    def __init__(self) -> None:
        super().__init__()
        self._all: list[Entry] = []
        self._shown: list[Entry] = []
        self._kind: str | None = None

    def show_entries(self, entries: Iterable[Entry]) -> None:
        """Take these instead of all that there were."""
        self.beginResetModel()
        self._all = list(entries)
        self._shown = [entry for entry in self._all if self._fits(entry)]
        self.endResetModel()

    def show_kind(self, kind: str | None) -> None:
        """Leave out all entries of other kinds; None for none."""
        self._kind = kind
        self.show_entries(self._all)

    def take(self, entry: Entry) -> None:
        """Take in one more; the oldest goes where there are as many as the journal keeps."""
        self._all.append(entry)
        if self._fits(entry):
            self.beginInsertRows(NOWHERE, len(self._shown), len(self._shown))
            self._shown.append(entry)
            self.endInsertRows()
        if len(self._all) > MOST:
            oldest = self._all.pop(0)
            if self._shown and self._shown[0] is oldest:
                self.beginRemoveRows(NOWHERE, 0, 0)
                self._shown.pop(0)
                self.endRemoveRows()

    def rowCount(self, parent: QModelIndex = NOWHERE) -> int:
        return 0 if parent.isValid() else len(self._shown)

    def columnCount(self, parent: QModelIndex = NOWHERE) -> int:
        return 0 if parent.isValid() else len(self.COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        entry = self._shown[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            seconds = "" if entry.seconds is None else f"{entry.seconds:.3f}"
            return (f"{entry.at.astimezone():%H:%M:%S}", entry.kind, seconds, entry.text)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return entry.text
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() == self.SECONDS:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        shown = role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal
        return self.COLUMNS[section] if shown else None

    def _fits(self, entry: Entry) -> bool:
        return self._kind in (None, entry.kind)


def _add_plugin(tree: QTreeWidget, record: PluginRecord) -> None:
    """Add a plugin with what it provides below it, or, opened already, with what is wrong with it."""
    mark = "✕ " if record.error else ""
    item = QTreeWidgetItem([f"{mark}{record.name}", f"{record.distribution} {record.version}"])
    tree.addTopLevelItem(item)
    words = [record.error] if record.error else [f"{kind}: {', '.join(it)}" for kind, it in record.provides.items()]
    for line in words:
        below = QTreeWidgetItem(item, [line])
        below.setToolTip(0, line)
        below.setFirstColumnSpanned(True)
    item.setExpanded(bool(record.error))

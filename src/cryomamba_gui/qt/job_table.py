"""The table of jobs: what Qt asks of it, and how a row is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionProgressBar,
    QTableView,
)

from cryomamba_gui.qt.job_words import MARKS, model_of, note_on, short_state_of, state_of
from cryomamba_gui.qt.pieces import STEPS, named

if TYPE_CHECKING:
    from qtpy.QtGui import QPainter
    from qtpy.QtWidgets import QStyleOptionViewItem

    from cryomamba_gui.desk.items import JobItem

#: What it is of, and how it stands; each in two lines, so that a narrow panel has all of it.
COLUMNS = ("Tomogram", "State")
STATE = 1
NOWHERE = QModelIndex()
#: Role under which a state says the done part of a job that runs, from 0 to 1.
FRACTION = Qt.ItemDataRole.UserRole
#: Letters of the column with the states.
STATE_LETTERS = 26


class JobTable(QAbstractTableModel):
    """Jobs, the newest first."""

    def __init__(self, items: tuple[JobItem, ...] = ()) -> None:
        super().__init__()
        self._items = sorted(items, key=_age, reverse=True)

    def add(self, item: JobItem) -> None:
        """Show one more job."""
        if item in self._items:
            return
        row = next((row for row, other in enumerate(self._items) if _age(other) < _age(item)), len(self._items))
        self.beginInsertRows(NOWHERE, row, row)
        self._items.insert(row, item)
        self.endInsertRows()

    def remove(self, item: JobItem) -> None:
        """Show a job no longer."""
        row = self.row(item)
        if row >= 0:
            self.beginRemoveRows(NOWHERE, row, row)
            del self._items[row]
            self.endRemoveRows()

    def take_change(self, item: JobItem) -> None:
        """Show that something of a job is different."""
        row = self.row(item)
        if row >= 0:
            self.dataChanged.emit(self.index(row, 0), self.index(row, len(COLUMNS) - 1))

    def take_time(self) -> None:
        """Show that time has passed: what is left is less."""
        for row, item in enumerate(self._items):
            if not item.state.ended:
                self.dataChanged.emit(self.index(row, STATE), self.index(row, STATE))

    def item(self, row: int) -> JobItem | None:
        """The job in a row."""
        return self._items[row] if 0 <= row < len(self._items) else None

    def row(self, item: JobItem) -> int:
        """The row of a job; -1 if it is not shown."""
        return self._items.index(item) if item in self._items else -1

    def rowCount(self, parent: QModelIndex = NOWHERE) -> int:
        return 0 if parent.isValid() else len(self._items)

    def columnCount(self, parent: QModelIndex = NOWHERE) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        item = self.item(index.row())
        if item is None:
            return None
        state = index.column() == STATE
        if role == Qt.ItemDataRole.DisplayRole:
            return _state(item) if state else f"{item.name}\n{model_of(item)}"
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleTextRole):
            return state_of(item) if state else item.name
        if role == FRACTION:
            return item.fraction if state and item.state.active and item.progress else None
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        return None


class StateCell(QStyledItemDelegate):
    """Draws a bar behind the state of a job that runs."""

    def paint(self, painter: QPainter | None, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        fraction = index.data(FRACTION)
        style = QApplication.style()
        if fraction is None or style is None or painter is None:
            super().paint(painter, option, index)
            return
        bar = QStyleOptionProgressBar()
        space = option.rect
        bar.rect = space.adjusted(2, space.height() - space.height() // 8 - 1, -2, -1)
        bar.palette, bar.fontMetrics = option.palette, option.fontMetrics
        bar.state = option.state | QStyle.StateFlag.State_Horizontal
        bar.minimum, bar.maximum, bar.progress = 0, STEPS, round(STEPS * fraction)
        bar.textVisible = False
        super().paint(painter, option, index)
        style.drawControl(QStyle.ControlElement.CE_ProgressBar, bar, painter)


class JobView(QTableView):
    """The table on the screen.

    Parameters
    ----------
    table
        The jobs.
    """

    def __init__(self, table: JobTable) -> None:
        super().__init__()
        self.setModel(table)
        self._cell = StateCell(self)
        self.setItemDelegateForColumn(STATE, self._cell)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)  # Qt's
        self.setWordWrap(False)  # Qt's
        rows, header = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None, "a table has one"
        assert header is not None, "a table has one"
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(round(3.2 * self.fontMetrics().lineSpacing()))
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(STATE, QHeaderView.ResizeMode.Fixed)
        header.setHighlightSections(False)  # Qt's
        header.resizeSection(STATE, STATE_LETTERS * self.fontMetrics().averageCharWidth())
        named(self, "jobs.table", spoken="jobs")

    def minimumSizeHint(self) -> QSize:
        return QSize(STATE_LETTERS * self.fontMetrics().averageCharWidth(), 6 * self.fontMetrics().lineSpacing())


def _age(item: JobItem) -> tuple[Any, str]:
    """Sorts as the list of jobs does."""
    return item.record.created_at, item.id


def _state(item: JobItem) -> str:
    return f"{MARKS[item.state]} {short_state_of(item)}\n{note_on(item)}"

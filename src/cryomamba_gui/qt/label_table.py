"""The labels of a mask: how each looks, and how much of it there is."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap, QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QSizePolicy, QTableWidget, QTableWidgetItem

from cryomamba_core import wording
from cryomamba_gui.canvas.colouring import NAMELESS
from cryomamba_gui.qt.pieces import named

if TYPE_CHECKING:
    from cryomamba_core.labels import Label
    from cryomamba_core.measures import LabelStatistics

#: Heads of the columns, and what they mean.
COLUMNS = {
    "Label": "Untick a label to hide it",
    "Voxels": "How many voxels have the label",
    "nm³": "Volume",
    "nm²": "Area of the surface",
    "Parts": "Connected parts",
}
#: What a measure says that is not known.
UNKNOWN = "–"
#: Rows that are seen without scrolling, and rows that there are at most: each one costs time in Qt's thread.
LINES, MOST_ROWS = 8, 200
#: Columns that go where there is no room, the first one first, and letters of a label's name that are to be seen.
SPARE, NAME_LETTERS = (4, 3), 14
#: From here on a measure is shown in millions.
MANY = 1_000_000


class LabelTable(QTableWidget):
    """One row for each label; a label is shown while its box is ticked.

    Of very many, the first ones are listed, and a last line says how many there are besides.

    Attributes
    ----------
    toggled
        Emitted with a value and whether it is to be shown.
    picked
        Emitted with the value that is selected.
    """

    toggled = Signal(int, bool)
    picked = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self._labels: tuple[tuple[int, Label | None], ...] = ()
        self._left_out = 0
        self._measured: dict[int, LabelStatistics] = {}
        self.setHorizontalHeaderLabels(list(COLUMNS))
        for column, tip in enumerate(COLUMNS.values()):
            head = self.horizontalHeaderItem(column)
            if head is not None:
                head.setToolTip(tip)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setWordWrap(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        rows, header = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None, "a table has one"
        assert header is not None, "a table has one"
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(round(1.6 * self.fontMetrics().height()))
        header.setMinimumSectionSize(self.fontMetrics().averageCharWidth() * 3)
        header.setHighlightSections(False)
        # ResizeToContents would measure all columns again whenever one cell changes: seconds for hundreds of labels
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.itemChanged.connect(self._hear_box)
        self.itemSelectionChanged.connect(self._hear_selection)
        named(self, "mask.labels", spoken="labels and their measures")

    @property
    def value(self) -> int | None:
        """The selected label."""
        rows = {item.row() for item in self.selectedItems()}
        return self._labels[min(rows)][0] if rows else None

    @property
    def values(self) -> tuple[int, ...]:
        """The labels that are listed, ascending."""
        return tuple(value for value, _ in self._labels)

    @property
    def detail(self) -> str:
        """All that was measured of the selected label, in words: a narrow table does not show all of it."""
        entry = self._measured.get(self.value) if self.value is not None else None
        if entry is None:
            return ""
        return f"{entry.name}: " + ", ".join(f"{short(number)} {unit}" for number, unit in _measures(entry))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        self._fit()

    def sizeHint(self) -> QSize:
        """As high as its rows, up to a number of them."""
        rows, header = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None, "a table has one"
        assert header is not None, "a table has one"
        lines = min(LINES, max(1, self.rowCount()))
        height = header.sizeHint().height() + lines * rows.defaultSectionSize() + 2 * self.frameWidth()
        return QSize(super().sizeHint().width(), height)

    def minimumSizeHint(self) -> QSize:
        return QSize(self.fontMetrics().averageCharWidth() * 20, self.sizeHint().height())

    def show_labels(
        self,
        labels: tuple[Label, ...],
        statistics: tuple[LabelStatistics, ...],
        *,
        current: bool,
        hidden: Collection[int] = (),
    ) -> None:
        """Show labels and what is known of each.

        Parameters
        ----------
        labels
            Of the model.
        statistics
            Also of values that the model does not name.
        current
            Whether `statistics` are those of the mask as it is now; others are in italics.
        hidden
            Values that are not shown on the canvas.
        """
        known = {label.value: label for label in labels}
        measured = {entry.value: entry for entry in statistics}
        values = sorted(known.keys() | measured.keys())
        rows = tuple((value, known.get(value)) for value in values[:MOST_ROWS])
        selected = self.value
        self.blockSignals(True)  # noqa: FBT003  # Qt's
        if rows != self._labels or len(values) - len(rows) != self._left_out:
            self._labels, self._left_out = rows, len(values) - len(rows)
            self._begin_rows()
        for row, (value, _) in enumerate(rows):
            self._show_box(row, shown=value not in hidden)
            self._show_measures(row, measured.get(value), current=current)
        self.blockSignals(False)  # noqa: FBT003  # Qt's
        self._measured = measured
        self.show_selected(selected)
        self._fit()

    def show_selected(self, value: int | None) -> None:
        """Select a label without saying so; none if it is not listed."""
        self.blockSignals(True)  # noqa: FBT003  # Qt's
        if value in self.values:
            if value != self.value:
                self.selectRow(self.values.index(value))
        else:
            self.clearSelection()
        self.blockSignals(False)  # noqa: FBT003  # Qt's
        view = self.viewport()
        if view is not None:
            view.update()

    def _fit(self) -> None:
        """Leave out what a narrow table has no room for, so that names are read."""
        view, metrics = self.viewport(), self.fontMetrics()
        if view is None:
            return
        name = metrics.averageCharWidth() * NAME_LETTERS + 3 * metrics.height()
        columns = list(range(1, len(COLUMNS)))
        heads = self.horizontalHeader()
        assert heads is not None, "a table has one"
        widths = {
            column: max(self.sizeHintForColumn(column), heads.sectionSizeHint(column)) + metrics.averageCharWidth()
            for column in columns
        }
        for column in SPARE:
            if name + sum(widths[each] for each in columns) > view.width():
                columns.remove(column)
        for column, width in widths.items():
            self.setColumnHidden(column, column not in columns)
            if column in columns:
                self.setColumnWidth(column, width)

    def _begin_rows(self) -> None:
        self.clearSpans()
        self.clearContents()
        self.setRowCount(len(self._labels) + bool(self._left_out))
        for row, (value, label) in enumerate(self._labels):
            self._begin_row(row, value, label)
        if self._left_out:
            words = f"and {self._left_out:,} more {wording.noun_of(self._left_out, 'label')}: the export has all"
            item = QTableWidgetItem(words)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled)  # it is no label to be selected
            item.setToolTip(words)
            self.setItem(len(self._labels), 0, item)
            self.setSpan(len(self._labels), 0, 1, len(COLUMNS))
        self.updateGeometry()

    def _begin_row(self, row: int, value: int, label: Label | None) -> None:
        name = label.name if label is not None else f"label {value}"
        item = QTableWidgetItem(name)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setIcon(self._chip(label.color if label is not None else NAMELESS))
        item.setToolTip(f"{name}, value {value}; untick it to hide it")
        self.setItem(row, 0, item)
        for column in range(1, len(COLUMNS)):
            cell = QTableWidgetItem()
            cell.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(row, column, cell)

    def _chip(self, color: str) -> QIcon:
        """A square in the colour of a label, with a rim, so that any colour is seen."""
        side, ratio = self.fontMetrics().ascent(), self.devicePixelRatioF()
        picture = QPixmap(round(side * ratio), round(side * ratio))
        picture.setDevicePixelRatio(ratio)
        picture.fill(QColor(color))
        with QPainter(picture) as painter:
            painter.setPen(self.palette().color(self.foregroundRole()))
            painter.drawRect(0, 0, side - 1, side - 1)
        icon = QIcon(picture)
        icon.addPixmap(picture, QIcon.Mode.Selected)  # Qt would tint it
        return icon

    def _show_box(self, row: int, *, shown: bool) -> None:
        item = self.item(row, 0)
        if item is not None:
            item.setCheckState(Qt.CheckState.Checked if shown else Qt.CheckState.Unchecked)

    def _show_measures(self, row: int, entry: LabelStatistics | None, *, current: bool) -> None:
        measures = _measures(entry) if entry is not None else ()
        for column in range(1, len(COLUMNS)):
            cell = self.item(row, column)
            if cell is None:
                continue
            number, unit = measures[column - 1] if measures else (None, "")
            cell.setText(UNKNOWN if number is None else short(number))
            whole = "not measured yet" if number is None else f"{long(number)} {unit}"
            cell.setToolTip(whole if current else f"{whole}, before the last edit")
            font = cell.font()
            if font.italic() == current:
                font.setItalic(not current)
                cell.setFont(font)

    def _hear_box(self, item: QTableWidgetItem) -> None:
        if item.column() == 0:
            self.toggled.emit(self._labels[item.row()][0], item.checkState() == Qt.CheckState.Checked)

    def _hear_selection(self) -> None:
        value = self.value
        if value is not None:
            self.picked.emit(value)


def _measures(entry: LabelStatistics) -> tuple[tuple[float, str], ...]:
    """The columns behind the name, with their units."""
    return (
        (entry.voxels, wording.noun_of(entry.voxels, "voxel")),
        (entry.volume_nm3, "nm³"),
        (entry.surface_area_nm2, "nm²"),
        (entry.components, wording.noun_of(entry.components, "part")),
    )


def short(number: float) -> str:
    """A measure in a narrow column: whole up to a million, then in millions (M) or milliards (G)."""
    if abs(number) < MANY:
        return long(number)
    size, letter = (10**9, "G") if abs(number) >= 10**9 else (MANY, "M")
    return f"{number / size:.4g} {letter}"


def long(number: float) -> str:
    """A measure in full."""
    return f"{number:,}" if isinstance(number, int) else wording.measured(number)

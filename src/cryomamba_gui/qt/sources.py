"""Which tomograms are segmented: those that lie open, and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from cryomamba_gui.qt.pieces import hear, named
from cryomamba_gui.qt.tomogram import name_filter

if TYPE_CHECKING:
    from cryomamba_gui.canvas.place import Place
    from cryomamba_gui.qt.workplace import Workplace

#: Role under which an entry has its path.
PATH = Qt.ItemDataRole.UserRole
#: Lines that are seen of few tomograms, and of many.
FEWEST_LINES, MOST_LINES = 2, 5


class SourceList(QWidget):
    """Tomograms, with a tick at those that are wanted.

    Parameters
    ----------
    workplace
        Has those that lie open: they come and go by themselves.

    Attributes
    ----------
    changed
        Emitted when others are ticked than before.
    entries, add, remove
        The list, and its buttons.
    """

    changed = Signal()

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._workplace = workplace
        self._dialog: QFileDialog | None = None
        self._added: set[Path] = set()
        self.entries = named(QListWidget(), "segment.files", tip="Tick what is to be segmented", spoken="tomograms")
        self.entries.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.entries.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.entries.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.entries.itemChanged.connect(lambda _: self.changed.emit())
        self.entries.itemSelectionChanged.connect(self._show)
        self.entries.installEventFilter(self)
        self.add = named(QPushButton("&Add files…"), "segment.add", tip="Segment tomograms without opening them")
        self.add.clicked.connect(self._choose_files)
        self.remove = named(QPushButton("&Remove"), "segment.remove", tip="Take the selected ones off this list")
        self.remove.clicked.connect(self._remove_selected)
        buttons = QHBoxLayout()
        buttons.addWidget(self.add)
        buttons.addWidget(self.remove)
        buttons.addStretch()
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.entries)
        layout.addLayout(buttons)
        for place in workplace.bench:
            self.add_file(place.path)
        hear(self, workplace.bench.opened, self._take_place)
        hear(self, workplace.bench.left, self._lose_place)
        self._show()

    @property
    def paths(self) -> list[Path]:
        """Tomograms that are ticked."""
        return [_path(item) for item in self._items() if item.checkState() == Qt.CheckState.Checked]

    def add_file(self, path: Path) -> None:
        """Put a tomogram into the list, ticked; one that was there already is ticked."""
        path = path.absolute()
        for item in self._items():
            if _path(item) == path:
                item.setCheckState(Qt.CheckState.Checked)
                return
        item = QListWidgetItem(path.name)
        item.setToolTip(str(path))
        item.setData(PATH, str(path))
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked)
        self.entries.addItem(item)
        self._show()
        self.changed.emit()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if watched is self.entries and _deletes(event):
            self._remove_selected()
            return True
        return bool(super().eventFilter(watched, event))

    def _items(self) -> list[QListWidgetItem]:
        items = [self.entries.item(row) for row in range(self.entries.count())]
        return [item for item in items if item is not None]

    def _choose_files(self) -> None:
        host, recent = self._workplace.desk.host, self._workplace.desk.history.recent
        if self._dialog is None:
            self._dialog = named(QFileDialog(self, "Tomograms to segment", "", name_filter(host)), "segment.dialog")
            self._dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
            self._dialog.filesSelected.connect(self._add_files)
            if recent:
                self._dialog.setDirectory(str(recent[0].parent))
        self._dialog.open()

    def _add_files(self, files: list[str]) -> None:
        for file in files:
            self._added.add(Path(file).absolute())
            self.add_file(Path(file))

    def _remove_selected(self) -> None:
        self._take_out({_path(item) for item in self.entries.selectedItems()})

    def _take_out(self, paths: set[Path]) -> None:
        for item in self._items():
            if _path(item) in paths:
                self.entries.takeItem(self.entries.row(item))
        self._added -= paths
        self._show()
        self.changed.emit()

    def _take_place(self, place: Place) -> None:
        self.add_file(place.path)

    def _lose_place(self, place: Place) -> None:
        """A tomogram that was put away is not segmented any more, unless it was asked for as a file."""
        if place.path not in self._added:
            self._take_out({place.path})

    def _show(self) -> None:
        """Be as high as there are tomograms."""
        lines = min(MOST_LINES, max(FEWEST_LINES, self.entries.count()))
        height = max(self.entries.sizeHintForRow(0), self.entries.fontMetrics().lineSpacing())
        self.entries.setFixedHeight(lines * height + 2 * self.entries.frameWidth() + 4)
        self.remove.setEnabled(bool(self.entries.selectedItems()))


def _deletes(event: QEvent | None) -> bool:
    """Whether the user has pressed the key that deletes."""
    return (
        isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress and bool(event.key() == Qt.Key.Key_Delete)
    )


def _path(item: QListWidgetItem) -> Path:
    return Path(item.data(PATH))

"""The tab of the tomogram: open it, read what its header says, and put right what is wrong there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from cryomamba_gui.qt.folding import Column, discard, scrolled
from cryomamba_gui.qt.histogram import HistogramView
from cryomamba_gui.qt.pieces import (
    DOCUMENT_MARGIN,
    ElidedLabel,
    ErrorNote,
    ProgressRow,
    alive,
    hear,
    named,
    wrapped,
)
from cryomamba_gui.qt.voxel_size import VoxelSizeField
from cryomamba_gui.volumes.describing import describe, describe_overview

if TYPE_CHECKING:
    from cryomamba_core.errors import ErrorInfo
    from cryomamba_core.plugins import PluginHost
    from cryomamba_gui.canvas.place import Place, Work
    from cryomamba_gui.qt.workplace import Workplace

#: Letters of a folder that are seen in the menu of recent files.
FOLDER_LETTERS = 40
#: Hints of readers speak of it.
VOXEL_SIZE_OPTION = "--voxel-size"


class TomogramTab(Column):
    """What is known of the tomogram that the user is at.

    Parameters
    ----------
    workplace
        Has the tomograms.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._workplace = workplace
        self._place: Place | None = None
        self._work: Work | None = None
        self._dialog: QFileDialog | None = None
        self._opening: tuple[Path, ...] = ()
        self._refused: Path | None = None
        self._overview_shown = False
        self._stop_hearing: Callable[[], None] = _nothing
        buttons = self._draw_buttons()
        self._progress = ProgressRow("tomogram.progress")
        self._progress.cancelled.connect(self._cancel)
        self._nothing = named(
            wrapped("No tomogram is open. Drop a file onto the window, or open one here."), "tomogram.nothing"
        )
        self._warnings = named(wrapped(selectable=True), "tomogram.warnings")
        self._refusal = ErrorNote("tomogram.refusal")
        self._voxel_size = VoxelSizeField()
        self._voxel_size.chosen.connect(self._use_voxel_size)
        self._rows = MetadataRows()
        self._histogram = named(HistogramView(), "tomogram.histogram")
        self._histogram.chosen.connect(self._set_contrast)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self._nothing, self._warnings, self._refusal, self._voxel_size, self._rows, self._histogram):
            column.addWidget(widget)
        column.addStretch()
        area = scrolled(inside)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        layout = QVBoxLayout(self)
        layout.addLayout(buttons)
        layout.addWidget(self._progress)
        layout.addWidget(area, 1)
        hear(self, workplace.bench.chosen, self._turn_to)
        hear(self, workplace.bench.opening, self._take_opening)
        hear(self, workplace.bench.refused, self._take_refusal)
        self._turn_to(workplace.bench.current)

    def open_files(self) -> None:
        """Let the user choose files; the window goes on meanwhile."""
        if self._dialog is None:
            dialog = QFileDialog(self, "Open tomograms", "", name_filter(self._workplace.desk.host))
            self._dialog = named(dialog, "tomogram.dialog")
            self._dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
            self._dialog.filesSelected.connect(self._open)
            recent = self._workplace.desk.history.recent
            if recent:
                self._dialog.setDirectory(str(recent[0].parent))
        self._dialog.open()

    def _draw_buttons(self) -> QHBoxLayout:
        self._open_button = named(QPushButton("&Open…"), "tomogram.open", tip="Open tomograms from this computer")
        self._open_button.clicked.connect(self.open_files)
        self._recent = named(QPushButton("&Recent"), "tomogram.recent", tip="Tomograms that were opened before")
        self._menu = named(QMenu(self._recent), "tomogram.recent-menu")
        self._menu.setToolTipsVisible(True)
        self._menu.aboutToShow.connect(self._fill_menu)
        self._recent.setMenu(self._menu)
        self._read_button = named(
            QPushButton("Read &all"), "tomogram.read", tip="Read all of it, for 3D and for its statistics"
        )
        self._read_button.clicked.connect(self._read)
        self._close_button = named(QPushButton("Clo&se"), "tomogram.close", tip="Put this tomogram away")
        self._close_button.clicked.connect(self._close)
        row = QHBoxLayout()
        for button in (self._open_button, self._recent, self._read_button, self._close_button):
            row.addWidget(button)
        row.addStretch()
        return row

    def _open(self, files: list[str]) -> None:
        for file in files:
            self._workplace.bench.open(Path(file))

    def _fill_menu(self) -> None:
        self._menu.clear()
        metrics = self._menu.fontMetrics()
        room = metrics.averageCharWidth() * FOLDER_LETTERS
        for path in self._workplace.desk.history.recent:
            folder = metrics.elidedText(str(path.parent), Qt.TextElideMode.ElideMiddle, room)
            action = self._menu.addAction(f"{path.name} – {folder}".replace("&", "&&"))
            assert action is not None, "Qt makes one"
            action.setToolTip(str(path))
            action.triggered.connect(lambda _=False, path=path: self._workplace.bench.open(path))
        if self._menu.isEmpty():
            action = self._menu.addAction("nothing yet")
            assert action is not None, "Qt makes one"
            action.setEnabled(False)

    def _use_voxel_size(self, z: float, y: float, x: float) -> None:
        path = self._refused or (self._place.path if self._place is not None else None)
        if path is not None:
            self._workplace.bench.open(path, voxel_size=(z, y, x))

    def _read(self) -> None:
        if self._place is not None:
            self._place.survey()

    def _close(self) -> None:
        if self._place is not None:
            self._workplace.bench.close(self._place)

    def _cancel(self) -> None:
        """Stop what the bar shows."""
        if self._opening:
            self._workplace.bench.stop_opening()
        elif self._work is not None:
            self._work.scope.cancel()

    def _turn_to(self, place: Place | None) -> None:
        self._stop_hearing()
        if self._place is not None:
            self._place.stage.image.events.contrast_limits.disconnect(self._show_contrast)
        self._place = place
        self._stop_hearing = _nothing
        if place is not None:
            self._stop_hearing = hear(self, place.changed, self._show_works)
            place.stage.image.events.contrast_limits.connect(self._show_contrast)
        self._overview_shown = False
        self._refused = None
        self._refusal.show_error(None)
        self._nothing.setVisible(place is None)
        self._voxel_size.setVisible(place is not None)
        self._close_button.setEnabled(place is not None)
        self._histogram.hide()
        self._show_header()
        self._show_works()

    def _show_header(self) -> None:
        self._rows.clear()
        place = self._place
        warnings = place.tomogram.warnings if place is not None else ()
        self._warnings.setText("\n\n".join(_sentences(each.message, each.hint) for each in warnings))
        self._warnings.setVisible(bool(warnings))
        if place is not None:
            for name, value in describe(place.tomogram):
                self._rows.add(name, value)
            self._voxel_size.show_lengths(place.tomogram.grid.voxel_size, given=place.voxel_size is not None)

    def _show_works(self) -> None:
        """Show what goes on, and what has come of it."""
        place = self._place
        works = [work for work in place.works if not work.about_mask] if place is not None else []
        self._work = works[0] if works else None
        if self._opening:
            self._progress.show_busy(f"opening {', '.join(path.name for path in self._opening)}")
        elif self._work is None:
            self._progress.show_nothing()
        elif self._work.total:
            self._progress.show_progress(self._work.done, self._work.total, self._work.name)
        else:
            self._progress.show_busy(self._work.name)
        overview = place.tomogram.overview if place is not None else None
        self._read_button.setVisible(place is not None and overview is None and not works)
        if place is not None and overview is not None and not self._overview_shown:
            self._overview_shown = True
            for name, value in describe_overview(overview):
                self._rows.add(name, value)
            low, high = place.stage.image.contrast_limits
            self._histogram.show_counts(overview.histogram, overview.edges, (float(low), float(high)))
            self._histogram.show()

    def _take_refusal(self, path: Path, error: ErrorInfo) -> None:
        """Ask for the voxel size of a tomogram whose header has none."""
        self._refused = path
        self._refusal.show_words(f"{path.name}: {error.message}", _for_window(error.hint))
        self._voxel_size.show_lengths(None)
        self._voxel_size.show()
        self._voxel_size.setFocus()

    def _take_opening(self, paths: tuple[Path, ...]) -> None:
        self._opening = paths
        self._show_works()

    def _set_contrast(self, low: float, high: float) -> None:
        if self._place is not None:
            self._place.stage.image.contrast_limits = (low, high)

    def _show_contrast(self, _: object = None) -> None:
        """Show that the contrast was changed, here or by napari's own slider."""
        if self._place is not None and alive(self):
            low, high = self._place.stage.image.contrast_limits
            self._histogram.show_limits(float(low), float(high))


class MetadataRows(QWidget):
    """Names and values; a value can be selected, and is found by the name of its row."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(0)
        self._grid.setColumnStretch(1, 1)

    def clear(self) -> None:
        """Take all rows away."""
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                discard(widget)
        self._count = 0

    def add(self, name: str, value: str) -> None:
        """Put a row below the others."""
        long = name in ("File", "Folder")
        shown = ElidedLabel(value, mode=Qt.TextElideMode.ElideMiddle) if long else wrapped(value, selectable=True)
        shown.setFocusPolicy(Qt.FocusPolicy.NoFocus if long else Qt.FocusPolicy.ClickFocus)
        head = QLabel(name)
        for label in (head, shown) if long else (head,):
            label.setContentsMargins(*[DOCUMENT_MARGIN] * 4)
        named(shown, f"tomogram.{name.lower().replace(' ', '-')}", spoken=f"{name} {value}")
        self._grid.addWidget(head, self._count, 0, Qt.AlignmentFlag.AlignTop)
        self._grid.addWidget(shown, self._count, 1)
        self._count += 1


def name_filter(host: PluginHost) -> str:
    """What a file dialog offers: all that the readers read."""
    patterns = " ".join(f"*{suffix}" for reader in host.readers for suffix in reader.suffixes)
    return f"Tomograms ({patterns});;All files (*)"


def _sentences(message: str, hint: str) -> str:
    """A warning of the header and what can be done, marked for those who do not see colours."""
    clauses = [f"⚠ {message[:1].upper()}{message[1:]}."]
    if hint:
        hint = _for_window(hint)
        clauses.append(f"{hint[:1].upper()}{hint[1:]}.")
    return " ".join(clauses)


def _for_window(hint: str) -> str:
    """A hint that names an option of the command line, for those who have a field for it."""
    return "give the true one here, in Å" if VOXEL_SIZE_OPTION in hint else hint


def _nothing() -> None:
    """There is nothing to hear."""

"""The tab of the jobs: all of them, running and ended, and what can be done with each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QModelIndex, QTimer
from qtpy.QtWidgets import QHBoxLayout, QMessageBox, QPushButton, QSizePolicy, QVBoxLayout

from cryomamba_core import wording
from cryomamba_core.jobs import JobState
from cryomamba_gui.qt.folding import Column, Fold, Shrinking
from cryomamba_gui.qt.job_table import JobTable, JobView
from cryomamba_gui.qt.job_words import details_of
from cryomamba_gui.qt.pieces import ErrorNote, copy, hear, named, wrapped

if TYPE_CHECKING:
    from qtpy.QtGui import QHideEvent, QShowEvent

    from cryomamba_gui.desk.items import JobItem
    from cryomamba_gui.qt.workplace import Workplace

#: Milliseconds between two updates of the time that is left.
TICK = 1000
#: Around what is in the tab, in pixels: a panel may be narrow.
MARGINS = (6, 6, 6, 6)


class JobsTab(Column):
    """The list of jobs, and those that are selected.

    Parameters
    ----------
    workplace
        Has the jobs, and the tomograms that they are of.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._workplace = workplace
        self._jobs = workplace.desk.jobs
        self._table = JobTable(self._jobs.items)
        self._view = JobView(self._table)
        self._nothing = named(wrapped("There are no jobs yet: segment a tomogram in the tab Segment."), "jobs.nothing")
        self._details = named(wrapped(selectable=True), "jobs.details")
        self._fold = Fold("Details", "jobs.about", Shrinking(self._details))
        self._error = ErrorNote("jobs.error")
        self._question: QMessageBox | None = None
        self._ticks = QTimer(self)
        self._ticks.setInterval(TICK)
        self._ticks.timeout.connect(self._table.take_time)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(*MARGINS)
        layout.addWidget(self._nothing)
        layout.addWidget(self._view, 1)
        layout.addWidget(self._error)
        layout.addWidget(self._fold)
        layout.addLayout(self._draw_buttons())
        self._hear()
        self._show_list()

    @property
    def selected(self) -> list[JobItem]:
        """The jobs that the user has selected, the newest first."""
        model = self._view.selectionModel()
        rows = sorted(index.row() for index in model.selectedRows()) if model is not None else []
        return [item for item in map(self._table.item, rows) if item is not None]

    def select(self, item: JobItem) -> None:
        """Select a job, and no other."""
        row = self._table.row(item)
        if row >= 0:
            self._view.selectRow(row)

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        self._table.take_time()
        self._ticks.start()

    def hideEvent(self, event: QHideEvent | None) -> None:
        super().hideEvent(event)
        self._ticks.stop()

    def _hear(self) -> None:
        hear(self, self._jobs.added, self._add)
        hear(self, self._jobs.removed, self._remove)
        hear(self, self._jobs.changed, self._take_change)
        hear(self, self._jobs.ended, self._take_change)
        for signal in (self._workplace.bench.opened, self._workplace.bench.left):
            hear(self, signal, self._show_selected)
        self._view.doubleClicked.connect(self._show_row)
        selection = self._view.selectionModel()
        if selection is not None:
            selection.selectionChanged.connect(lambda *_: self._show_selected())

    def _draw_buttons(self) -> QVBoxLayout:
        self._show_button = self._button("Sh&ow", "show", "Open its tomogram, and lay its labels over it", self._show)
        self._cancel = self._button("Ca&ncel", "cancel", "Stop this job", self._cancel_jobs)
        self._retry = self._button("&Retry", "retry", "Queue this job again", self._retry_jobs)
        self._copy = self._button(
            "Cop&y command", "copy-command", "Copy the command that does the same in a terminal", self._copy_command
        )
        self._forget = self._button(
            "R&emove…", "forget", "Remove its results and edits from this computer", self._ask_whether_to_remove
        )
        self._refresh = self._button("↻", "refresh", "Look now at what the engine says", self._jobs.refresh)
        self._refresh.setAccessibleName("refresh")
        self._refresh.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        column = QVBoxLayout()
        for buttons in ((self._show_button, self._cancel, self._retry), (self._copy, self._forget, self._refresh)):
            row = QHBoxLayout()
            for button in buttons:
                row.addWidget(button)
            column.addLayout(row)
        return column

    def _button(self, text: str, name: str, tip: str, slot: Callable[[], object]) -> QPushButton:
        button = named(QPushButton(text), f"jobs.{name}", tip=tip)
        button.clicked.connect(lambda _=False: slot())
        return button

    def _add(self, item: JobItem) -> None:
        self._table.add(item)
        self._show_list()

    def _remove(self, item: JobItem) -> None:
        self._table.remove(item)
        self._show_list()

    def _take_change(self, item: JobItem) -> None:
        self._table.take_change(item)
        selection = self._view.selectionModel()
        if selection is not None and selection.isSelected(self._table.index(self._table.row(item), 0)):
            self._show_selected()

    def _show_list(self) -> None:
        empty = self._table.rowCount() == 0
        self._nothing.setVisible(empty)
        self._view.setVisible(not empty)
        self._show_selected()

    def _show_selected(self) -> None:
        items = self.selected
        one = items[0] if len(items) == 1 else None
        self._details.setText(details_of(one) if one is not None else _count(items))
        self._fold.setVisible(bool(items))
        self._error.show_error(one.record.error if one is not None and one.state is JobState.FAILED else None)
        self._show_button.setEnabled(one is not None and one.path is not None)
        self._cancel.setEnabled(any(map(_can_be_cancelled, items)))
        self._retry.setEnabled(any(map(_can_be_retried, items)))
        self._copy.setEnabled(bool(items))
        self._forget.setEnabled(any(map(self._can_be_removed, items)))

    def _can_be_removed(self, item: JobItem) -> bool:
        shown = any(place.item is item for place in self._workplace.bench)
        return item.kept and item.state.ended and not shown

    def _show_row(self, index: QModelIndex) -> None:
        item = self._table.item(index.row())
        if item is not None:
            self._workplace.bench.show(item)

    def _show(self) -> None:
        for item in self.selected[:1]:
            self._workplace.bench.show(item)

    def _cancel_jobs(self) -> None:
        for item in filter(_can_be_cancelled, self.selected):
            self._workplace.desk.soon(partial(self._jobs.cancel, item), name=f"canceling {item.name}")

    def _retry_jobs(self) -> None:
        for item in filter(_can_be_retried, self.selected):
            self._workplace.desk.soon(partial(self._jobs.retry, item), name=f"retrying {item.name}")

    def _copy_command(self) -> None:
        copy("\n".join(item.command for item in self.selected))

    def _ask_whether_to_remove(self) -> None:
        """Ask first: what was edited by hand is gone then."""
        items = [item for item in self.selected if self._can_be_removed(item)]
        what = items[0].name if len(items) == 1 else wording.plural(len(items), "job")
        box = self._question = named(QMessageBox(self), "jobs.question")
        box.setIcon(QMessageBox.Icon.Warning)
        box.setText(f"Remove the files of {what} from this computer?")
        box.setInformativeText("Results, edits and verdicts are gone then; the tomogram and what its engine has stay.")
        remove = named(QPushButton("&Remove"), "jobs.question.remove")
        remove.clicked.connect(lambda _=False: self._remove_files(items))
        box.addButton(remove, QMessageBox.ButtonRole.DestructiveRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.setDefaultButton(QMessageBox.StandardButton.Cancel)
        box.finished.connect(box.deleteLater)
        box.open()

    def _remove_files(self, items: Iterable[JobItem]) -> None:
        for item in items:
            if self._can_be_removed(item):  # it may have been opened meanwhile
                self._workplace.desk.soon(
                    partial(self._jobs.delete_local, item), name=f"removing the local files of {item.name}"
                )


def _count(items: list[JobItem]) -> str:
    return f"{wording.plural(len(items), 'job')} selected" if items else ""


def _can_be_cancelled(item: JobItem) -> bool:
    return item.reachable and not item.state.ended and not item.stopping


def _can_be_retried(item: JobItem) -> bool:
    return item.reachable and item.state in (JobState.FAILED, JobState.CANCELED)

"""Files on their way to a job: how far each is, what it will cost, and the user's word on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from cryomamba_gui.desk.submission import SubmissionState
from cryomamba_gui.qt.folding import Shrinking, discard
from cryomamba_gui.qt.job_words import on_its_way, plan_of
from cryomamba_gui.qt.pieces import ElidedLabel, ErrorNote, PartBar, hear, named, wrapped

if TYPE_CHECKING:
    from cryomamba_gui.desk.link import Link
    from cryomamba_gui.desk.outbox import Outbox
    from cryomamba_gui.desk.submission import Submission

#: Where a submission can be begun again.
RESTS = (SubmissionState.PAUSED, SubmissionState.FAILED)


class OnTheirWay(QWidget):
    """All files on their way, the newest first; hidden while there are none.

    Parameters
    ----------
    outbox
        Has them.

    Attributes
    ----------
    arrived
        Emitted with a `Submission` that has become a job.
    rebuilt
        Emitted when there are other rows than before.
    """

    arrived = Signal(object)
    rebuilt = Signal()

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox
        self._rows: dict[Submission, SubmissionRow] = {}
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._area = named(Shrinking(inside), "sending.area", spoken="files on their way")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._area)
        hear(self, outbox.changed, self._show)
        self._show()

    def _show(self) -> None:
        """Show a row for each."""
        gone = [submission for submission in self._rows if submission not in self._outbox.items]
        for submission in gone:
            row = self._rows.pop(submission)
            self._column.removeWidget(row)
            discard(row)
        new = [submission for submission in self._outbox.items if submission not in self._rows]
        for submission in new:
            self._rows[submission] = row = SubmissionRow(submission, self._outbox.link)
            self._column.insertWidget(0, row)
        self.setVisible(bool(self._rows))
        if gone or new:
            self._area.updateGeometry()
            self.rebuilt.emit()
        for submission in gone:
            if submission.state is SubmissionState.SUBMITTED:
                self.arrived.emit(submission)


class SubmissionRow(QFrame):
    """One file on its way.

    Parameters
    ----------
    submission
        The file.
    link
        The engine that the window is connected with.
    """

    def __init__(self, submission: Submission, link: Link) -> None:
        super().__init__()
        self._submission = submission
        self._link = link
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self._name = named(ElidedLabel(submission.name), "sending.name")
        self._words = named(wrapped(), "sending.words")
        self._bar = named(PartBar(), "sending.bar", spoken="sent")
        self._plan = named(wrapped(selectable=True), "sending.plan")
        self._error = ErrorNote("sending.error")
        self._submit = named(QPushButton("Submit"), "sending.submit", tip="Queue it")
        self._pause = named(QPushButton("Pause"), "sending.pause", tip="Stop sending; what is sent is kept")
        self._cancel = named(QPushButton("Cancel"), "sending.cancel", tip="Give it up")
        self._submit.clicked.connect(submission.submit)
        self._pause.clicked.connect(self._toggle)
        self._cancel.clicked.connect(submission.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.setSpacing(2)
        for widget in (self._name, self._words, self._bar, self._plan, self._error):
            layout.addWidget(widget)
        row = QHBoxLayout()
        row.addStretch()
        for button in (self._submit, self._pause, self._cancel):
            row.addWidget(button)
        layout.addLayout(row)
        named(self, "sending", spoken=f"{submission.name} on its way")
        hear(self, submission.changed, self._show)
        self._show()

    def _toggle(self) -> None:
        if self._submission.state in RESTS:
            self._submission.resume()
        else:
            self._submission.pause()

    def _show(self) -> None:
        submission = self._submission
        state = submission.state
        self._words.setText(on_its_way(submission, self._link.url))
        self._show_bar()
        self._plan.setText("" if submission.plan is None else plan_of(submission.plan))
        self._plan.setVisible(submission.plan is not None)
        self._error.show_error(submission.error if state is SubmissionState.FAILED else None)
        self._submit.setVisible(not submission.auto)
        self._submit.setEnabled(state is SubmissionState.READY)
        self._pause.setText({SubmissionState.PAUSED: "Resume", SubmissionState.FAILED: "Try again"}.get(state, "Pause"))
        self._pause.setVisible(state in RESTS or state is SubmissionState.UPLOADING)

    def _show_bar(self) -> None:
        submission = self._submission
        state, total = submission.state, submission.total
        sending = state in (SubmissionState.UPLOADING, SubmissionState.PAUSED) and total > 0
        self._bar.setVisible(sending or (state.active and not submission.waiting))
        if sending:
            self._bar.show_part(submission.sent, total)
        else:
            self._bar.show_busy()

"""What somebody thinks of a mask, said where it is looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from qtpy.QtWidgets import (
    QButtonGroup,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from cryomamba_core import wording
from cryomamba_core.errors import CryoMambaError
from cryomamba_gui.canvas.stepping import WORDS
from cryomamba_gui.masks.draft import Drafts
from cryomamba_gui.masks.review import Review, Verdict, load_review, save_review
from cryomamba_gui.qt.pieces import named, wrapped

if TYPE_CHECKING:
    from cryomamba_gui.canvas.place import Place
    from cryomamba_gui.qt.workplace import Workplace

#: Words on the buttons; the marks tell them apart without colour.
VERDICTS = {
    Verdict.ACCEPTED: ("✓ &Accept", "It can be used as it is"),
    Verdict.NEEDS_WORK: ("✎ &Needs work", "It has to be corrected"),
    Verdict.REJECTED: ("✕ Re&ject", "It cannot be used"),
}
#: Lines of the field for a note.
LINES = 3


class ReviewBox(QWidget):
    """Verdict and note on one mask, and going through its sections by keyboard.

    A note without a verdict, or that was changed after it, is a draft: it lies in the job's folder,
    and is there again in the next window.

    Parameters
    ----------
    workplace
        Starts what takes time.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._desk = workplace.desk
        self._place: Place | None = None
        self._review: Review | None = None
        self._drafts = Drafts(partial(self._desk.troubles.report, what="writing down a note"))
        self._desk.soon(self._drafts.run, name="writing down notes")
        self._saving = trio.Lock()
        self._step = named(
            QPushButton("Step through sections by keyboard"),
            "mask.review-mode",
            tip="The canvas takes these keys until this is pressed again",
        )
        self._step.setCheckable(True)
        self._step.toggled.connect(self._toggle_keys)
        self._keys = _draw_keys()
        self._keys.hide()
        self._buttons: dict[Verdict, QPushButton] = {}
        self._group = QButtonGroup(self)
        verdicts = QHBoxLayout()
        for verdict, (words, tip) in VERDICTS.items():
            button = named(QPushButton(words), f"mask.verdict.{verdict}", tip=tip)
            button.setCheckable(True)
            button.clicked.connect(lambda _=False: self._save())
            self._group.addButton(button)
            self._buttons[verdict] = button
            verdicts.addWidget(button)
        self._note = named(QPlainTextEdit(), "mask.note", tip="Why; it is kept with the verdict", spoken="note")
        self._note.setPlaceholderText("Note, kept with the verdict")
        self._note.setTabChangesFocus(True)
        self._note.setFixedHeight(self._note.fontMetrics().lineSpacing() * (LINES + 1))
        self._note.textChanged.connect(self._heed_note)
        self._kept = named(wrapped(), "mask.verdict-kept")
        self._keep = named(QPushButton("&Keep note"), "mask.keep-note", tip="Keep the note with the verdict")
        self._keep.clicked.connect(self._save)
        foot = QHBoxLayout()
        foot.addWidget(self._kept, 1)
        foot.addWidget(self._keep)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._step)
        layout.addWidget(self._keys)
        layout.addLayout(verdicts)
        layout.addWidget(self._note)
        layout.addLayout(foot)

    def attend(self, place: Place | None) -> None:
        """Turn to the mask of another tomogram; a note that was begun is there again when this one is."""
        self._step.setChecked(False)
        self._place = place if place is not None and place.mask is not None else None
        self._show(None)
        self.setEnabled(False)
        if self._place is not None and self._place.mask is not None:
            work = partial(self._load, self._place, self._place.mask.folder)
            self._desk.soon(work, name=f"reading the review of {self._place.path.name}")

    async def _load(self, place: Place, folder: Path) -> None:
        try:
            await self._drafts.find(folder)
            review = await trio.to_thread.run_sync(load_review, folder)
            if place is self._place:
                self._show(review)
        finally:
            if place is self._place:
                self.setEnabled(True)
                draft = self._drafts.of(folder)
                if draft is not None:
                    self._note.setPlainText(draft)

    def _show(self, review: Review | None) -> None:
        """Show a review as it was kept."""
        self._review = review
        self._group.setExclusive(False)
        for verdict, button in self._buttons.items():
            button.setChecked(review is not None and review.verdict is verdict)
        self._group.setExclusive(True)
        self._note.blockSignals(True)  # noqa: FBT003  # Qt's
        self._note.setPlainText(review.note if review is not None else "")
        self._note.blockSignals(False)  # noqa: FBT003  # Qt's
        self._show_kept()

    def _show_kept(self) -> None:
        """Say what is kept, and whether there is more to keep."""
        review = self._review
        who = f" by {review.reviewer}" if review is not None and review.reviewer else ""
        self._kept.setText(f"kept{who}, {wording.moment(review.at)}" if review is not None else "")
        self._keep.setEnabled(self._verdict is not None and self._is_draft)

    @property
    def _verdict(self) -> Verdict | None:
        return next((each for each, button in self._buttons.items() if button.isChecked()), None)

    @property
    def _is_draft(self) -> bool:
        return self._note.toPlainText() != (self._review.note if self._review is not None else "")

    def _heed_note(self) -> None:
        mask = self._place.mask if self._place is not None else None
        if mask is not None:
            self._drafts.set(mask.folder, self._note.toPlainText() if self._is_draft else None)
        self._show_kept()

    def _save(self) -> None:
        place, verdict = self._place, self._verdict
        if place is None or place.mask is None or verdict is None:
            return
        what = f"keeping the review of {place.path.name}"
        try:
            review = Review.now(verdict, self._note.toPlainText())
        except CryoMambaError as error:
            self._desk.troubles.report(error, what=what)
            self._kept.setText("not kept")
            return
        self._desk.soon(partial(self._keep_review, place, place.mask.folder, review), name=what)

    async def _keep_review(self, place: Place, folder: Path, review: Review) -> None:
        """Write a review; of several, each waits for the one before, and what is typed meanwhile stays."""
        try:
            async with self._saving:
                await trio.to_thread.run_sync(save_review, folder, review)
        except (CryoMambaError, OSError):
            if place is self._place:
                self._kept.setText("not kept")
                self._keep.setEnabled(True)
            raise
        if self._drafts.of(folder) == review.note:
            self._drafts.set(folder, None)
        if place is self._place:
            self._review = review
            self._show_kept()

    def _toggle_keys(self, wanted: bool) -> None:  # noqa: FBT001  # a slot
        self._keys.setVisible(wanted)
        if self._place is None:
            return
        stepper = self._place.stage.stepper
        if wanted:
            stepper.bind()
        else:
            stepper.unbind()


def _draw_keys() -> QLabel:
    """Which key does what."""
    return named(wrapped("\n".join(f"{keys}: {words}" for keys, words in WORDS.items())), "mask.review-keys")

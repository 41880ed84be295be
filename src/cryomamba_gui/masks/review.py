"""What somebody thinks of a mask."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from attrs import frozen

from cryomamba_core.durable import sync_folder, write_whole
from cryomamba_core.errors import InvalidParameter, StorageDamaged
from cryomamba_core.wire import dump_json, load_json
from cryomamba_gui.masks.disk import told_as_storage

#: Name of the file in a job's folder.
REVIEW = "review.json"

#: Characters of a note.
LONGEST_NOTE = 10_000


class Verdict(StrEnum):
    """Whether a mask can be used."""

    ACCEPTED = "accepted"
    NEEDS_WORK = "needs-work"
    REJECTED = "rejected"


@frozen(kw_only=True)
class Review:
    """A verdict on a mask.

    Attributes
    ----------
    verdict
        The verdict.
    note
        Why, in the reviewer's words; at most `LONGEST_NOTE` characters.
    reviewer
        Name of the person.
    at
        When, UTC.
    """

    verdict: Verdict
    note: str = ""
    reviewer: str = ""
    at: datetime

    def __attrs_post_init__(self) -> None:
        if len(self.note) > LONGEST_NOTE:
            raise InvalidParameter(f"the note has {len(self.note)} characters, and may have {LONGEST_NOTE}")

    @classmethod
    def now(cls, verdict: Verdict, note: str = "", *, reviewer: str | None = None) -> Self:
        """A review of this moment, by the user of this computer unless `reviewer` says otherwise."""
        return cls(
            verdict=verdict,
            note=note,
            reviewer=user_name() if reviewer is None else reviewer,
            at=datetime.now(UTC),
        )


def user_name() -> str:
    """The name of whoever uses this computer; empty if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def save_review(folder: Path, review: Review | None) -> None:
    """Keep a review in a job's folder, durably, in the place of an earlier one; None takes that away."""
    with told_as_storage(f"the review cannot be kept in {folder}"):
        if review is None:
            (folder / REVIEW).unlink(missing_ok=True)
            sync_folder(folder)
        else:
            write_whole(folder / REVIEW, dump_json(review, indent=2).encode())


def load_review(folder: Path) -> Review | None:
    """The review in a job's folder; None if there is none.

    Raises
    ------
    StorageDamaged
        If it cannot be read.
    """
    try:
        text = (folder / REVIEW).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return load_json(text, Review)
    except InvalidParameter as error:
        raise StorageDamaged(
            f"{folder / REVIEW} cannot be read: {error}", hint="judge the mask again: that replaces the file"
        ) from error

"""The file in which windows remember: whole at every moment, bounded, and set aside where it is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, field, frozen

from cryomamba_core.durable import write_whole
from cryomamba_core.errors import InputError
from cryomamba_core.geometry import Index3, Vector3
from cryomamba_core.jobs import JobConfig
from cryomamba_core.wire import dump_json, from_plain

T = TypeVar("T")

#: How much is remembered: of more, the oldest goes.
MOST_RECENT, MOST_JOBS, MOST_SUBMISSIONS = 20, 1000, 100
#: Bytes of a file that is read at all; the parameters of a submission may have 64 KiB.
MOST_BYTES = 32 << 20
#: Seconds that other windows may take to write it.
LOCK_SECONDS = 10.0


@frozen(kw_only=True)
class RecentFile:
    """A tomogram that was opened.

    Attributes
    ----------
    path
        Its absolute path.
    at
        When (UTC).
    voxel_size
        Voxel size (z, y, x) in Å that the user gave instead of the header's; None if they gave none.
    shape
        Number of its voxels (z, y, x) when they gave it.
    """

    path: str
    at: datetime
    voxel_size: Vector3 | None = None
    shape: Index3 | None = None


@frozen(kw_only=True)
class JobNote:
    """What is remembered of a job.

    Attributes
    ----------
    path
        Absolute path of its tomogram on this computer; None where it has none.
    url
        Address of the engine that has it.
    model
        Name of the model.
    at
        When it was queued, as this computer saw it (UTC).
    """

    path: str | None
    url: str
    model: str | None
    at: datetime


@frozen(kw_only=True)
class SubmissionNote:
    """What is remembered of a file on its way to a job.

    Attributes
    ----------
    key
        Idempotency key.
    path
        Its absolute path on this computer.
    url
        Address of the engine.
    config
        What is asked for.
    auto
        Whether it is queued as soon as it can be.
    asked
        Whether the engine was asked to queue it, and may have done so.
    at
        When that was noted (UTC).
    """

    key: str
    path: str
    url: str
    config: JobConfig
    auto: bool
    asked: bool
    at: datetime


@frozen(kw_only=True)
class Contents:
    """What the file holds; jobs and submissions the oldest first."""

    recent: tuple[RecentFile, ...] = ()
    engine: str | None = None
    jobs: dict[str, JobNote] = field(factory=dict)
    submissions: dict[str, SubmissionNote] = field(factory=dict)


class HistoryFile:
    """The file; everything here blocks.

    Attributes
    ----------
    path
        Where it is.
    damages
        What was found wrong with it, one clause each, to be said and cleared.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damages: list[str] = []

    def read(self) -> Contents:
        """What it holds; a missing file holds nothing, and a damaged one what can still be read of it.

        Raises
        ------
        OSError
            If it is there and cannot be read, or is damaged and cannot be set aside.
        """
        contents, wrong = self._look()
        return self.change(lambda kept: kept) if wrong else contents

    def change(self, change: Callable[[Contents], Contents]) -> Contents:
        """Replace what it holds by what `change` makes of it, while no other window does; returns that.

        Raises
        ------
        OSError
            If that cannot be: all is as it was.
        """
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=LOCK_SECONDS):
            before, wrong = self._look()
            if wrong:
                self._set_aside(wrong)
            after = change(before)
            if wrong or after != before:
                write_whole(self.path, dump_json(after, indent=1).encode())
        return after

    def _look(self) -> tuple[Contents, str]:
        """What can be read of it, and what is wrong with the rest; empty if nothing is."""
        try:
            with self.path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return Contents(), ""
        if len(data) > MOST_BYTES:
            return Contents(), "it is larger than any can be"
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError):
            return Contents(), "it is no JSON"
        return _understood(plain) if isinstance(plain, dict) else (Contents(), "it is no object")

    def _set_aside(self, why: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        os.replace(self.path, aside)
        self.damages.append(f"{self.path} was damaged, and is now {aside.name}: {why}")


def bounded(contents: Contents) -> Contents:
    """The same without the oldest of what is too much."""
    return evolve(
        contents,
        recent=contents.recent[:MOST_RECENT],
        jobs=_last(contents.jobs, MOST_JOBS),
        submissions=_last(contents.submissions, MOST_SUBMISSIONS),
    )


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def _last(entries: dict[str, T], most: int) -> dict[str, T]:
    return dict(list(entries.items())[-most:])


def _understood(plain: dict[str, Any]) -> tuple[Contents, str]:
    """What can be read, entry by entry, and what is wrong with the rest; empty if nothing is."""
    wrong: list[str] = []

    def entry(value: Any, kind: type[T]) -> T | None:
        try:
            return from_plain(value, kind)
        except InputError as error:
            wrong.append(error.message)
            return None

    def entries(name: str, kind: type[T]) -> dict[str, T]:
        found = {key: entry(value, kind) for key, value in (entry(plain.get(name, {}), dict[str, Any]) or {}).items()}
        return {key: value for key, value in found.items() if value is not None}

    recent = [entry(value, RecentFile) for value in entry(plain.get("recent", []), list[Any]) or []]
    engine = plain.get("engine")
    contents = Contents(
        recent=tuple(file for file in recent if file is not None),
        engine=engine if isinstance(engine, str) else None,
        jobs=entries("jobs", JobNote),
        submissions=entries("submissions", SubmissionNote),
    )
    return contents, wrong[0] if wrong else ""

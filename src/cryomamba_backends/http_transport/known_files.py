"""Digests of files that were sent before, so that the same file need not be read to know that it is there."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import platformdirs

from cryomamba_core.durable import write_whole

log = logging.getLogger(__name__)

#: How many files are remembered; those that were met longest ago are forgotten first.
REMEMBERED = 2000
#: Seconds; a file that was changed so recently may change again without another time.
SETTLED = 2.0


class KnownFiles:
    """Remembers digests by path, size, times and inode: whatever changes a file changes one of these.

    It is a convenience: nothing is said where it cannot be read or written.

    Parameters
    ----------
    file
        Where it is kept; None for a file among the user's caches.
    server
        Whom the files were sent to. The digests are those that it has told: no other server hears them.
    """

    def __init__(self, file: Path | None = None, *, server: str = "") -> None:
        self._server = server
        self._file = file or Path(platformdirs.user_cache_dir("cryomamba", appauthor=False)) / "known-files.json"

    def digest(self, path: Path, facts: os.stat_result) -> str | None:
        """SHA-256 of a file that is as it was when it was noted; None for any other."""
        entry = self._read().get(self._name(path))
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] != _identity(facts):
            return None
        return entry[1] if isinstance(entry[1], str) else None

    def note(self, path: Path, facts: os.stat_result, sha256: str) -> None:
        """Remember a digest."""
        if time.time() - max(facts.st_mtime, facts.st_ctime) < SETTLED:
            return
        entries = self._read()
        entries.pop(self._name(path), None)
        entries[self._name(path)] = [_identity(facts), sha256]
        kept = dict(list(entries.items())[-REMEMBERED:])
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(kept).encode())
        except OSError as error:
            log.debug("%s cannot be written: %s", self._file, error)

    def _name(self, path: Path) -> str:
        return f"{self._server} {path}"

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _identity(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]

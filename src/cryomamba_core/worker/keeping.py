"""What a worker that may be given another job keeps of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

T = TypeVar("T")
log = logging.getLogger(__name__)


class Kept:
    """What runners have loaded and asked to keep, for the jobs of one process; see `RunContext.keep`.

    What a job has not asked for goes before something else is made, and at the job's end: two models are never held.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, object] = {}
        self._asked: set[Hashable] = set()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under the key, or what `make` returns, which is then kept."""
        if key in self._entries:
            log.info("what an earlier job of this process has loaded is used again")
        else:
            self._drop()
            self._entries[key] = make()
        self._asked.add(key)
        return cast("T", self._entries[key])

    def end_job(self) -> None:
        """Let go of what the job that has ended did not ask for."""
        self._drop()
        self._asked.clear()

    def _drop(self) -> None:
        self._entries = {key: value for key, value in self._entries.items() if key in self._asked}

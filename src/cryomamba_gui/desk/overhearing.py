"""What CryoMamba's loggers say, heard by journals, and by nobody else who had not asked for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from attrs import frozen

#: Loggers of ours.
OURS = ("cryomamba_core", "cryomamba_backends", "cryomamba_gui", "cryomamba_server")


@frozen
class _Before:
    """How a logger was set before anybody listened."""

    level: int
    propagate: bool


class Ear(logging.Handler):
    """Hands all that our loggers say to those whom it is lent to.

    Others in this process may log to a terminal, and have said from what level on. They get what they
    asked for, and not all that a journal takes in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hearers: list[Callable[[logging.LogRecord], object]] = []
        self._before: dict[str, _Before] = {}

    @contextmanager
    def lent_to(self, hearer: Callable[[logging.LogRecord], object]) -> Iterator[None]:
        """Hand everything to `hearer`, in whatever thread it is said, for as long as the block lasts."""
        if not self._hearers:
            self._listen()
        self._hearers.append(hearer)
        try:
            yield
        finally:
            self._hearers.remove(hearer)
            if not self._hearers:
                self._leave()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a record."""
        for hearer in tuple(self._hearers):
            with suppress(Exception):  # nothing that is logged may harm whoever logs it
                hearer(record)
        if self._was_wanted(record):
            logging.getLogger().callHandlers(record)

    def _listen(self) -> None:
        for name in OURS:
            logger = logging.getLogger(name)
            self._before[name] = _Before(logger.level, logger.propagate)
            logger.addHandler(self)
            logger.setLevel(logging.DEBUG)
            logger.propagate = False

    def _leave(self) -> None:
        for name, before in self._before.items():
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            logger.setLevel(before.level)
            logger.propagate = before.propagate
        self._before = {}

    def _was_wanted(self, record: logging.LogRecord) -> bool:
        """Whether the root's handlers would have had the record if nobody had listened."""
        before = self._before.get(record.name.partition(".")[0])
        if before is None or not before.propagate:
            return False
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            own = self._before.get(logger.name)
            level = logger.level if own is None else own.level
            if level:
                return record.levelno >= level
            logger = logger.parent
        return True


#: The one ear of this process.
EAR = Ear()

"""The log of a server: one JSON object a line on standard error, without tokens, bodies or voxels.

Everything goes through the standard library's loggers, those of the engine and of hypercorn included;
structlog words it. A thread writes the lines, so that a reader that is slow or gone, or a full disk,
never holds up the server: lines that cannot be written are counted and left out.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog

from cryomamba_core.hiding import hide_secrets
from cryomamba_server.http.observation import current_note

log = logging.getLogger(__name__)

#: How lines are worded: JSON, for people, or for people on a terminal and JSON elsewhere.
LogFormat = Literal["auto", "json", "console"]

#: Lines that wait to be written, at most.
WAITING_LINES = 10_000

#: Seconds that the last lines have to be written when the server ends.
CLOSE_SECONDS = 2.0

#: Characters of one value, and of a stack trace.
MOST_CHARACTERS, MOST_TRACE = 2_000, 20_000

#: Loggers of ours, which say more than others'.
OURS = ("cryomamba_core", "cryomamba_backends", "cryomamba_server")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@contextmanager
def logging_to(descriptor: int | None = None, *, style: LogFormat = "auto") -> Iterator[LogHandler]:
    """Send the log of this process to a file descriptor, standard error by default, for as long as the block lasts."""
    target = sys.stderr.fileno() if descriptor is None else descriptor
    console = style == "console" or (style == "auto" and os.isatty(target))
    handler = LogHandler(target, console=console)
    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in OURS}
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(min(logging.INFO, logging.getLogger(name).level or logging.INFO))
    logging.captureWarnings(True)  # noqa: FBT003  # it has no keyword  # of the standard library
    try:
        yield handler
    finally:
        logging.captureWarnings(False)  # noqa: FBT003  # it has no keyword
        root.handlers[:], level, levels = before
        root.setLevel(level)
        for name, own in levels.items():
            logging.getLogger(name).setLevel(own)
        handler.close()


def lost_lines() -> int:
    """How many lines of this process' log could not be written."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, LogHandler))


class LogHandler(logging.Handler):
    """Words records, and hands the lines to a thread that writes them.

    Parameters
    ----------
    descriptor
        Where to; it stays open.
    console
        Whether people read it.
    """

    def __init__(self, descriptor: int, *, console: bool) -> None:
        super().__init__()
        self.setFormatter(_formatter(console=console))
        self._writer = _LineWriter(descriptor)

    @property
    def lost(self) -> int:
        """How many lines could not be written."""
        return self._writer.lost

    def emit(self, record: logging.LogRecord) -> None:
        """Word a record and let it be written."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001  # nothing that is logged may harm whoever logs it
            line = json.dumps({"level": "error", "event": f"a line of {record.name} cannot be worded: {error!r}"})
        self._writer.put(line.encode(errors="backslashreplace") + b"\n")

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        self._writer.close()
        super().close()


class _LineWriter:
    """Writes lines in a thread of its own, each by one call and without a buffer."""

    def __init__(self, descriptor: int) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._torn = False
        self._told = 0
        self._lines: queue.Queue[bytes | None] = queue.Queue(WAITING_LINES)
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        try:
            self._lines.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except OSError:
                self.lost += 1
                continue
            if self.lost > self._told:
                lost, self._told = self.lost - self._told, self.lost
                log.warning("%d lines of the log could not be written", lost)

    def _write(self, line: bytes) -> None:
        rest = memoryview(b"\n" + line if self._torn else line)
        while rest:
            written = os.write(self._descriptor, rest)
            rest = rest[written:]
            self._torn = bool(rest)


def _formatter(*, console: bool) -> logging.Formatter:
    shared: list[Any] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_context,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _clean,
    ]
    rendering: Any = _to_json
    if console:
        rendering = structlog.dev.ConsoleRenderer(timestamp_key="time", colors=False, pad_event_to=0)
        shared.append(_disarm)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, rendering],
    )


def _add_context(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Say which request and which job it is about."""
    for name, value in current_note().items():
        line.setdefault(name, value)
    return line


def _clean(_: Any, __: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Leave out secrets, and everything that is not text or a number."""
    return {
        name: _cleaned(value, MOST_TRACE if name == "exception" else MOST_CHARACTERS)
        if not name.startswith("_")
        else value
        for name, value in line.items()
    }


def _cleaned(value: Any, most: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        text = hide_secrets(value)
        return text if len(text) <= most else f"{text[: most // 2]} […] {text[-most // 2 :]}"
    return f"<{type(value).__name__}>"


def _disarm(_: Any, __: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Spell out the control characters, to which a terminal might listen."""
    return {
        name: _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value) if isinstance(value, str) else value
        for name, value in line.items()
    }


#: What stands first in a line.
_FIRST = ("time", "level", "event", "logger", "request_id")


def _to_json(_: Any, __: str, line: Mapping[str, Any]) -> str:
    ordered = {name: line[name] for name in (*_FIRST, *(name for name in line if name not in _FIRST)) if name in line}
    return json.dumps(ordered)

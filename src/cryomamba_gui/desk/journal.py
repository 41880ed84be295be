"""What happened of late, for whoever is to find out why: no secrets, no voxels."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio
from attrs import frozen
from psygnal import EmitLoopError, Signal

from cryomamba_core.hiding import HIDDEN
from cryomamba_gui.desk.overhearing import EAR
from cryomamba_gui.desk.words import harmless

if TYPE_CHECKING:
    import logging

    from cryomamba_core.interfaces import ServerInfo
    from cryomamba_core.plugins import PluginHost

#: Entries that are kept, and characters of each.
MOST, MOST_CHARACTERS = 2000, 1000


@frozen(kw_only=True)
class Entry:
    """One thing that happened.

    Attributes
    ----------
    at
        When (UTC).
    kind
        Of what kind it is: ``link``, ``call`` (of an engine), ``request`` (by HTTP), ``task``, ``log``,
        ``warning``, ``error``, or what others call theirs.
    text
        One line.
    seconds
        How long it took; None where that says nothing.
    """

    at: datetime
    kind: str
    text: str
    seconds: float | None = None


class Journal:
    """The last entries, of whoever has something to say and of CryoMamba's loggers.

    Parameters
    ----------
    host
        Its plugins stand in a report.
    """

    #: There is one more.
    added = Signal(Entry)

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self.engine: tuple[str, ServerInfo] | None = None
        self._entries: deque[Entry] = deque(maxlen=MOST)
        self._secrets: set[str] = set()
        self._thread = threading.get_ident()
        self._token: trio.lowlevel.TrioToken | None = None
        self._telling = False

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The newest last."""
        return tuple(self._entries)

    def note(self, kind: str, text: str, seconds: float | None = None) -> None:
        """Take in what happened; for any thread. Never raises.

        Parameters
        ----------
        kind, text, seconds
            As of `Entry`; what is secret in the text is left out.
        """
        entry = Entry(at=datetime.now(UTC), kind=kind, text=self._worded(text), seconds=seconds)
        if threading.get_ident() == self._thread or self._token is None:
            self._add(entry)
            return
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._add, entry)

    @contextmanager
    def timing(self, kind: str, text: str) -> Iterator[None]:
        """Take in what the block does, how long it takes, and how it ends."""
        begun, end = time.perf_counter(), ""
        try:
            yield
        except trio.Cancelled:
            end = ": cancelled"
            raise
        except BaseException as error:
            end = f": {' '.join(str(error).split()) or type(error).__name__}"
            raise
        finally:
            self.note(kind, f"{text}{end}", time.perf_counter() - begun)

    def hide(self, secret: str | None) -> None:
        """Leave out this word from now on, wherever it stands."""
        if secret:
            self._secrets.add(secret)

    def report(self) -> str:
        """All that whoever is to mend something will ask for; no secrets, no name of a home folder."""
        from cryomamba_gui.desk.reporting import report_of

        return self._hidden(report_of(self))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear CryoMamba's loggers until cancelled."""
        self._thread, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()
        with EAR.lent_to(self._overhear):
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._token = None

    def _overhear(self, record: logging.LogRecord) -> None:
        name = record.name.removeprefix("cryomamba_")
        seconds = getattr(record, "seconds", None)
        kind = "log" if seconds is None else "request"
        text = record.getMessage() if kind == "request" else f"{name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        self.note(record.levelname.lower() if record.levelno >= _WARNING else kind, text, seconds)

    def _worded(self, text: str) -> str:
        line = " ".join(self._hidden(text[: 2 * MOST_CHARACTERS]).split())
        return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} […]"

    def _hidden(self, text: str) -> str:
        for secret in tuple(self._secrets):
            text = text.replace(secret, HIDDEN)
        return harmless(text)

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        if self._telling or threading.get_ident() != self._thread:
            return
        self._telling = True
        try:
            self.added.emit(entry)
        except EmitLoopError as failure:  # said by no signal: it would be heard by the same listener
            text = f"an entry cannot be shown: {failure.__cause__!r}"
            self._entries.append(Entry(at=datetime.now(UTC), kind="error", text=self._worded(text)))
        finally:
            self._telling = False


_WARNING = 30  # of the standard library's levels

"""Which job a task of the engine works on, for whoever words the log."""

from __future__ import annotations

from contextvars import ContextVar

#: The job of the current task; empty outside of the supervision of one.
JOB_ID: ContextVar[str] = ContextVar("job id", default="")

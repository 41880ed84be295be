"""Registers the local executor, with one slot for each device of the settings."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Executor
from cryomamba_core.settings import Settings

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_executors(register: Callable[[Executor], None], settings: Settings) -> None:
    """Register the executor."""
    register(LocalExecutor(settings))

"""Registers the transport ``http(s)://``."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_backends.http_transport.transport import HttpTransport
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Transport
from cryomamba_core.settings import Settings

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_transports(register: Callable[[Transport], None], settings: Settings) -> None:
    """Register the transport."""
    register(HttpTransport(settings))

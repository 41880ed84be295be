"""Registers the transport ``local:``."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Transport
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_server.local.transport import LocalTransport

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_transports(register: Callable[[Transport], None], settings: Settings, host: PluginHost) -> None:
    """Register the transport."""
    register(LocalTransport(host, settings))

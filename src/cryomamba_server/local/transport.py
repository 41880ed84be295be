"""``local:``: one workstation, no server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec

from cryomamba_core.errors import InputError, PluginUnavailable
from cryomamba_core.interfaces import Credentials, Session, Transport
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

#: Packages that the engine needs and the core does not.
NEEDED = ("sqlalchemy", "alembic", "uuid_utils")


class LocalTransport(Transport):
    """Runs an engine on the data directory for as long as a session lasts; its workers outlive it.

    Parameters
    ----------
    host
        Where the engine finds every other plugin.
    settings
        The settings of this process.
    """

    name = "local"
    schemes = ("local",)

    def __init__(self, host: PluginHost, settings: Settings) -> None:
        self._host = host
        self._settings = settings

    def open(self, url: str, credentials: Credentials) -> AbstractAsyncContextManager[Session]:
        """Start an engine; the session ends with the context.

        Raises
        ------
        InputError
            If the URL says more than ``local:``.
        PluginUnavailable
            If a package is missing.
        """
        if url.partition(":")[2].strip("/"):
            raise InputError(f"{url!r} names a place, and local: is always here", hint="set CRYOMAMBA_DATA_DIR")
        missing = [package for package in NEEDED if find_spec(package) is None]
        if missing:
            raise PluginUnavailable(
                f"running jobs on this computer needs {', '.join(missing)}",
                hint="install it with: pip install 'cryomamba[server]'",
            )
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Session]:
        import trio

        # a thread does it that may be busy for a moment: the client may be a window's
        await trio.to_thread.run_sync(import_module, "cryomamba_server.local.session")
        from cryomamba_server.engine.engine import open_engine
        from cryomamba_server.local.session import LocalSession

        async with open_engine(self._host, self._settings) as engine:
            yield LocalSession(engine, self._host)

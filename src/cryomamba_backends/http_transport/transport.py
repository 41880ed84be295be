"""``http://`` and ``https://``: where a server may be, and what is told to it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module

from attrs import evolve

from cryomamba_backends.http_transport.patience import Patience
from cryomamba_core.errors import InvalidParameter, ServerUntrusted
from cryomamba_core.interfaces import Credentials, Session, Transport
from cryomamba_core.protocol.addresses import ServerAddress, parse_fingerprint
from cryomamba_core.settings import Settings

log = logging.getLogger(__name__)


class HttpTransport(Transport):
    """Talks to ``cryomamba serve``.

    Parameters
    ----------
    settings
        The settings of this process.
    patience
        How long to try again.
    """

    name = "http"
    schemes = ("http", "https")

    def __init__(self, settings: Settings, patience: Patience | None = None) -> None:
        self._settings = settings
        self._patience = patience or Patience()

    def open(self, url: str, credentials: Credentials) -> AbstractAsyncContextManager[Session]:
        """Get ready to talk; nothing is sent before the first question.

        Raises
        ------
        InvalidParameter
            If the URL, the token or the fingerprint is none.
        ServerUntrusted
            If the token would travel unencrypted to another computer.
        """
        address = ServerAddress.parse(url)
        _require_token(credentials)
        if credentials.fingerprint is not None:
            if not address.secure:
                raise InvalidParameter(
                    "a fingerprint is pinned, and the address begins with http:, where there is no certificate",
                    hint=f"write https://{address.authority}{address.prefix}, or leave the fingerprint out",
                )
            credentials = evolve(credentials, fingerprint=parse_fingerprint(credentials.fingerprint))
        if not address.secure and not address.loopback:
            self._check_plain(address, credentials)
        return self._open(address, credentials)

    def _check_plain(self, address: ServerAddress, credentials: Credentials) -> None:
        if credentials.token is not None and not self._settings.allow_plain_http:
            raise ServerUntrusted(
                f"the token would travel unencrypted to {address.host}",
                hint="use https:// (cryomamba serve --tls-self-signed needs no authority), or set "
                "CRYOMAMBA_ALLOW_PLAIN_HTTP=true in a network where nobody listens",
            )
        log.warning("what is said to %s is not encrypted: everybody on the way can read it", address.host)

    @asynccontextmanager
    async def _open(self, address: ServerAddress, credentials: Credentials) -> AsyncIterator[Session]:
        import trio

        # a thread does it that may be busy for a moment: the client may be a window's
        await trio.to_thread.run_sync(import_module, "cryomamba_backends.http_transport.session")
        from cryomamba_backends.http_transport.connection import open_connection
        from cryomamba_backends.http_transport.session import HttpSession

        async with open_connection(address, credentials, self._patience) as connection, HttpSession(connection) as it:
            yield it


def _require_token(credentials: Credentials) -> None:
    """Refuse what cannot stand in a header: the library that finds out would say it aloud."""
    token = credentials.token
    if token is not None and (not token.isascii() or not token.isprintable() or " " in token or not token):
        raise InvalidParameter(
            "the token has characters that none has, perhaps the end of a line",
            hint="copy it whole, in one line; see CRYOMAMBA_TOKEN, or log in again",
        )

"""Who a window is to an engine: what was typed, what the environment says, what a login left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from cryomamba_core.credentials import CredentialStore
from cryomamba_core.errors import InputError
from cryomamba_core.interfaces import Credentials
from cryomamba_core.known_servers import note_server
from cryomamba_core.protocol.addresses import ServerAddress, parse_fingerprint

if TYPE_CHECKING:
    from cryomamba_gui.desk.journal import Journal

#: The engine of this computer.
LOCAL = "local:"


def is_local(url: str) -> bool:
    """Whether an address is that of the engine of this computer."""
    return url.strip().lower().rstrip(":/") == LOCAL.rstrip(":")


def address_of(url: str) -> str:
    """The one form of an address, however it is written; what is none stays as it is."""
    if is_local(url):
        return LOCAL
    try:
        return ServerAddress.parse(url).url
    except InputError:
        return url.strip()


class Proofs:
    """Tokens and fingerprints of servers.

    Parameters
    ----------
    journal
        Is told what to leave out.
    store
        Where they are kept; None for the user's own.
    """

    def __init__(self, journal: Journal, store: CredentialStore | None = None) -> None:
        self._journal = journal
        self._store = store or CredentialStore()

    async def find(self, url: str, given: Credentials | None) -> Credentials:
        """What to show an engine: what was given, else what the environment says, else what was kept."""
        if is_local(url):
            return Credentials()
        kept = await self._kept(url) or Credentials()
        token = os.environ.get("CRYOMAMBA_TOKEN") or kept.token
        fingerprint = kept.fingerprint
        if given is not None:
            token, fingerprint = given.token or token, given.fingerprint or fingerprint
        for secret in (token, kept.token):
            self._journal.hide(secret)
        return Credentials(token=token, fingerprint=fingerprint)

    async def keep(self, url: str, given: Credentials | None) -> None:
        """Keep what was given and has worked; a part that was not given stays as it was kept.

        Raises
        ------
        StorageError
            If it cannot be kept.
        """
        if is_local(url):
            return
        await trio.to_thread.run_sync(note_server, url, abandon_on_cancel=True)
        if given is None:
            return
        kept = await self._kept(url) or Credentials()
        fingerprint = None if given.fingerprint is None else parse_fingerprint(given.fingerprint)
        wanted = Credentials(token=given.token or kept.token, fingerprint=fingerprint or kept.fingerprint)
        if wanted != kept:
            place = await trio.to_thread.run_sync(self._store.keep, url, wanted, abandon_on_cancel=True)
            self._journal.note("link", f"what proves who one is to {url} is kept in {place}")

    async def _kept(self, url: str) -> Credentials | None:
        """What is kept; a keyring may ask the user first, for as long as it likes."""
        return await trio.to_thread.run_sync(self._store.find, url, abandon_on_cancel=True)

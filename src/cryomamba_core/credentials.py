"""Tokens and fingerprints that ``cryomamba login`` keeps: in the system's keyring, else in a file of the user's own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from cryomamba_core.durable import replacing
from cryomamba_core.errors import StorageError
from cryomamba_core.interfaces.transports import Credentials
from cryomamba_core.protocol.addresses import PORTS, ServerAddress

log: logging.Logger = logging.getLogger(__name__)

#: Under which name the keyring lists what is kept.
SERVICE = "cryomamba"


def default_file() -> Path:
    """Where credentials are kept if there is no keyring."""
    return Path(platformdirs.user_config_dir("cryomamba", appauthor=False)) / "credentials.json"


class CredentialStore:
    """What a user's logins left on this computer, by the address of the server.

    Parameters
    ----------
    file
        Where to keep what no keyring takes; None for `default_file`.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or default_file()

    def find(self, url: str) -> Credentials | None:
        """What is kept for a server, or None."""
        name = _name(url)
        kept = _in_keyring(lambda keyring: keyring.get_password(SERVICE, name))
        plain = _object(kept) if kept else self._read().get(name)
        return Credentials(token=plain.get("token"), fingerprint=plain.get("fingerprint")) if plain else None

    def keep(self, url: str, credentials: Credentials) -> str:
        """Keep what was said at a login, and tell where, in words.

        Raises
        ------
        StorageError
            If there is no keyring and the file cannot be written.
        """
        name = _name(url)
        plain = {"token": credentials.token, "fingerprint": credentials.fingerprint}
        text = json.dumps(plain)

        def put(keyring: Any) -> bool:
            keyring.set_password(SERVICE, name, text)
            return bool(keyring.get_password(SERVICE, name) == text)

        if _in_keyring(put):
            self._change(lambda servers: servers.pop(name, None))
            return "the system's keyring"
        self._change(lambda servers: servers.update({name: plain}))
        return f"{self._file}, which only you can read"

    def forget(self, url: str) -> bool:
        """Remove what is kept for a server; whether there was anything."""
        name = _name(url)

        def drop(keyring: Any) -> bool:
            if keyring.get_password(SERVICE, name) is None:
                return False
            keyring.delete_password(SERVICE, name)
            return True

        dropped = bool(_in_keyring(drop))
        there = name in self._read()
        self._change(lambda servers: servers.pop(name, None))
        return dropped or there

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            text = self._file.read_text(encoding="utf-8")
            if self._file.stat().st_mode & 0o077:
                log.warning("others can read %s, which holds tokens: log in again, or chmod 600 it", self._file)
        except (OSError, UnicodeDecodeError):
            return {}
        servers = _object(text).get("servers")
        if not isinstance(servers, dict):
            return {}
        return {name: entry for name, entry in servers.items() if isinstance(entry, dict)}

    def _change(self, change: Callable[[dict[str, dict[str, Any]]], object]) -> None:
        """Let `change` alter what the file holds, while no other process does."""
        from filelock import FileLock

        if not self._file.exists() and not _changes(change):
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self._file.with_name(f".{self._file.name}.lock")):
                before = self._read()
                after = {name: dict(entry) for name, entry in before.items()}
                change(after)
                if after != before:
                    self._write(after)
        except OSError as error:
            raise StorageError(
                f"{self._file} cannot be written: {error.strerror}",
                hint="set CRYOMAMBA_TOKEN in the environment instead",
            ) from error

    def _write(self, servers: dict[str, dict[str, Any]]) -> None:
        if not servers:
            self._file.unlink(missing_ok=True)
            return
        with replacing(self._file) as partial:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, 0o600)
                json.dump({"servers": servers}, stream, indent=1)


def _changes(change: Callable[[dict[str, dict[str, Any]]], object]) -> bool:
    """Whether a change does anything to an empty file."""
    nothing: dict[str, dict[str, Any]] = {}
    change(nothing)
    return bool(nothing)


def _name(url: str) -> str:
    """What credentials are kept under: one name for every way to write an address."""
    scheme = url.strip().partition(":")[0].lower()
    return ServerAddress.parse(url).url if scheme in PORTS else url.strip().rstrip("/")


def _object(text: str) -> dict[str, Any]:
    try:
        plain = json.loads(text)
    except ValueError:
        return {}
    return plain if isinstance(plain, dict) else {}


def _in_keyring(work: Callable[[Any], Any]) -> Any:
    """What `work` gets from the keyring; None where there is none, or it is locked or broken."""
    try:
        import keyring

        return work(keyring.get_keyring())
    except Exception as error:  # noqa: BLE001  # backends raise whatever the desktop's services do
        log.debug("there is no keyring: %s", type(error).__name__)  # its words may hold what was to be kept
        return None

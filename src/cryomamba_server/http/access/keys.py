"""Keys that sign tokens and addresses: a file that only its owner can read."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from attrs import evolve, field, frozen
from filelock import FileLock

from cryomamba_core.durable import replacing
from cryomamba_core.errors import CryoMambaError, StorageDamaged, StorageError
from cryomamba_core.wire import from_plain, to_plain
from cryomamba_server.engine.records import now

log = logging.getLogger(__name__)

#: Folder of the data directory that holds the keys.
FOLDER = "access"
FILE_NAME = "keys.json"

#: The only algorithm so far; each key says its own, and no token is asked.
ALGORITHM = "HS256"
SECRET_BYTES = 32


class Use(StrEnum):
    """What a key signs; a key of one use is never looked at for the other."""

    TOKENS = "tokens"
    ADDRESSES = "addresses"


@frozen(kw_only=True)
class Key:
    """A secret, and what it is for.

    Attributes
    ----------
    id
        Stands in the clear in whatever the key signed.
    use, algorithm
        What it signs, and how.
    secret
        At least 32 random bytes.
    created_at
        UTC.
    ends_at
        When the last thing that it signed has expired; None for the key that signs now.
    """

    id: str
    use: Use
    algorithm: str = ALGORITHM
    secret: bytes = field(repr=False)
    created_at: datetime
    ends_at: datetime | None = None


class KeyRing:
    """The keys of a data directory. Methods block, and may be called by any thread of any process.

    Parameters
    ----------
    data_dir
        The data directory; keys are made if it has none.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._path = self._folder / FILE_NAME
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()
        with self.changing():
            missing = [use for use in Use if self._current(use) is None]
            if missing:
                self._write((*self._keys, *map(_new_key, missing)))

    def current(self, use: Use) -> Key:
        """The key that signs now, as far as this process has seen."""
        key = self._current(use)
        if key is None:
            raise StorageDamaged(f"{self._path} has no key for {use}", hint="start the server again to make one")
        return key

    def find(self, use: Use, key_id: object) -> Key | None:
        """The key with this id, unless it has ended; as far as this process has seen."""
        at = now()
        for key in self._keys:
            if key.use == use and key.id == key_id and (key.ends_at is None or key.ends_at > at):
                return key
        return None

    def refresh(self) -> None:
        """See what other processes have changed; without a file there are no keys."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._keys, self._seen = (), None
            return
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._keys = self._read()
            self._seen = seen

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other processes from changing the keys, and know the newest."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(self._folder / "keys.lock", thread_local=False)
            with lock:
                self.refresh()
                yield
        except PermissionError as error:
            raise StorageError(
                f"{self._path} cannot be used: {error.strerror}", hint="run this as the user who runs the server"
            ) from error

    def rotate(self, use: Use, *, ends_at: datetime) -> Key:
        """Sign with a new key; the old one counts until `ends_at`. Call it within `changing`."""
        at = now()
        retired = [
            evolve(key, ends_at=ends_at) if key.use == use and key.ends_at is None else key for key in self._keys
        ]
        made = _new_key(use)
        self._write((*(key for key in retired if key.ends_at is None or key.ends_at > at), made))
        return made

    def end(self, use: Use) -> Key:
        """Sign with a new key, and let none of the old ones count. Call it within `changing`."""
        made = _new_key(use)
        self._write((*(key for key in self._keys if key.use != use), made))
        return made

    def _current(self, use: Use) -> Key | None:
        return next((key for key in reversed(self._keys) if key.use == use and key.ends_at is None), None)

    def _read(self) -> tuple[Key, ...]:
        if self._path.stat().st_mode & 0o077:
            log.warning("%s could be read by others: make new keys with: cryomamba token rotate --now", self._path)
            self._path.chmod(0o600)
        try:
            keys = from_plain(json.loads(self._path.read_text(encoding="utf-8")), tuple[Key, ...])
        except (ValueError, CryoMambaError) as error:
            raise StorageDamaged(
                f"the keys in {self._path} cannot be read", hint="move the file away; tokens must be made anew then"
            ) from error
        if any(len(key.secret) < SECRET_BYTES or key.algorithm != ALGORITHM for key in keys):
            raise StorageDamaged(
                f"{self._path} has a key that is too weak", hint="move the file away; tokens must be made anew then"
            )
        return keys

    def _write(self, keys: tuple[Key, ...]) -> None:
        data = json.dumps(to_plain(keys), indent=1).encode()
        with replacing(self._path) as partial:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
        self._seen = None
        self.refresh()


def _new_key(use: Use) -> Key:
    return Key(id=secrets.token_hex(8), use=use, secret=secrets.token_bytes(SECRET_BYTES), created_at=now())

"""Taking files into the storage, each content once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryomamba_core.durable import CHUNK, sha256_of
from cryomamba_core.errors import UnknownObject
from cryomamba_core.files import FileRecord
from cryomamba_core.interfaces import Storage, VolumeReader
from cryomamba_core.interfaces.readers import FIRST_BYTES
from cryomamba_core.plugins import PluginHost
from cryomamba_server.engine.records import StoredFile, now

#: Called with bytes done and bytes in all.
OnPiece = Callable[[int, int], None]


def receive(host: PluginHost, storage: Storage, path: Path, *, on_piece: OnPiece | None = None) -> StoredFile:
    """Copy a file into the storage unless it is there already. Blocks.

    The key is made of the content's digest and the file's ending, by which some readers know their
    files.
    """
    reader = host.reader_for(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        reader.validate(stream.read(FIRST_BYTES), size)
    meter = _Meter(size, on_piece)
    sha256 = sha256_of(path, on_chunk=meter.step)
    key = f"raw/{sha256}{_suffix(reader, path)}"
    if not _has(storage, key, sha256):
        _copy(storage, path, key, size, sha256, meter)
    meter.finish()
    return StoredFile(record=FileRecord(id=sha256, name=path.name, size=size, sha256=sha256, created_at=now()), key=key)


def _suffix(reader: VolumeReader, path: Path) -> str:
    name = path.name.lower()
    return max((suffix for suffix in reader.suffixes if name.endswith(suffix)), key=len, default="")


def _has(storage: Storage, key: str, sha256: str) -> bool:
    try:
        return storage.stat(key).sha256 == sha256
    except UnknownObject:
        return False


def _copy(storage: Storage, path: Path, key: str, size: int, sha256: str, meter: _Meter) -> None:
    token = storage.begin(key, size)
    try:
        with path.open("rb") as stream:
            offset = 0
            while chunk := stream.read(CHUNK):
                storage.write(token, offset, chunk)
                offset += len(chunk)
                meter.step(len(chunk))
        storage.commit(token, sha256=sha256)
    except BaseException:
        storage.abort(token)
        raise


class _Meter:
    """Reports bytes: the file is read twice, so each pass counts for half."""

    def __init__(self, size: int, on_piece: OnPiece | None) -> None:
        self._size = size
        self._read = 0
        self._on_piece = on_piece

    def step(self, count: int) -> None:
        self._read = min(self._read + count, 2 * self._size)
        if self._on_piece is not None:
            self._on_piece(self._read // 2, self._size)

    def finish(self) -> None:
        if self._on_piece is not None:
            self._on_piece(self._size, self._size)

"""Objects as files: ``ROOT/raw/…`` and ``ROOT/artifacts/…``, each at the path that its key spells.

::

    raw/ab12/tomogram.mrc       an object
    raw/+partial/TOKEN          the content of a write that is open
    raw/+partial/TOKEN.json     its key and size
    raw/+partial/TOKEN.shared   there if not only the storage that began the write has written to it
    raw/+digests/HASH.json      an object's digest, with the inode, size and time of change that it is true for

An object comes to be in one step: the rename of its synced content. The digest is written before
that step. If a crash falls between the two, it speaks of another inode than the object's, is not
believed, and is worked out anew.

The storage that begins a write hashes what passes through it, and completing need not read it again.
That holds as long as nobody else writes: another storage, as of a process that was started since,
leaves its mark first, and then the digest is taken from the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from cryomamba_backends.filesystem.direct import write_all
from cryomamba_backends.filesystem.folders import (
    AREAS,
    DIGESTS,
    PARTIAL,
    is_part,
    naming_disk_errors,
    open_file,
    open_folder,
    set_aside,
    split_key,
)
from cryomamba_backends.filesystem.running_digest import RunningDigest
from cryomamba_core.durable import CHUNK
from cryomamba_core.errors import (
    CryoMambaError,
    InvalidParameter,
    MissingFile,
    StorageDamaged,
    StorageError,
    UnknownObject,
)
from cryomamba_core.interfaces import ObjectInfo, Storage
from cryomamba_core.wire import dump_json, load_json

_TOKEN = re.compile(rf"({'|'.join(AREAS)})\.([0-9a-f]{{32}})")
#: A folder that a delete finds empty may vanish between its making and the rename into it.
_ATTEMPTS = 100
#: Bytes of the largest note beside an object; a buffer of `CHUNK` bytes would be made for each.
_NOTE = 64 << 10
_MARK = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class FilesystemStorage(Storage):
    """Keeps objects in a folder. All its state is on the disk, so several processes may share it.

    Parameters
    ----------
    root
        The folder; it is made when the first object is.
    """

    name = "filesystem"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._running: dict[str, RunningDigest] = {}

    def begin(self, key: str, size: int) -> str:
        """Start writing an object: its space on the disk is taken now."""
        area = split_key(key)[0]
        if size < 0:
            raise InvalidParameter(f"an object cannot have {size} bytes")
        identity = uuid.uuid4().hex
        with naming_disk_errors(f"{size} bytes for {key} cannot be stored"), self._partial(area) as folder:
            with _removed_on_error(folder, identity, f"{identity}.json"):
                with _closing(os.open(identity, _NEW, 0o644, dir_fd=folder)) as content:
                    set_aside(content, size)
                    os.fsync(content)
                with _closing(os.open(f"{identity}.json", _NEW, 0o644, dir_fd=folder)) as note:
                    write_all(note, dump_json(_OpenWrite(key=key, size=size)).encode(), 0)
                    os.fsync(note)
            os.fsync(folder)
        self._running[identity] = RunningDigest()
        return f"{area}.{identity}"

    def write(self, token: str, offset: int, data: bytes | memoryview) -> None:
        """Write at an offset and sync."""
        area, identity = _split_token(token)
        with naming_disk_errors("the data cannot be stored"), self._partial(area) as folder:
            size = _open_write(folder, identity).size
            view = memoryview(data).cast("B")
            if offset < 0 or offset + len(view) > size:
                raise InvalidParameter(f"{len(view)} bytes at {offset} lie outside an object of {size} bytes")
            running = self._running.get(identity)
            with _closing(open_file(folder, identity, os.O_RDWR)) as content:
                if not view:
                    return
                if running is None:
                    os.close(os.open(f"{identity}.shared", _MARK, 0o644, dir_fd=folder))
                    write_all(content, view, offset)
                    _sync_data(content)
                    return
                with running.writing(offset, len(view)):
                    write_all(content, view, offset, past_cache=True)
                _sync_data(content)
                running.advance(content, offset, view)

    def commit(self, token: str, *, sha256: str | None = None) -> ObjectInfo:
        """Check, sync and rename the content, then sync its folder."""
        area, identity = _split_token(token)
        with naming_disk_errors("the object cannot be completed"), self._partial(area) as folder:
            opened = _open_write(folder, identity)
            try:
                content = open_file(folder, identity)
            except UnknownObject:
                info = self._settled(opened.key, sha256)
            else:
                with _closing(content):
                    digest = self._digest_of_write(folder, identity, content)
                    _check_digest(opened.key, digest, sha256)
                    if os.fstat(content).st_size != opened.size:
                        raise StorageDamaged(f"{opened.key} has not the size that was announced")
                    os.fsync(content)
                    info = self._place(folder, identity, content, opened.key, digest)
            _remove(folder, f"{identity}.json", f"{identity}.shared")
            os.fsync(folder)
        self._running.pop(identity, None)
        return info

    def abort(self, token: str) -> None:
        """Drop an open write."""
        with suppress(UnknownObject):
            area, identity = _split_token(token)
            self._running.pop(identity, None)
            with self._folder((area, PARTIAL)) as folder:
                _remove(folder, *_names(identity))

    def expire(self, older_than: float) -> int:
        """Drop open writes, and copies that a crash cut short, that have not changed for so many seconds."""
        dropped = 0
        for area in AREAS:
            with suppress(UnknownObject), self._folder((area, PARTIAL)) as folder:
                for identity in {name.partition(".")[0] for name in os.listdir(folder)}:  # noqa: PTH208  # a descriptor
                    changed = max(_time_of_change(folder, name) for name in (identity, f"{identity}.json"))
                    if time.time() - changed >= older_than:
                        self._running.pop(identity, None)
                        _remove(folder, *_names(identity))
                        dropped += 1
        return dropped

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Read a range of bytes."""
        if not 0 <= start <= stop:
            raise InvalidParameter(f"{start} to {stop} is not a range of bytes")
        with naming_disk_errors(f"{key} cannot be read"), self._object(key) as (_, content):
            pieces = []
            while start < stop and (piece := os.pread(content, stop - start, start)):
                pieces.append(piece)
                start += len(piece)
            return b"".join(pieces)

    def open(self, key: str) -> int:
        """A descriptor of the object's own file."""
        with naming_disk_errors(f"{key} cannot be read"), self._object(key) as (_, content):
            return os.dup(content)

    def stat(self, key: str) -> ObjectInfo:
        """Size, time and digest; the content is read only if the digest is not known for sure."""
        with naming_disk_errors(f"{key} cannot be read"), self._object(key) as (_, content):
            return self._describe(key, content)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects by prefix, in order of their keys."""
        for area in sorted(AREAS):
            if _may_hold(f"{area}/", prefix):
                for key in self._keys((area,), prefix):
                    with suppress(UnknownObject):
                        yield self.stat(key)

    def delete(self, key: str) -> None:
        """Remove an object, and the folders that are empty without it."""
        *above, name = split_key(key)
        with suppress(UnknownObject), naming_disk_errors(f"{key} cannot be removed"):
            with self._folder(above) as folder:
                os.close(open_file(folder, name))
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
            with suppress(UnknownObject), self._folder((above[0], DIGESTS)) as digests:
                _remove(digests, _digest_name(key))
            for depth in range(len(above) - 1, 0, -1):
                with suppress(OSError), self._folder(above[:depth]) as folder:
                    os.rmdir(above[depth], dir_fd=folder)

    @contextmanager
    def localize(self, key: str) -> Iterator[Path]:
        """The object's own path."""
        with self._object(key):
            path = self._root.joinpath(*split_key(key))
        yield path

    def publish(self, path: Path, key: str) -> ObjectInfo:
        """Store a copy of a file."""
        area = split_key(key)[0]
        identity = uuid.uuid4().hex
        with _closing(_open_source(path)) as source:
            before = os.fstat(source)
            with (
                naming_disk_errors(f"{path.name} cannot be stored as {key}"),
                self._partial(area) as folder,
                _removed_on_error(folder, identity),
                _closing(os.open(identity, _NEW, 0o644, dir_fd=folder)) as content,
            ):
                set_aside(content, before.st_size)
                digest = _digest_of(source, copy_to=content)
                os.fsync(content)
                after, copy = os.fstat(source), os.fstat(content)
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or (
                    copy.st_size != after.st_size
                ):
                    raise StorageDamaged(
                        f"{path.name} was changed while it was stored", hint="retry when it is complete"
                    )
                return self._place(folder, identity, content, key, digest)

    def free_bytes(self) -> int | None:
        """Free space of the file system."""
        above = next(folder for folder in (self._root, *self._root.parents) if folder.is_dir())
        return shutil.disk_usage(above).free

    @contextmanager
    def _folder(self, parts: Sequence[str]) -> Iterator[int]:
        with open_folder(self._root, parts) as folder:
            yield folder

    @contextmanager
    def _partial(self, area: str) -> Iterator[int]:
        with open_folder(self._root, (area, PARTIAL), create=True) as folder:
            yield folder

    @contextmanager
    def _object(self, key: str) -> Iterator[tuple[int, int]]:
        """Descriptors of an object's folder and of its content."""
        *above, name = split_key(key)
        try:
            with self._folder(above) as folder, _closing(open_file(folder, name)) as content:
                yield folder, content
        except UnknownObject as error:
            raise UnknownObject(f"nothing is stored as {key}") from error

    def _place(self, source: int, name: str, content: int, key: str, digest: str) -> ObjectInfo:
        """Rename synced content to where its key says."""
        with suppress(OSError):  # a disk that has no room for it has had room for the object
            self._write_digest(key, content, digest)
        *above, target = split_key(key)
        for _ in range(_ATTEMPTS):
            try:
                with open_folder(self._root, above, create=True) as folder:
                    os.replace(name, target, src_dir_fd=source, dst_dir_fd=folder)
                    os.fsync(folder)
                    return self._describe(key, content)
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                raise StorageError(f"{key} is in the way: it is a folder", hint="choose another key") from None
        raise StorageError(f"{key} cannot be stored: its folder or its content is removed again and again")

    def _digest_of_write(self, folder: int, identity: str, content: int) -> str:
        """Hex SHA-256 of what was written, from the file unless all of it passed through this storage."""
        running = self._running.get(identity)
        if running is None or _time_of_change(folder, f"{identity}.shared"):
            return _digest_of(content)
        return running.finish(content)

    def _settled(self, key: str, sha256: str | None) -> ObjectInfo:
        """An object whose content was renamed by a commit that got no further."""
        with self._object(key) as (folder, content):
            os.fsync(folder)
            info = self._describe(key, content)
        _check_digest(key, info.sha256, sha256)
        return info

    def _describe(self, key: str, content: int) -> ObjectInfo:
        status = os.fstat(content)
        digest = self._known_digest(key, status)
        if digest is None:
            digest = _digest_of(content)
            with suppress(OSError):
                self._write_digest(key, content, digest)
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return ObjectInfo(key=key, size=status.st_size, sha256=digest, modified_at=modified)

    def _known_digest(self, key: str, status: os.stat_result) -> str | None:
        try:
            with (
                self._folder((split_key(key)[0], DIGESTS)) as folder,
                _closing(open_file(folder, _digest_name(key))) as file,
            ):
                known = load_json(os.pread(file, _NOTE, 0), _Digest)
        except (OSError, CryoMambaError):
            return None
        return known.sha256 if known == _Digest.of(status, known.sha256) else None

    def _write_digest(self, key: str, content: int, sha256: str) -> None:
        """Keep a digest. It is not synced: whoever finds it damaged works it out anew."""
        text = dump_json(_Digest.of(os.fstat(content), sha256))
        area, partial = split_key(key)[0], f"{uuid.uuid4().hex}.json"
        with (
            self._partial(area) as source,
            open_folder(self._root, (area, DIGESTS), create=True) as folder,
            _removed_on_error(source, partial),
        ):
            with _closing(os.open(partial, _NEW, 0o644, dir_fd=source)) as file:
                write_all(file, text.encode(), 0)
            os.replace(partial, _digest_name(key), src_dir_fd=source, dst_dir_fd=folder)

    def _keys(self, parts: tuple[str, ...], prefix: str) -> Iterator[str]:
        entries: dict[str, bool] = {}
        with suppress(UnknownObject), self._folder(parts) as folder, os.scandir(folder) as found:
            for entry in found:
                if is_part(entry.name):
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_folder or entry.is_file(follow_symlinks=False):
                        entries["/".join((*parts, entry.name)) + "/" * is_folder] = is_folder
        for key in sorted(entries):
            if entries[key]:
                if _may_hold(key, prefix):
                    yield from self._keys(tuple(key[:-1].split("/")), prefix)
            elif key.startswith(prefix):
                yield key


@frozen(kw_only=True)
class _OpenWrite:
    key: str
    size: int


@frozen(kw_only=True)
class _Digest:
    sha256: str
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result, sha256: str) -> _Digest:
        return cls(sha256=sha256, inode=status.st_ino, size=status.st_size, modified_ns=status.st_mtime_ns)


def _split_token(token: str) -> tuple[str, str]:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise UnknownObject(f"no write is open under {token!r}")
    return match[1], match[2]


def _open_write(folder: int, identity: str) -> _OpenWrite:
    try:
        with _closing(open_file(folder, f"{identity}.json")) as note:
            return load_json(os.pread(note, _NOTE, 0), _OpenWrite)
    except (UnknownObject, InvalidParameter) as error:
        raise UnknownObject(f"no write is open under {identity!r}") from error


def _check_digest(key: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected.lower():
        raise StorageDamaged(f"{key} has the digest {found}, not {expected}", hint="send the damaged parts again")


def _names(identity: str) -> tuple[str, str, str]:
    """The files of an open write; without the first it is not open."""
    return f"{identity}.json", f"{identity}.shared", identity


def _may_hold(folder: str, prefix: str) -> bool:
    """Whether a folder, with its last ``/``, can hold keys that start with `prefix`."""
    return folder.startswith(prefix) or prefix.startswith(folder)


def _digest_name(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _digest_of(source: int, *, copy_to: int | None = None) -> str:
    """Hex SHA-256 of an open file, which is copied on the way if `copy_to` names another."""
    digest = hashlib.sha256()
    offset = 0
    while piece := os.pread(source, CHUNK, offset):
        digest.update(piece)
        if copy_to is not None:
            write_all(copy_to, piece, offset)
        offset += len(piece)
    return digest.hexdigest()


def _open_source(path: Path) -> int:
    try:
        with open_folder(path.parent, ()) as folder:
            return open_file(folder, path.name)
    except (UnknownObject, OSError) as error:
        raise MissingFile(f"{path} cannot be read: {error}", hint="only regular files can be stored") from error


def _sync_data(descriptor: int) -> None:
    sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
    sync(descriptor)


def _time_of_change(folder: int, name: str) -> float:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(folder: int, *names: str) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


@contextmanager
def _removed_on_error(folder: int, *names: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(folder, *names)
        raise


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)

"""The file that a backup is: a zip of the job store and, if wanted, of keys, with a list of what is in it.

::

    manifest.json       versions, time, and size and SHA-256 of each of the others
    cryomamba.sqlite    the job store
    access/keys.json    with ``--with-keys``: what tokens and addresses are signed with
    tls/…               with ``--with-keys``: the server's own certificate and its key
"""

from __future__ import annotations

import errno
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath

from attrs import frozen

from cryomamba_core.durable import CHUNK, sync_file
from cryomamba_core.errors import CryoMambaError, MissingFile, StorageDamaged
from cryomamba_core.wire import dump_json, load_json
from cryomamba_server.engine.database import FILE_NAME
from cryomamba_server.http.access import keys
from cryomamba_server.http.tls import FOLDER as TLS_FOLDER

#: Version of this format; a newer one is refused.
FORMAT = 1

MANIFEST = "manifest.json"
STORE = FILE_NAME

#: Folders of the data directory that hold secrets.
SECRET_FOLDERS = (keys.FOLDER, TLS_FOLDER)

#: Bytes of a manifest, at most.
MOST_MANIFEST = 1 << 20


@frozen(kw_only=True)
class Member:
    """A file in a backup: its size in bytes and its hex SHA-256."""

    size: int
    sha256: str


@frozen(kw_only=True)
class BackupManifest:
    """What a backup holds.

    Attributes
    ----------
    format
        Of the file.
    version, revision
        Of CryoMamba and of the job store's tables.
    created_at
        UTC.
    jobs, files
        How many records there are.
    members
        Path below the data directory → the file.
    """

    format: int
    version: str
    revision: str
    created_at: datetime
    jobs: int
    files: int
    members: dict[str, Member]


def describe(path: Path) -> Member:
    """Size and digest of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            size += len(piece)
    return Member(size=size, sha256=digest.hexdigest())


def write_archive(target: Path, manifest: BackupManifest, paths: dict[str, Path]) -> None:
    """Write a backup; whoever calls makes it durable."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, dump_json(manifest, indent=1))
        for name, path in paths.items():
            archive.write(path, name)


def unpack_archive(source: Path, folder: Path) -> BackupManifest:
    """Check a backup and put its files into an empty folder. Only names that a backup may have are written.

    Raises
    ------
    MissingFile
        If it cannot be opened.
    StorageDamaged
        If it is no backup, is damaged, or was written by a newer version.
    """
    with _opened(source) as archive:
        manifest = _manifest(source, archive)
        listed = [info.filename for info in archive.infolist()]
        if sorted(listed) != sorted([MANIFEST, *manifest.members]) or STORE not in manifest.members:
            raise _damaged(source, "does not hold what it lists")
        for name, member in manifest.members.items():
            if not _is_expected(name):
                raise _damaged(source, f"holds {name!r}, which no backup has")
            _unpack(source, archive, name, member, folder.joinpath(*PurePosixPath(name).parts))
    return manifest


def _manifest(source: Path, archive: zipfile.ZipFile) -> BackupManifest:
    try:
        if archive.getinfo(MANIFEST).file_size > MOST_MANIFEST:
            raise _damaged(source, "has a list that is too long")
        text = archive.read(MANIFEST)
    except KeyError:
        raise StorageDamaged(
            f"{source} is no backup: it has no {MANIFEST}", hint="name a file that cryomamba backup wrote"
        ) from None
    try:
        manifest = load_json(text, BackupManifest)
    except CryoMambaError as error:
        raise _damaged(source, f"has a list that cannot be read: {error}") from error
    if manifest.format > FORMAT:
        raise StorageDamaged(
            f"{source} was written by CryoMamba {manifest.version} in a newer format",
            hint="upgrade with: pip install --upgrade cryomamba",
        )
    return manifest


def _unpack(source: Path, archive: zipfile.ZipFile, name: str, member: Member, target: Path) -> None:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    target.touch(mode=0o600)
    left = member.size
    with archive.open(name) as stream, target.open("wb") as out:
        while left >= 0 and (piece := stream.read(CHUNK)):
            left -= len(piece)
            out.write(piece)
    if describe(target) != member:
        raise _damaged(source, f"holds another {name} than it lists")
    sync_file(target)


def _is_expected(name: str) -> bool:
    if name == STORE:
        return True
    parts = PurePosixPath(name).parts
    plain = len(parts) == 2 and "/".join(parts) == name and "\\" not in name and "\0" not in name
    return plain and parts[0] in SECRET_FOLDERS and parts[1] not in (".", "..")


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise MissingFile(f"{source} cannot be opened: {error.strerror}", hint="check the path") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error) as error:
        raise _damaged(source, f"cannot be read: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # what zipfile meets where a place in the file is negative
            raise
        raise _damaged(source, f"cannot be read: {error}") from error


def _damaged(source: Path, what: str) -> StorageDamaged:
    return StorageDamaged(f"{source} {what}", hint="use another backup")

"""Where stored bytes come from: a plain file, or a compressed one that is unpacked into an unlinked scratch file."""

from __future__ import annotations

import bz2
import errno
import gzip
import os
import shutil
import stat
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from cryomamba_core.errors import CorruptFile, HostileFile, MissingFile, StorageFull, TruncatedFile
from cryomamba_core.volumes import HeaderWarning

Compression = Literal["gzip", "bzip2"]

GZIP_MAGIC = b"\x1f\x8b"

#: Bytes that are unpacked at a time.
CHUNK = 1 << 20

#: No deflate stream holds more than this many bytes for each of its own (zlib, "Technical Details").
DEFLATE_LIMIT = 1032

#: Grey values never shrink so far, only masks do; beyond `HOSTILE_BYTES` such a file is taken for a bomb.
HOSTILE_RATIO = 100
HOSTILE_BYTES = 256 << 20

#: Bytes after the voxels that are tolerated.
TRAILING = 1 << 20


class ByteSource(Protocol):
    """Random access to the bytes of a file as they are when unpacked."""

    def pread(self, length: int, offset: int) -> bytes:
        """Exactly `length` bytes from `offset`; raises `TruncatedFile` where there are fewer."""

    def close(self) -> None:
        """Give back what is held open; may be called twice."""


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, for reading.

    Raises
    ------
    MissingFile
        If it cannot be opened, or is a folder, a pipe or a device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MissingFile(f"{path} cannot be opened: {reason}", hint="check the path and its permissions") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MissingFile(f"{path} is not a regular file", hint="give the path of a file, not of a folder or a pipe")
    return descriptor


class PlainFile:
    """An open file, read in place. Owns its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def pread(self, length: int, offset: int) -> bytes:
        """Exactly `length` bytes from `offset`; raises `TruncatedFile` where there are fewer."""
        if self._descriptor is None:
            raise ValueError("the volume is closed")
        return read_exactly(self._descriptor, length, offset)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class CompressedFile:
    """A compressed file, unpacked at the first read. Owns its descriptor.

    Never more is unpacked than the header claims, nor is it ever held in memory: it goes to a
    scratch file that has no name, so that nothing is left behind however the process ends.

    Parameters
    ----------
    descriptor
        The file.
    start
        Where the compressed bytes start in it.
    compression
        Their kind.
    claimed
        How many bytes the header says there are when unpacked.
    scratch
        Folder for the scratch file; None for the platform's.

    Raises
    ------
    TruncatedFile, HostileFile, CorruptFile
        At once if the size in the gzip trailer differs from `claimed`, else by the first read.
    """

    def __init__(
        self, descriptor: int, *, start: int, compression: Compression, claimed: int, scratch: Path | None
    ) -> None:
        self._descriptor: int | None = descriptor
        self._start = start
        self._compression = compression
        self._claimed = claimed
        self._scratch = scratch
        self._unpacked: IO[bytes] | None = None
        if compression == "gzip" and self._size_in_trailer() != claimed % (1 << 32):
            self._unpack()

    def pread(self, length: int, offset: int) -> bytes:
        """Exactly `length` bytes from `offset` of the unpacked content."""
        return read_exactly(self._unpack().fileno(), length, offset)

    def close(self) -> None:
        """Close the file and give back the scratch space."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._unpacked is not None:
            self._unpacked.close()
            self._unpacked = None

    def _size_in_trailer(self) -> int:
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        return int.from_bytes(os.pread(self._descriptor, 4, max(0, size - 4)), "little")

    def _unpack(self) -> IO[bytes]:
        if self._unpacked is not None:
            return self._unpacked
        if self._descriptor is None:
            raise ValueError("the volume is closed")
        folder = self._scratch if self._scratch is not None and self._scratch.is_dir() else Path(tempfile.gettempdir())
        if shutil.disk_usage(folder).free < self._claimed:
            raise _no_room(self._claimed, folder)
        target = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives until `close`
        try:
            with os.fdopen(os.dup(self._descriptor), "rb") as packed:
                packed.seek(self._start)
                _unpack_exactly(packed, target, self._claimed, self._compression)
            target.flush()
        except BaseException as error:
            target.close()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_room(self._claimed, folder) from error
            raise
        self._unpacked = target
        return target


def read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset` of an open file; raises `TruncatedFile` where there are fewer."""
    pieces = []
    wanted = length
    while wanted > 0:
        piece = os.pread(descriptor, wanted, offset)
        if not piece:
            raise TruncatedFile(
                f"the file ends {wanted} bytes early", hint="it changed while it was read, or its disk has a fault"
            )
        pieces.append(piece)
        wanted -= len(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def unpack_start(first_bytes: bytes, length: int) -> bytes:
    """At most `length` unpacked bytes from the start of a gzip file, b"" where it is none."""
    try:
        return zlib.decompressobj(31).decompress(first_bytes, length)
    except zlib.error:
        return b""


def check_claim(claimed: int, packed: int, compression: Compression, dtype: np.dtype[Any]) -> None:
    """Refuse a header that claims `claimed` bytes in `packed` compressed ones, where that cannot be right.

    Whole numbers of one or two bytes may be a mask, of which deflate leaves next to nothing.

    Parameters
    ----------
    claimed, packed
        Bytes.
    compression
        Their kind.
    dtype
        Of the voxels.

    Raises
    ------
    TruncatedFile
        If no compressed file of that size holds so much.
    HostileFile
        If it could, but no image of the kind shrinks so far.
    """
    if compression == "gzip" and claimed > DEFLATE_LIMIT * packed:
        raise TruncatedFile(
            f"the header claims {claimed} bytes, which {packed} compressed bytes cannot hold",
            hint="copy the file again from where it was written",
        )
    may_be_mask = compression == "gzip" and dtype.kind in "iu" and dtype.itemsize <= 2
    if not may_be_mask and claimed > HOSTILE_BYTES and claimed > HOSTILE_RATIO * packed:
        raise HostileFile(
            f"{packed} compressed bytes would unpack to {claimed}, as a decompression bomb does",
            hint="no image shrinks so far; if you trust the file, decompress it yourself and give the result",
        )


def check_size(needed: int, size: int) -> tuple[HeaderWarning, ...]:
    """Compare the bytes that a header claims with those that are there.

    Raises
    ------
    TruncatedFile
        If there are fewer.

    Returns
    -------
    warnings
        One if there are more.
    """
    if needed > size:
        raise TruncatedFile(
            f"the header claims {needed} bytes, the file has {size}",
            hint="copy the file again from where it was written; if it is whole, its header is wrong",
        )
    if needed < size:
        return (
            HeaderWarning(
                code="header/trailing-bytes",
                message=f"{size - needed} bytes follow the voxels and are ignored",
                hint="check the dimensions in the header if that is unexpected",
            ),
        )
    return ()


def _unpack_exactly(packed: IO[bytes], target: IO[bytes], claimed: int, compression: Compression) -> None:
    stream: IO[bytes] = (
        gzip.GzipFile(fileobj=packed, mode="rb") if compression == "gzip" else bz2.BZ2File(packed)  # type: ignore[assignment]  # both read like files
    )
    done = 0
    try:
        while done < claimed:
            piece = stream.read(min(CHUNK, claimed - done))
            if not piece:
                raise TruncatedFile(
                    f"the header claims {claimed} bytes, the compressed data hold {done}",
                    hint="copy the file again from where it was written; if it is whole, its header is wrong",
                )
            target.write(piece)
            done += len(piece)
        _refuse_more(stream, claimed)
    except EOFError as error:
        raise TruncatedFile(
            f"the compressed data end after {done} of {claimed} bytes",
            hint="copy the file again from where it was written",
        ) from error
    except (zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorruptFile(
            f"the compressed data are damaged: {error}", hint="copy the file again from where it was written"
        ) from error


def _refuse_more(stream: IO[bytes], claimed: int) -> None:
    more = 0
    try:
        while more <= TRAILING and (piece := stream.read(CHUNK)):
            more += len(piece)
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):  # junk after the last member is tolerated, a wrong CRC is not
            raise
    if more > TRAILING:
        raise HostileFile(
            f"the compressed data hold more than the {claimed} bytes that the header claims",
            hint="the file unpacks to something else than its header says: write it again",
        )


def _no_room(claimed: int, folder: Path) -> StorageFull:
    return StorageFull(
        f"there is no room in {folder} to unpack {claimed} bytes",
        hint="free some space, let TMPDIR name a larger disk, or decompress the file yourself",
    )

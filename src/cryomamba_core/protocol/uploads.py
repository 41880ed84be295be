"""Uploads on the wire: ``/v1/uploads``."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from datetime import datetime

from attrs import field, frozen

from cryomamba_core.errors import BadRequest, InvalidParameter

#: Bytes of a file name, as most file systems have it.
MAX_FILENAME = 255

#: Bytes of a file, at most: the largest number that every JSON reader takes.
MOST_BYTES = 2**53 - 1

#: How many parts a file may have.
MAX_PARTS = 100_000

#: One entry of a digest header (RFC 9530): an algorithm and base64 between colons.
_DIGEST = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):")

#: What turns the direction of text round; a name that has it looks like another.
_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@frozen(kw_only=True)
class UploadRequest:
    """What a client says of a file before it sends it.

    Attributes
    ----------
    filename
        Name for people, and for readers that go by endings; folders in it are refused.
    size
        In bytes.
    sha256
        Hex digest of the whole file, where it is known: content that the server has is not sent again.
    fingerprint
        Anything that is the same for the same file and differs for others, at most 256 characters: an
        upload of this owner with the same fingerprint and size is continued.
    """

    filename: str
    size: int
    sha256: str | None = None
    fingerprint: str | None = None

    def __attrs_post_init__(self) -> None:
        check_filename(self.filename)
        if self.size < 1:
            raise InvalidParameter("size must be 1 or more bytes", hint="an empty file holds no tomogram")
        if self.size > MOST_BYTES:
            raise InvalidParameter(f"no file has {self.size:.3g} bytes", hint="give its size in bytes")
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")):
            raise InvalidParameter("sha256 must be 64 lower-case hexadecimal digits")
        if self.fingerprint is not None and not (1 <= len(self.fingerprint) <= 256 and self.fingerprint.isprintable()):
            raise InvalidParameter("a fingerprint has 1 to 256 printable characters")


@frozen(kw_only=True)
class UploadStatus:
    """How far an upload is: the answer to its start and to every question about it.

    Attributes
    ----------
    upload_id
        Names the upload.
    filename, size
        As they were announced.
    part_size
        Bytes of every part but the last.
    part_count
        How many parts there are.
    received
        Numbers, from 0, of the parts that are durable, ascending.
    digests
        Part number (as text) → hex SHA-256 of each part received.
    file_id, sha256
        The file, once it is complete.
    expires_at
        When the upload is dropped unless another part comes (UTC); None for a complete one.
    """

    upload_id: str
    filename: str
    size: int
    part_size: int
    part_count: int
    received: tuple[int, ...] = ()
    digests: dict[str, str] = field(factory=dict)
    file_id: str | None = None
    sha256: str | None = None
    expires_at: datetime | None = None


@frozen(kw_only=True)
class PartReceipt:
    """A part that is durable; `sha256` is its hex digest."""

    upload_id: str
    index: int
    size: int
    sha256: str


@frozen(kw_only=True)
class UploadedFile:
    """A complete file: `file_id` names it as the source of jobs."""

    file_id: str
    filename: str
    size: int
    sha256: str
    created_at: datetime


def check_filename(name: str) -> None:
    """Raise `InvalidParameter` unless `name` is a plain file name: no folder, nothing that does not show."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InvalidParameter(f"{name!r} is not a file name", hint="give the name alone, without a folder")
    if any(character in _TURNING or unicodedata.category(character) in _HIDDEN for character in name):
        raise InvalidParameter(f"the file name {name!a} has control characters", hint="rename the file")
    if len(name.encode()) > MAX_FILENAME:
        raise InvalidParameter(f"the file name is longer than {MAX_FILENAME} bytes", hint="give a shorter one")


#: Unicode categories: controls, halves of surrogate pairs, separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


def format_digest(sha256: str) -> str:
    """The value of ``Content-Digest`` and ``Repr-Digest`` for a SHA-256 in hexadecimal."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def parse_digest(header: str) -> str:
    """The SHA-256, in hexadecimal, that ``Content-Digest`` or ``Repr-Digest`` has, perhaps among others.

    Raises
    ------
    BadRequest
        If the header cannot be read, or has none.
    """
    found: list[str] = []
    for entry in header.split(","):
        match = _DIGEST.fullmatch(entry.strip())
        if match is None:
            raise BadRequest(f"{ascii(entry.strip())[:80]} is not a digest", hint=_DIGEST_HINT)
        if match[1] == "sha-256":
            try:
                found.append(base64.b64decode(match[2], validate=True).hex())
            except binascii.Error as error:
                raise BadRequest(f"the digest is not base64: {error}", hint=_DIGEST_HINT) from error
    if len(found) != 1 or len(found[0]) != 64:
        raise BadRequest("there is not one whole SHA-256 among the digests", hint=_DIGEST_HINT)
    return found[0]


_DIGEST_HINT = "it looks like this: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"

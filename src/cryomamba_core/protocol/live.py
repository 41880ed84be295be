"""A job's events as messages: the same in WebSocket frames and in Server-Sent Events.

As JSON a message is one object with ``seq``, ``type``, ``at`` and what belongs to the type; a preview's
labels are base64. In a binary frame it is::

    4 bytes     length of the header, unsigned, little-endian
    header      the same JSON object without ``payload``
    the rest    the preview's labels, compressed as ``encoding`` says; empty for other types
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any

from cryomamba_core.errors import BrokenProtocol, InvalidParameter
from cryomamba_core.events import JobEvent, PreviewReady
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.previews import Preview
from cryomamba_core.wire import from_plain, to_plain

#: WebSocket sub-protocols: JSON text frames, which are the default, and binary frames.
JSON_PROTOCOL = "cryomamba.v1.json"
BINARY_PROTOCOL = "cryomamba.v1.binary"

#: How a preview's labels are packed: zlib over the little-endian ZYX array.
ENCODING = "zlib"

_LENGTH = struct.Struct("<I")


def event_to_json(event: JobEvent) -> str:
    """A message as text."""
    plain, payload = _plain(event)
    if payload is not None:
        plain["payload"] = b64encode(payload).decode()
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def event_to_frame(event: JobEvent) -> bytes:
    """A message as a binary frame."""
    plain, payload = _plain(event)
    header = json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    return b"".join((_LENGTH.pack(len(header)), header, payload or b""))


def event_of(message: str | bytes) -> JobEvent:
    """The event in a message of either kind.

    Raises
    ------
    BrokenProtocol
        If it is no such message.
    """
    try:
        plain, payload = (json.loads(message), None) if isinstance(message, str) else _split(message)
        if plain.get("type") == PreviewReady.type:
            plain = _nested(plain, b64decode(plain["payload"], validate=True) if payload is None else payload)
        event: JobEvent = from_plain(plain, JobEvent)  # type: ignore[arg-type]  # a union is no type[T]
    except (InvalidParameter, Base64Error, struct.error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenProtocol(f"the server sent a message that cannot be read: {error}") from error
    return event


def _plain(event: JobEvent) -> tuple[dict[str, Any], bytes | None]:
    if isinstance(event, PreviewReady):
        return _flat(event)
    plain: dict[str, Any] = to_plain(event, JobEvent)
    return plain, None


def _flat(event: PreviewReady) -> tuple[dict[str, Any], bytes]:
    preview = event.preview
    assert preview is not None, "a preview that is gone is not sent"
    grid = to_plain(preview.grid)
    plain = {
        "seq": event.seq,
        "type": event.type,
        "at": to_plain(event.at),
        "sequence": preview.sequence,
        "factor": preview.factor,
        **grid,
        "dtype": preview.dtype,
        "provisional": preview.provisional,
        "covered": to_plain(preview.covered),
        "encoding": ENCODING,
    }
    return plain, preview.payload


def _nested(plain: dict[str, Any], payload: bytes) -> dict[str, Any]:
    plain = dict(plain)
    plain.pop("payload", None)
    if plain.pop("encoding") != ENCODING:
        raise ValueError("the encoding of a preview is unknown")
    event = {key: plain.pop(key) for key in ("seq", "type", "at")}
    grid = {key: plain.pop(key) for key in to_plain(_GRID) if key in plain}
    preview = Preview(
        grid=from_plain(grid, VoxelGrid),
        covered=from_plain(plain.pop("covered"), Region),
        payload=payload,
        **plain,
    )
    return {**event, "preview": to_plain(preview)}


def _split(frame: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = _LENGTH.unpack_from(frame)
    start = _LENGTH.size + length
    if start > len(frame):
        raise ValueError("the header is cut short")
    plain: dict[str, Any] = json.loads(frame[_LENGTH.size : start])
    return plain, bytes(frame[start:])


_GRID = VoxelGrid(shape=(1, 1, 1), voxel_size=(1.0, 1.0, 1.0))

"""A job's events as messages: the same in WebSocket frames and in Server-Sent Events.

As JSON a message is one object with ``seq``, ``type``, ``at`` and what belongs to the type; a preview's
labels and companions are base64. In a binary frame it is::

    4 bytes     length of the header, unsigned, little-endian
    header      the same JSON object without ``payload``
    the rest    the preview's labels, compressed as ``encoding`` says, and behind them its companions, each of
                the ``size`` that its entry in the header has; empty for other types
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from itertools import pairwise
from typing import Any

from attrs import evolve, fields

from cryomamba_core.errors import BrokenProtocol, InvalidParameter
from cryomamba_core.events import JobEvent, PreviewReady
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.wire import from_plain, to_plain

#: WebSocket sub-protocols: JSON text frames, which are the default, and binary frames.
JSON_PROTOCOL = "cryomamba.v1.json"
BINARY_PROTOCOL = "cryomamba.v1.binary"

#: How a preview's labels are packed: zlib over the little-endian ZYX array.
ENCODING = "zlib"

_LENGTH = struct.Struct("<I")


def event_to_json(event: JobEvent) -> str:
    """A message as text."""
    plain, payloads = _plain(event)
    for entry, payload in zip(_packed(plain), payloads, strict=False):
        entry["payload"] = b64encode(payload).decode()
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def event_to_frame(event: JobEvent) -> bytes:
    """A message as a binary frame."""
    plain, payloads = _plain(event)
    for entry, payload in zip(plain.get("companions", ()), payloads[1:], strict=True):
        entry["size"] = len(payload)
    header = json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    return b"".join((_LENGTH.pack(len(header)), header, *payloads))


def event_of(message: str | bytes) -> JobEvent:
    """The event in a message of either kind.

    Raises
    ------
    BrokenProtocol
        If it is no such message.
    """
    try:
        plain, rest = (json.loads(message), None) if isinstance(message, str) else _split(message)
        if plain.get("type") == PreviewReady.type:
            return _preview_event(plain, _decoded(plain) if rest is None else _cut(plain, rest))
        event: JobEvent = from_plain(plain, JobEvent)  # type: ignore[arg-type]  # a union is no type[T]
    except (InvalidParameter, Base64Error, struct.error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenProtocol(f"the server sent a message that cannot be read: {error}") from error
    return event


def _plain(event: JobEvent) -> tuple[dict[str, Any], list[bytes]]:
    """A message, and the payloads of its parts that `_packed` names."""
    if isinstance(event, PreviewReady):
        return _flat(event)
    plain: dict[str, Any] = to_plain(event, JobEvent)
    return plain, []


def _packed(plain: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a preview that have a payload: itself, and each companion."""
    return [plain, *plain.get("companions", ())]


def _decoded(plain: dict[str, Any]) -> list[bytes]:
    return [b64decode(entry.pop("payload"), validate=True) for entry in _packed(plain)]


def _cut(plain: dict[str, Any], rest: bytes) -> list[bytes]:
    """What follows the header, cut to the payloads of a preview."""
    sizes = [entry.pop("size") for entry in plain.get("companions", ())]
    bounds = [len(rest)]
    for size in reversed(sizes):
        bounds.append(bounds[-1] - size)
    bounds.append(0)
    bounds.reverse()
    if bounds != sorted(bounds):
        raise ValueError("the sizes of companions do not fit the frame")
    return [rest[start:stop] for start, stop in pairwise(bounds)]


def _flat(event: PreviewReady) -> tuple[dict[str, Any], list[bytes]]:
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
        "companions": [
            {"name": each.name, "label": each.label, "factor": each.factor, "grid": to_plain(each.grid)}
            for each in preview.companions
        ],
    }
    return plain, [preview.payload, *(each.payload for each in preview.companions)]


def _preview_event(plain: dict[str, Any], payloads: list[bytes]) -> PreviewReady:
    """What a message says, and its payloads: they need not go through the converter, which wants them as text."""
    plain = dict(plain)
    if plain.pop("encoding") != ENCODING:
        raise ValueError("the encoding of a preview is unknown")
    del plain["type"]
    event = {key: plain.pop(key) for key in ("seq", "at")}
    plain["grid"] = {key: plain.pop(key) for key in _GRID_KEYS if key in plain}
    plain["companions"] = [{**each, "payload": ""} for each in plain.get("companions", ())]
    ready = from_plain({**event, "preview": {**plain, "payload": ""}}, PreviewReady)
    assert ready.preview is not None, "there is something in its place"
    companions = zip(ready.preview.companions, payloads[1:], strict=True)
    filled = tuple(evolve(each, payload=payload) for each, payload in companions)
    return evolve(ready, preview=evolve(ready.preview, payload=payloads[0], companions=filled))


def _split(frame: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = _LENGTH.unpack_from(frame)
    start = _LENGTH.size + length
    if start > len(frame):
        raise ValueError("the header is cut short")
    plain: dict[str, Any] = json.loads(frame[_LENGTH.size : start])
    return plain, bytes(frame[start:])


_GRID_KEYS = tuple(each.name for each in fields(VoxelGrid))

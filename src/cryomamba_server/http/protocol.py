"""HTTP/1.1 as hypercorn and h11 speak it, made strict: one reading of every request, or none.

Touches private parts of h11 0.16 (``Connection._receive_buffer``), pinned to that series, and of hypercorn 0.18
(`H11Protocol`, `HTTPStream` and `WSStream`), pinned exactly.
"""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import replace
from typing import Any, Self, cast
from urllib.parse import urlsplit

import h11
from h11._receivebuffer import ReceiveBuffer
from hypercorn.events import RawData
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import Connection as WebSocket

from cryomamba_core.errors import BadRequest, CryoMambaError, RequestTooLarge
from cryomamba_server.http.errors import envelope
from cryomamba_server.http.outlet import FilePiece

log = logging.getLogger(__name__)

#: Bytes of a request's line and headers, and how many headers it may have.
MAX_HEADERS, MAX_HEADER_LINES = 16 << 10, 100

_LINE_FEED_ALONE = re.compile(rb"(?<!\r)\n")
_FOLDED_LINE = re.compile(rb"\r\n[ \t]")
_END = b"\r\n\r\n"


class StrictBuffer(ReceiveBuffer):
    """Bytes that a client sent; refuses what another program on the way might read in another way.

    What comes while nothing waits is handed on as it came: h11's own buffer copies a body three times.
    """

    def __init__(self) -> None:
        super().__init__()
        self._whole = b""

    def __iadd__(self, data: bytes | bytearray) -> Self:
        if self._whole or self._data or not isinstance(data, bytes):
            self._merge()
            self._data += data
        else:
            self._whole = data
        return self

    def __len__(self) -> int:
        return len(self._whole) + len(self._data)

    def __bytes__(self) -> bytes:
        self._merge()
        return bytes(self._data)

    def maybe_extract_at_most(self, count: int) -> bytearray | None:
        """A piece of a body."""
        if 0 < len(self._whole) <= count:
            whole, self._whole = self._whole, b""
            return cast("bytearray", whole)
        self._merge()
        return self._extract(count) if self._data else None

    def is_next_line_obviously_invalid_request_line(self) -> bool:
        """Whether no request begins so."""
        self._merge()
        return bool(super().is_next_line_obviously_invalid_request_line())

    def _merge(self) -> None:
        """Put everything where h11 looks for lines."""
        if self._whole:
            self._data += self._whole
            self._whole = b""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head, or of a trailer, once it is whole."""
        self._merge()
        seen = max(0, self._multiple_lines_search - len(_END))
        end = self._data.find(_END, seen)
        if end > MAX_HEADERS:
            raise h11.LocalProtocolError("the head is too large", error_status_hint=431)
        if _LINE_FEED_ALONE.search(self._data, seen, end if end >= 0 else len(self._data)):
            raise h11.LocalProtocolError("a line ends in a line feed alone")
        if _FOLDED_LINE.search(self._data, seen, end if end >= 0 else len(self._data)):
            raise h11.LocalProtocolError("a header goes on in a second line")
        lines = super().maybe_extract_lines()
        if lines:
            _check_head([bytes(line) for line in lines])
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        """The line before a chunk."""
        self._merge()
        line = super().maybe_extract_next_line()
        if len(line if line is not None else self._data) > MAX_HEADERS:
            raise h11.LocalProtocolError("the line is too long")
        return line


def _check_head(lines: list[bytes]) -> None:
    if len(lines) > MAX_HEADER_LINES:
        raise h11.LocalProtocolError("there are too many headers", error_status_hint=431)
    method, _, rest = lines[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    if version.startswith(b"HTTP/") and b":" not in method:
        if version not in (b"HTTP/1.0", b"HTTP/1.1"):
            raise h11.LocalProtocolError("this version of HTTP is not spoken here", error_status_hint=505)
        if not _is_address(target):
            raise h11.LocalProtocolError("the address is no path")
    names = [line.partition(b":")[0].strip().lower() for line in lines[1:]]
    lengths = [value for name, value in zip(names, lines[1:], strict=True) if name == b"content-length"]
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise h11.LocalProtocolError("the length is given more than once")
    if b"transfer-encoding" in names and (lengths or version == b"HTTP/1.0"):
        raise h11.LocalProtocolError("the body has both a length and an encoding")


def _is_address(target: bytes) -> bool:
    """Whether a request asks for a path, for a whole address that can be taken apart, or for the server itself."""
    if target.startswith((b"http://", b"https://")):
        try:
            urlsplit(target.decode("latin-1"))
        except ValueError:
            return False
        return True
    return target.startswith(b"/") or target == b"*"


def refusal_of(status: int) -> CryoMambaError:
    """What is wrong with a request that never reached the application."""
    if status == 431:
        return RequestTooLarge(
            f"the headers are larger than {MAX_HEADERS} bytes, or more than {MAX_HEADER_LINES}",
            hint="leave out cookies and headers that are not needed",
        )
    if status >= 500:
        hints = {501: "send the body as it is, or chunked", 505: "use HTTP/1.1"}
        return BadRequest("the request asks for something that this server cannot do", hint=hints.get(status, ""))
    return BadRequest("this is no request that can be read in one way only", hint="send well-formed HTTP/1.1")


def _refusal(status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an answer that no application gives."""
    body = envelope(refusal_of(status))
    request_id = uuid.uuid4().hex
    log.info("refused", extra={"status": status, "request_id": request_id})
    return [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ], body


class _Refusing:
    """Streams whose own answers have a body that says what is wrong."""

    config: Any
    scope: Any
    send: Any
    state: Any
    stream_id: int

    async def _send_error_response(self, status_code: int) -> None:
        headers, body = _refusal(status_code)
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status_code))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))


class Exchange(_Refusing, HTTPStream):
    """A request and its answer; pieces of files may stand for bytes of its body."""

    async def app_send(self, message: Any) -> None:
        """Do what the application says."""
        piece = message and message.get("body")
        if isinstance(piece, FilePiece) and self.state is ASGIHTTPState.RESPONSE:
            await self.send(Body(stream_id=self.stream_id, data=cast("bytes", piece)))
        else:
            await super().app_send(message)

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        self.state = ASGIHTTPState.CLOSED


class Conversation(_Refusing, WSStream):
    """A request for a WebSocket, until others take it over; nothing is compressed: that takes 300 KB a listener."""

    _left = False

    async def handle(self, event: Any) -> None:
        """Take what the client sent."""
        if isinstance(event, Request):
            headers = [each for each in event.headers if each[0].lower() != b"sec-websocket-extensions"]
            event = replace(event, headers=headers)
        await super().handle(event)

    def leave(self) -> WebSocket:
        """Leave the open WebSocket to others: what the application still says is not heard."""
        self._left = True
        return self.connection

    @property
    def accepted(self) -> bool:
        """Whether both sides speak WebSocket."""
        return self.state is ASGIWebsocketState.CONNECTED

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        self.state = ASGIWebsocketState.HTTPCLOSED
        await self.send(StreamClosed(stream_id=self.stream_id))  # it would stay open, and nobody would look at it

    async def app_send(self, message: Any) -> None:
        """Do what the application says; whoever it refuses is not read from again."""
        if self._left:
            return  # its call has ended
        if message is not None and message["type"] == "websocket.http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await super().app_send(message)


class Protocol(H11Protocol):
    """Requests on one connection, one after another; neither HTTP/2 nor an upgrade to it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        cast("h11.Connection", self.connection)._receive_buffer = StrictBuffer()

    @property
    def body_is_coming(self) -> bool:
        """Whether the client has not yet sent all of its request."""
        connection = getattr(self.connection, "h11_connection", self.connection)
        return connection is not None and bool(connection.their_state is h11.SEND_BODY)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Upgrade to nothing."""

    async def _create_stream(self, request: h11.Request) -> None:
        upgrades = _wants_websocket(request)
        kind = Conversation if upgrades else Exchange
        self.stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        if upgrades:
            self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def _send_h11_event(self, event: Any) -> None:
        if isinstance(event, h11.Data) and isinstance(event.data, FilePiece):
            connection = cast("h11.Connection", self.connection)
            for part in connection.send_with_data_passthrough(event) or ():
                await self.send(RawData(data=part))
        else:
            await super()._send_h11_event(event)

    async def _send_error_response(self, status_code: int) -> None:
        headers, body = _refusal(status_code)
        await self._send_h11_event(
            h11.Response(status_code=status_code, headers=[*headers, *self.config.response_headers("h11")])
        )
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _wants_websocket(request: h11.Request) -> bool:
    values: dict[bytes, bytes] = {name.lower(): value.lower() for name, value in request.headers}
    tokens = [token.strip() for token in values.get(b"connection", b"").split(b",")]
    return request.method == b"GET" and b"upgrade" in tokens and values.get(b"upgrade", b"").strip() == b"websocket"

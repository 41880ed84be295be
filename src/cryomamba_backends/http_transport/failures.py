"""What it means when a request fails, or is refused."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import trio

from cryomamba_backends.http_transport.pinning import no_tls, untrusted
from cryomamba_core.errors import (
    BrokenProtocol,
    CryoMambaError,
    ErrorInfo,
    RateLimited,
    ServerError,
    ServerUnreachable,
    Unauthenticated,
    error_of,
)
from cryomamba_core.protocol.addresses import ServerAddress

#: Seconds; a server that asks for more is not waited for.
_LONGEST = 3600.0


def line_failed(error: Exception, address: ServerAddress, *, heard: bool) -> ServerError:
    """What a failure of the line means; `heard` is whether the server has ever answered."""
    failure = _failure(error, address, heard=heard)
    if isinstance(failure, ServerUnreachable) and not heard and not address.secure and _was_connected(error):
        failure.hint = f"does the address begin with https:? {_CHECK}"
    return failure


def _failure(error: Exception, address: ServerAddress, *, heard: bool) -> ServerError:
    where = address.authority
    distrust = untrusted(error, address)
    if distrust is not None:
        return distrust
    if no_tls(error):
        return BrokenProtocol(
            f"what listens at {where} does not speak TLS as it should",
            hint="does the address begin with http: instead?",
        )
    if isinstance(error, httpx.ConnectTimeout | trio.TooSlowError):
        return ServerUnreachable(f"{where} does not answer", hint=_CHECK)
    if isinstance(error, httpx.ConnectError | OSError):
        return ServerUnreachable(f"{where} cannot be reached: {_reason(error)}", hint=_CHECK)
    if isinstance(error, httpx.TimeoutException):
        return ServerUnreachable(f"nothing came from {where} for too long", hint="try again; what was sent is not lost")
    if isinstance(error, httpx.RemoteProtocolError) and not heard and not str(error).startswith(_CLOSED):
        hint = "does the address begin with https: instead?" if not address.secure else _CHECK
        return BrokenProtocol(f"what listens at {where} does not speak HTTP", hint=hint)
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | trio.BrokenResourceError):
        return ServerUnreachable(f"the line to {where} was cut", hint="try again; what was sent is not lost")
    if isinstance(error, httpx.ProxyError):
        return ServerUnreachable(
            f"the proxy on the way to {where} refuses: {_reason(error)}",
            hint="add the host to NO_PROXY if it needs no proxy",
        )
    return BrokenProtocol(f"the talk with {where} failed: {_reason(error)}")


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, address: ServerAddress
) -> tuple[CryoMambaError, float]:
    """The error that an answer tells of, and the seconds after which the server wants to be asked again."""
    delay = _retry_after(headers.get("retry-after", ""))
    info = envelope_of(body)
    if info is None:
        return _foreign(status, headers, address), delay
    error = error_of(info)
    if isinstance(error, RateLimited):
        error.retry_after = delay
    if isinstance(error, Unauthenticated) and not error.hint:
        error.hint = f"log in with: cryomamba login {address.url}"
    return error, delay


def envelope_of(body: bytes) -> ErrorInfo | None:
    """The error in an answer of ours, or None."""
    try:
        plain = json.loads(body)["error"]
        return ErrorInfo(
            code=str(plain["code"]),
            message=str(plain["message"]),
            hint=str(plain["hint"]),
            retryable=bool(plain["retryable"]),
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _foreign(status: int, headers: Mapping[str, str], address: ServerAddress) -> ServerError:
    """An answer that no CryoMamba server gives: of a proxy, or of something else."""
    if status >= 500 or status in (408, 429):
        return ServerUnreachable(
            f"what stands before the server at {address.authority} answers {status}",
            hint="the server may be starting; try again, or ask whoever runs it",
        )
    if 300 <= status < 400:
        target = headers.get("location", "elsewhere")
        return BrokenProtocol(
            f"{address.url} sends on to {target}", hint="give the address of the server itself, with its whole path"
        )
    return BrokenProtocol(
        f"what answers at {address.url} is no CryoMamba server (status {status})",
        hint="is this the address that cryomamba serve printed, with its whole path?",
    )


def _retry_after(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return 0.0
    return min(max(0.0, seconds), _LONGEST) if seconds == seconds else 0.0


def _was_connected(error: Exception) -> bool:
    """Whether somebody listens there, who may want to be talked to otherwise."""
    return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError | trio.TooSlowError)


def _reason(error: BaseException) -> str:
    """The operating system's words, where they are known."""
    cause = _deepest(error)
    if isinstance(cause, OSError) and cause.strerror:
        known = cause.errno in errno.errorcode and not isinstance(cause, socket.gaierror)
        words = os.strerror(cause.errno or 0) if known else cause.strerror  # a library's own words hold its tuples
        return words.lower()
    text = " ".join(str(cause).split()) or " ".join(str(error).split())
    return text[:1].lower() + text[1:] if text else type(cause).__name__


def _deepest(error: BaseException) -> BaseException:
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
            continue
        cause = error.__cause__ or error.__context__
        if cause is None:
            return error
        error = cause


#: What httpx says of a line that ended without a word.
_CLOSED = "Server disconnected"

_CHECK = "check the address, and that the server runs: cryomamba serve writes its address to server.json"

"""Errors between a client and a server; the tree stands in `cryomamba_core.errors`."""

from __future__ import annotations

from cryomamba_core.errors.local import CryoMambaError


class UploadError(CryoMambaError):
    """A file could not be sent."""

    code = "upload/error"
    exit_code = 9


class UnknownUpload(UploadError, LookupError):
    """No upload has this id; it may have expired."""

    code = "upload/unknown"


class PartRefused(UploadError):
    """A part has a wrong number, length or digest, or none at all."""

    code = "upload/part"


class UploadConflict(UploadError):
    """The upload, or one of its parts, has other content already, or is complete."""

    code = "upload/conflict"


class UploadIncomplete(UploadError):
    """Parts are missing."""

    code = "upload/incomplete"


class AccessError(CryoMambaError):
    """The caller is not known, or may not do this."""

    code = "access/error"
    exit_code = 10


class Unauthenticated(AccessError):
    """The token or signature is missing, expired, revoked or not ours."""

    code = "access/unauthenticated"


class Forbidden(AccessError, PermissionError):
    """The token does not have the scope that this needs, or the path lies outside the allowed folders."""

    code = "access/forbidden"


class RateLimited(AccessError):
    """Too many requests in a short time.

    Parameters
    ----------
    message, hint
        As for every error.
    retry_after
        Seconds after which it is worth trying again.
    """

    code = "access/rate-limited"
    retryable = True

    def __init__(self, message: str, *, hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class UnknownToken(AccessError, LookupError):
    """No token has this id."""

    code = "access/unknown-token"


class ServerError(CryoMambaError):
    """A server and its client did not understand each other, or not reach each other."""

    code = "server/error"
    exit_code = 11


class ServerUnreachable(ServerError, ConnectionError):
    """Nothing answers at the address, or the line was cut and stays so."""

    code = "server/unreachable"
    retryable = True


class ServerUntrusted(ServerError):
    """The server's certificate is not the one that was pinned, or nobody vouches for it.

    Parameters
    ----------
    message, hint
        As for every error.
    fingerprint
        SHA-256 (hexadecimal) of the certificate that was shown; None where there was none, or it was not
        to be had.
    """

    code = "server/untrusted"

    def __init__(self, message: str, *, hint: str = "", fingerprint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.fingerprint = fingerprint


class ServerStopping(ServerError):
    """The server is about to stop and takes no new work."""

    code = "server/stopping"
    retryable = True


class ServerNotReady(ServerError):
    """The server runs, but cannot take work: its job store, its disk or its devices are missing."""

    code = "server/not-ready"
    retryable = True


class ServerUnusable(ServerError):
    """A server cannot start as it was asked to."""

    code = "server/unusable"


class BrokenProtocol(ServerError):
    """An answer is not what the protocol says; perhaps something else listens there."""

    code = "server/broken-protocol"


class BadRequest(ServerError):
    """A request cannot be read."""

    code = "request/malformed"


class LengthRequired(BadRequest):
    """The length of a body is not said before it is sent."""

    code = "request/length-required"


class UnknownAddress(ServerError, LookupError):
    """The server has nothing at this address."""

    code = "request/unknown-address"


class MethodNotAllowed(ServerError):
    """The address does not take this method."""

    code = "request/method"


class RangeNotSatisfiable(ServerError):
    """The bytes that were asked for lie behind the end.

    Parameters
    ----------
    message, hint
        As for every error.
    size
        How many bytes there are; None where that is not known.
    """

    code = "request/range"

    def __init__(self, message: str, *, hint: str = "", size: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.size = size


class RequestTooLarge(ServerError):
    """The body or a header is larger than the server takes."""

    code = "request/too-large"


class RequestTooSlow(ServerError):
    """The body of a request came so slowly that the server stopped waiting."""

    code = "request/too-slow"
    retryable = True

"""Errors as answers: one envelope, and the status that fits."""

from __future__ import annotations

import json
import math

from quart import Response

from cryomamba_core import errors
from cryomamba_core.errors import CryoMambaError, ErrorInfo, RangeNotSatisfiable, RateLimited
from cryomamba_core.wire import to_plain

#: Seconds after which a client may try again what failed for want of space, or while the server stops.
TRY_AGAIN_SECONDS = 5

#: The nearest of an error's classes that stands here gives the status.
STATUSES: dict[type[CryoMambaError], int] = {
    errors.CryoMambaError: 500,
    errors.InputError: 422,
    errors.ModelError: 422,
    errors.UnknownModel: 404,
    errors.PluginError: 422,
    errors.PluginFault: 500,
    errors.StorageError: 500,
    errors.StorageFull: 507,
    errors.QuotaExceeded: 507,
    errors.UnknownObject: 404,
    errors.JobError: 422,
    errors.UnknownJob: 404,
    errors.IllegalTransition: 409,
    errors.SubmissionInFlight: 409,
    errors.TooManyJobs: 429,
    errors.UploadError: 422,
    errors.UnknownUpload: 404,
    errors.UploadConflict: 409,
    errors.UploadIncomplete: 409,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.RateLimited: 429,
    errors.UnknownToken: 404,
    errors.ServerStopping: 503,
    errors.ServerNotReady: 503,
    errors.BadRequest: 400,
    errors.LengthRequired: 411,
    errors.UnknownAddress: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTooLarge: 413,
    errors.RequestTooSlow: 408,
    errors.RangeNotSatisfiable: 416,
}


def status_of(kind: type[BaseException]) -> int:
    """The HTTP status for an error's class."""
    return next((STATUSES[each] for each in kind.__mro__ if each in STATUSES), 500)


def envelope(error: BaseException) -> bytes:
    """The body of every answer that is no good one."""
    info = ErrorInfo.of(error)
    if not isinstance(error, CryoMambaError) and info.code == "internal/fault":
        info = ErrorInfo(code=info.code, message="the server met an error that it does not know", hint=LOG_HINT)
    return json.dumps({"error": to_plain(info)}, ensure_ascii=False).encode()


#: What is said of errors whose own words might tell a stranger too much.
LOG_HINT = "the server's log says more: name the X-Request-ID to whoever runs it"


def error_answer(error: BaseException) -> Response:
    """The answer that tells of an error."""
    answer = Response(envelope(error), status_of(type(error)), content_type="application/json")
    if isinstance(error, RateLimited):
        answer.headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif isinstance(error, CryoMambaError) and error.retryable:
        answer.headers["Retry-After"] = str(TRY_AGAIN_SECONDS)
    if isinstance(error, RangeNotSatisfiable):
        answer.headers["Content-Range"] = f"bytes */{error.size}"
    if answer.status_code == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="cryomamba"'
    return answer

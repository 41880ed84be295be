"""Routes: uploads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from cryomamba_core.errors import (
    BadRequest,
    InputError,
    LengthRequired,
    PartRefused,
    QuotaExceeded,
    StorageFull,
    UnknownUpload,
    UploadConflict,
    UploadIncomplete,
)
from cryomamba_core.protocol.uploads import PartReceipt, UploadedFile, UploadRequest, UploadStatus, parse_digest
from cryomamba_server.http.routing import Answer, Call, RouteTable, Scope, Weight

ROUTES = RouteTable()

CONTENT_DIGEST = "Content-Digest"
REPR_DIGEST = "Repr-Digest"


@ROUTES.add(
    "POST",
    "/v1/uploads/init",
    access=Scope.UPLOADS_WRITE,
    takes=UploadRequest,
    gives=UploadStatus,
    status=201,
    also={200: "You have sent this content before: it is the file `file_id`."},
    errors=(InputError, QuotaExceeded, StorageFull),
)
async def begin_upload(call: Call, body: UploadRequest) -> Answer:
    """Begin to send a file, or go on.

    An upload of yours with the same fingerprint, size and name is continued: `received` says which
    parts need not be sent again. Content that you have sent before, by its `sha256`, is not sent
    again at all. What others have sent makes no difference.
    """
    status = await call.services.engine.uploads.begin(body, owner=call.owner)
    return Answer(value=status, status=201 if status.file_id is None else 200)


@ROUTES.add(
    "GET",
    "/v1/uploads/<string:upload_id>",
    access=Scope.UPLOADS_WRITE,
    gives=UploadStatus,
    errors=(UnknownUpload,),
)
async def show_upload(call: Call, upload_id: str) -> UploadStatus:
    """Say how far an upload is."""
    return await call.services.engine.uploads.status(upload_id, owner=call.owner)


@ROUTES.add(
    "PUT",
    "/v1/uploads/<string:upload_id>/part/<int:idx>",
    access=Scope.UPLOADS_WRITE,
    takes=bytes,
    gives=PartReceipt,
    errors=(
        BadRequest,
        LengthRequired,
        UnknownUpload,
        PartRefused,
        UploadConflict,
        InputError,
        StorageFull,
    ),
    headers={CONTENT_DIGEST: "SHA-256 of the part as in RFC 9530, e.g. `sha-256=:BASE64:`."},
    weight=Weight.DATA,
)
async def put_part(call: Call, upload_id: str, idx: int) -> PartReceipt:
    """Send a part of a file; parts may come in any order and several at a time.

    Parts are numbered from 0. Each has `part_size` bytes, the last one what is left. A good answer
    means that the part is on the disk. The same part may be sent again, other bytes in its place
    may not. The first part is looked at by the readers of tomograms: a file that is of no use is
    refused then.
    """
    request: Any = call.request
    body = aiter(request.body)
    try:
        length, digest = _announced_length(call), _announced_digest(call, CONTENT_DIGEST)
        receipt = await call.services.engine.uploads.receive(
            upload_id, idx, owner=call.owner, length=length, sha256=digest, body=body
        )
    except (BadRequest, InputError, PartRefused, StorageFull, UnknownUpload, UploadConflict):
        await _drain(body, call)
        raise
    call.services.metrics.part_received(length)
    return receipt


@ROUTES.add(
    "POST",
    "/v1/uploads/<string:upload_id>/complete",
    access=Scope.UPLOADS_WRITE,
    gives=UploadedFile,
    errors=(BadRequest, UnknownUpload, UploadIncomplete, UploadConflict, StorageFull),
    headers={REPR_DIGEST: "SHA-256 of the whole file as in RFC 9530; may be left out."},
)
async def complete_upload(call: Call, upload_id: str) -> UploadedFile:
    """Make a file of an upload whose parts are all there.

    The whole content is checked first. Asked again, the answer is the same.
    """
    digest = _announced_digest(call, REPR_DIGEST) if REPR_DIGEST in call.request.headers else None
    file = await call.services.engine.uploads.complete(upload_id, owner=call.owner, sha256=digest)
    call.services.metrics.upload_completed()
    return file


@ROUTES.add(
    "DELETE",
    "/v1/uploads/<string:upload_id>",
    access=Scope.UPLOADS_WRITE,
    status=204,
    errors=(UnknownUpload, UploadConflict),
)
async def abort_upload(call: Call, upload_id: str) -> None:
    """Drop an upload that is not complete, and what came of it."""
    await call.services.engine.uploads.abort(upload_id, owner=call.owner)


def _announced_length(call: Call) -> int:
    value = call.request.headers.get("Content-Length", "")
    if not (value.isascii() and value.isdigit()):
        raise LengthRequired(
            "the part comes without Content-Length", hint="send it with its length, not in chunks of unknown number"
        )
    return int(value)


def _announced_digest(call: Call, header: str) -> str:
    values = call.request.headers.getlist(header)
    if not values:
        raise BadRequest(f"the header {header} is missing", hint=f"send {header}: sha-256=:BASE64:")
    return parse_digest(", ".join(values))


async def _drain(body: AsyncIterator[bytes], call: Call) -> None:
    """Take what is left of a part that is refused: a sender that finds nobody listening misses the answer."""
    length = call.request.content_length
    if length is not None and length <= call.services.serving.part_size:
        async for _ in body:
            pass

"""Routes: artifacts."""

from __future__ import annotations

import base64
from typing import Any, cast
from urllib.parse import quote

from quart import Response
from quart.wrappers.response import ResponseBody

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import RangeNotSatisfiable, UnknownJob, UnknownObject
from cryomamba_server.http.access.gate import UNTIL_SENT
from cryomamba_server.http.outlet import SENDS_FILES
from cryomamba_server.http.ranges import matches, wanted_range
from cryomamba_server.http.routing import Call, Guard, RouteTable, Weight
from cryomamba_server.http.streaming import stored_body

ROUTES = RouteTable()


@ROUTES.add(
    "GET",
    "/v1/files/<string:job_id>/<string:artifact>",
    access=Guard.SIGNATURE,
    gives=bytes,
    also={206: "The range that was asked for.", 304: "The client has it already."},
    errors=(UnknownJob, UnknownObject, RangeNotSatisfiable),
    headers={
        "Range": "One range, e.g. `bytes=1000-` to go on where a download was cut; several are answered by the whole.",
        "If-Range": "The ETag that the first bytes had: if it is another now, the whole is sent.",
        "If-None-Match": "ETags that the client has.",
    },
    media_type="*/*",
    weight=Weight.DATA,
)
async def fetch_artifact(call: Call, job_id: str, artifact: str) -> Response:
    """Fetch an artifact.

    Its address, signed, stands in the job; or send a token. `Repr-Digest` is the digest of the whole.
    """
    engine, request = call.services.engine, call.request
    found, key = await engine.artifact(job_id, artifact, owner=call.owner)
    headers = _headers(found)
    if matches(request.headers.get("If-None-Match"), headers["ETag"]):
        return _answer(304, headers, found)
    wanted = None
    if request.method == "GET" and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
        wanted = wanted_range(request.headers.get("Range"), found.size)
    start, stop = (wanted.start, wanted.stop) if wanted else (0, found.size)
    headers["Content-Length"] = str(stop - start)
    if wanted:
        headers["Content-Range"] = wanted.content_range
    if request.method == "HEAD":
        return _answer(200, headers, found)
    scope = cast("dict[str, Any]", request.scope)
    body = await stored_body(
        engine.storage,
        key,
        start,
        stop,
        on_sent=call.services.metrics.sent_artifact,
        until_sent=scope[UNTIL_SENT],
        sends_files=scope.get(SENDS_FILES, False),
    )
    return _answer(206 if wanted else 200, headers, found, body)


def _answer(status: int, headers: dict[str, str], artifact: Artifact, body: ResponseBody | None = None) -> Response:
    answer = Response(b"" if body is None else body, status, content_type=artifact.media_type)
    answer.headers.update(headers)
    if status == 304:
        del answer.headers["Content-Type"], answer.headers["Content-Length"]
    return answer


def _headers(artifact: Artifact) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    return {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
        "Content-Disposition": disposition(artifact.name),
        "ETag": f'"sha256-{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "X-Content-Type-Options": "nosniff",
    }


def disposition(name: str) -> str:
    """``Content-Disposition`` of a file to be saved under `name`, for clients of any age (RFC 6266, RFC 8187)."""
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\%/' else "_" for letter in name
    )
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"

"""The status page, for people: what runs, what waits, what came of it, and the server itself."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qs

from quart import Response, redirect

from cryomamba_core.errors import (
    AccessError,
    BadRequest,
    Forbidden,
    RateLimited,
    RequestTooLarge,
    Unauthenticated,
    UnknownAddress,
    UnknownJob,
    UnknownObject,
)
from cryomamba_server.http.access.sessions import COOKIE
from cryomamba_server.http.errors import status_of
from cryomamba_server.http.pages.origins import require_own_origin
from cryomamba_server.http.pages.rendering import HEADERS, STATIC, page, static
from cryomamba_server.http.pages.status import draw_preview, read_status
from cryomamba_server.http.routing import Call, Guard, RouteTable, Scope, Weight

ROUTES = RouteTable()

HTML = "text/html; charset=utf-8"

#: Bytes of a form; a token has about 400.
MOST_BYTES = 16 << 10


@ROUTES.add("GET", "/", access=Guard.OPEN, gives=bytes, media_type=HTML, weight=Weight.PAGE)
async def show_page(call: Call) -> Response:
    """Show the status page, or a form to log in."""
    if call.caller is None or Scope.JOBS_READ not in call.caller.scopes:
        return page("login.html", message="", hint="")
    return page("page.html", status=await read_status(call.services, call.caller))


@ROUTES.add("GET", "/pages/status", access=Guard.COOKIE, gives=bytes, media_type=HTML, weight=Weight.PAGE)
async def show_status(call: Call) -> Response:
    """Give the part of the status page that changes."""
    assert call.caller is not None, "the guard knows who calls"
    return page("status.html", status=await read_status(call.services, call.caller))


@ROUTES.add(
    "POST",
    "/pages/login",
    access=Guard.OPEN,
    takes=bytes,
    gives=bytes,
    status=303,
    body_type="application/x-www-form-urlencoded",
    media_type=HTML,
    errors=(BadRequest, Forbidden, Unauthenticated, RateLimited, RequestTooLarge),
)
async def log_in(call: Call) -> Response:
    """Log in: the form has a field ``token``; the answer sets a cookie."""
    require_own_origin(call.request, call.services.serving.public_url)
    token = await _read_token(call)
    sessions = call.services.gate.sessions
    try:
        cookie = await sessions.open(token, peer=call.request.remote_addr)
    except AccessError as error:
        refusal = page("login.html", status_of(type(error)), message=error.message, hint=error.hint)
        if isinstance(error, RateLimited):
            refusal.headers["Retry-After"] = str(math.ceil(error.retry_after))
        return refusal
    answer = _to_page()
    sessions.give(answer, cookie)
    return answer


@ROUTES.add("POST", "/pages/logout", access=Guard.OPEN, gives=bytes, status=303, media_type=HTML, errors=(Forbidden,))
async def log_out(call: Call) -> Response:
    """Log out: the session ends, and the cookie goes."""
    require_own_origin(call.request, call.services.serving.public_url)
    sessions = call.services.gate.sessions
    sessions.close(call.request.cookies.get(COOKIE))
    answer = _to_page()
    sessions.take(answer)
    return answer


@ROUTES.add(
    "GET",
    "/pages/jobs/<string:job_id>/preview.png",
    access=Guard.COOKIE,
    gives=bytes,
    media_type="image/png",
    errors=(UnknownJob,),
    weight=Weight.PAGE,
)
async def show_preview(call: Call, job_id: str) -> Response:
    """Draw the middle section of a job's newest preview."""
    picture = await draw_preview(call.services, job_id, owner=call.owner)
    answer = Response(picture, content_type="image/png", headers=HEADERS)
    answer.headers["Cache-Control"] = "private, max-age=60"  # each preview has an address of its own
    return answer


@ROUTES.add(
    "GET",
    "/pages/jobs/<string:job_id>/files/<string:artifact>",
    access=Guard.COOKIE,
    gives=bytes,
    status=303,
    media_type=HTML,
    errors=(Forbidden, UnknownJob, UnknownObject),
    weight=Weight.PAGE,
)
async def go_to_artifact(call: Call, job_id: str, artifact: str) -> Response:
    """Lead to the signed address of an artifact."""
    if call.caller is None or Scope.ARTIFACTS_READ not in call.caller.scopes:
        raise Forbidden(f"the token does not have the scope {Scope.ARTIFACTS_READ}", hint="log in with another")
    found, _ = await call.services.engine.artifact(job_id, artifact, owner=call.owner)
    address, _ = call.services.gate.addresses.sign(job_id, found, call.owner)
    answer = redirect(address, 303)
    answer.headers.update(HEADERS)
    return answer  # type: ignore[return-value]  # Quart's own, not Werkzeug's


@ROUTES.add(
    "GET",
    "/pages/static/<string:name>",
    access=Guard.OPEN,
    gives=bytes,
    media_type="*/*",
    errors=(UnknownAddress,),
    weight=Weight.PAGE,
)
async def show_static(_: Call, name: str) -> Response:
    """Give the style, the script or the icon of the page."""
    if name not in STATIC:
        raise UnknownAddress("there is nothing at this address", hint=f"there are: {', '.join(STATIC)}")
    return static(name)


def _to_page() -> Response:
    answer = Response(b"", 303, content_type=HTML, headers=HEADERS)
    answer.headers["Location"] = "/"
    return answer


async def _read_token(call: Call) -> str:
    """The token in a form; forms are read here, since a form of any size could be sent."""
    request: Any = call.request
    if request.mimetype != "application/x-www-form-urlencoded":
        raise BadRequest("the body is no form", hint="send it as application/x-www-form-urlencoded")
    data = bytearray()
    async for piece in request.body:
        data += piece
        if len(data) > MOST_BYTES:
            raise RequestTooLarge(f"the form is larger than {MOST_BYTES} bytes")
    try:
        fields = parse_qs(data.decode(), max_num_fields=4)
    except ValueError as error:
        raise BadRequest("the form cannot be read") from error
    return fields.get("token", [""])[0].strip()

"""What describes the interface: the OpenAPI document for programs, and the same as a page for people."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from quart import Response

from cryomamba_server.http.openapi import openapi_document
from cryomamba_server.http.reference_page import Page, reference_page
from cryomamba_server.http.routing import Call, Guard, RouteTable

ROUTES = RouteTable()


@ROUTES.add("GET", "/v1/openapi.json", access=Guard.OPEN, gives=bytes, media_type="application/json")
async def show_openapi(_: Call) -> Response:
    """The OpenAPI 3.1 document of this interface."""
    return Response(_document_text(), content_type="application/json", headers={"Cache-Control": "no-cache"})


@ROUTES.add("GET", "/v1/docs", access=Guard.OPEN, gives=bytes, media_type="text/html")
async def show_docs(_: Call) -> Response:
    """The same as a page for people."""
    page = _page()
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": page.policy, "X-Content-Type-Options": "nosniff"}
    return Response(page.html, content_type="text/html; charset=utf-8", headers=headers)


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    """Made once: routes and types do not change while a server runs."""
    from cryomamba_server.http.app import all_routes

    return openapi_document(all_routes())


@lru_cache(maxsize=1)
def _document_text() -> str:
    return json.dumps(_document(), ensure_ascii=False)


@lru_cache(maxsize=1)
def _page() -> Page:
    return reference_page(_document())

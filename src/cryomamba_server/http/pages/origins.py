"""Whether a form came from one of our own pages."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from cryomamba_core.errors import Forbidden


def require_own_origin(request: Any, public_url: str) -> None:
    """Raise `Forbidden` for a form that a page of somebody else sent.

    Browsers say with every form where it comes from. Schemes are not compared: behind a proxy that
    speaks TLS ours is another.
    """
    origin = request.headers.get("Origin")
    if origin is None and request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return
    ours = {request.headers.get("Host", ""), urlsplit(public_url).netloc} - {""}
    if origin is None or _netloc(origin) not in ours:
        raise Forbidden("the form came from another site", hint="open the status page itself, and log in there")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # as of http://[
        return ""

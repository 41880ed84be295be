"""Templates, what they may use, and what browsers may do with the outcome."""

from __future__ import annotations

import secrets
from functools import lru_cache
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from quart import Response

from cryomamba_core import wording

#: Files beside the pages: name → media type.
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

#: What a browser may do with anything that is answered here, style and script aside.
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def page(template: str, code: int = 200, **values: Any) -> Response:
    """A page. Only its own style and script, named by a number that is used once, are let in."""
    nonce = secrets.token_urlsafe(16)
    html = _environment().get_template(template).render(nonce=nonce, **values)
    answer = Response(html, code, content_type="text/html; charset=utf-8", headers=HEADERS)
    answer.headers["Content-Security-Policy"] = f"{_POLICY}; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
    return answer


def static(name: str) -> Response:
    """One of the files in `STATIC`; its address changes with the version."""
    answer = Response(_static(name), content_type=f"{STATIC[name]}; charset=utf-8", headers=HEADERS)
    answer.headers["Cache-Control"] = "public, max-age=3600"
    answer.headers["Content-Security-Policy"] = "default-src 'none'"
    return answer


@lru_cache
def _static(name: str) -> bytes:
    return resources.files("cryomamba_server.http.pages").joinpath("static", name).read_bytes()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cryomamba_server.http.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["version"] = metadata.version("cryomamba")
    environment.filters |= {
        "size": wording.byte_size,
        "duration": wording.duration,
        "percent": wording.percent,
        "plural": wording.plural,
    }
    return environment

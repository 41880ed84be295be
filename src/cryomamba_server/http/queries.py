"""Parameters in the query string, read strictly: what is misspelt is said, not passed over."""

from __future__ import annotations

from typing import Any

from cryomamba_core.errors import BadRequest

#: No number that anybody gives is larger.
MOST = 2**53


def read_queries(request: Any, *names: str) -> dict[str, str]:
    """The parameters of a request by name.

    Raises
    ------
    BadRequest
        If one is not among `names`, or comes twice.
    """
    found: dict[str, str] = {}
    for name, value in request.args.items(multi=True):
        if name not in names:
            known = ", ".join(names) or "none"
            raise BadRequest(f"this address has no query parameter {name!r}", hint=f"it has: {known}")
        if name in found:
            raise BadRequest(f"the query parameter {name!r} is there twice")
        found[name] = value
    return found


def whole_number(text: str, name: str, *, least: int, most: int = MOST) -> int:
    """A parameter as a number; raises `BadRequest` if it is none, or out of bounds."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MOST))
    if not digits or not least <= int(text) <= most:
        raise BadRequest(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}")
    return int(text)

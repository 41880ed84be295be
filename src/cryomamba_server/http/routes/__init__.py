"""What the server answers, a module for each part of the interface."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryomamba_server.http.routing import RouteTable

#: Modules with a table ``ROUTES``, in the order of the documentation.
MODULES = ("uploads", "jobs", "live", "artifacts", "server", "documents", "pages")


def route_tables() -> list[RouteTable]:
    """The tables of all modules."""
    return [import_module(f"{__name__}.{module}").ROUTES for module in MODULES]

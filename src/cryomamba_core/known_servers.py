"""Addresses of servers that a login was made to, to be offered again; no secret is among them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

log: logging.Logger = logging.getLogger(__name__)


def note_server(url: str) -> None:
    """Remember a server; nothing is said where that cannot be."""
    _write([*(known for known in _noted() if known != url), url])


def forget_server(url: str) -> None:
    """Remember it no longer."""
    noted = _noted()
    if url in noted:
        _write([known for known in noted if known != url])


def known_servers() -> list[str]:
    """The servers of all logins that were not taken back, sorted.

    A keyring tells no names, so those are noted beside; a file of credentials has its own.
    """
    from cryomamba_core.credentials import default_file

    return sorted({*_noted(), *_object(default_file()).get("servers", {})})


def _file() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("cryomamba", appauthor=False)) / "servers.json"


def _noted() -> list[str]:
    return [url for url in _object(_file()).get("servers", []) if isinstance(url, str)]


def _write(servers: list[str]) -> None:
    from cryomamba_core.durable import write_whole

    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(), json.dumps({"servers": servers}).encode())
    except OSError as error:
        log.debug("%s cannot be written: %s", _file(), error)


def _object(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}

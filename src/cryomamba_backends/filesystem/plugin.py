"""Registers the filesystem storage, rooted at the data directory."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Storage
from cryomamba_core.settings import Settings

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_storages(register: Callable[[Storage], None], settings: Settings) -> None:
    """Register the storage."""
    register(FilesystemStorage(settings.data_dir))

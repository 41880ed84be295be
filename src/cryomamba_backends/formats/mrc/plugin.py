"""Registers the reader and the exporter of MRC files."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_backends.formats.mrc.exporter import MrcExporter
from cryomamba_backends.formats.mrc.reader import MrcReader
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter, VolumeReader

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_readers(register: Callable[[VolumeReader], None]) -> None:
    """Register the reader."""
    register(MrcReader())


@hookimpl
def cryomamba_register_exporters(register: Callable[[Exporter], None]) -> None:
    """Register the exporter."""
    register(MrcExporter())

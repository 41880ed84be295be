"""Registers the reader and the exporter of NIfTI files."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_backends.formats.nifti.exporter import NiftiExporter
from cryomamba_backends.formats.nifti.reader import NiftiReader
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter, VolumeReader
from cryomamba_core.settings import Settings

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_readers(register: Callable[[VolumeReader], None], settings: Settings) -> None:
    """Register the reader."""
    register(NiftiReader(scratch=settings.data_dir))


@hookimpl
def cryomamba_register_exporters(register: Callable[[Exporter], None], settings: Settings) -> None:
    """Register the exporter."""
    register(NiftiExporter(angstrom_as_mm=settings.nifti_angstrom_as_mm))

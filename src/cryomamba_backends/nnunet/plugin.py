"""Registers the nnU-Net runner."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_backends.nnunet.runner import NNUNetRunner
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import ModelRunner
from cryomamba_core.settings import Settings

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_runners(register: Callable[[ModelRunner], None], settings: Settings) -> None:
    """Offer the nnU-Net runner."""
    register(NNUNetRunner(settings))

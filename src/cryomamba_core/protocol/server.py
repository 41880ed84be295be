"""What a server says of itself on the wire: ``/v1/healthz``, ``/v1/models``, ``/v1/inputs``."""

from __future__ import annotations

from attrs import frozen

from cryomamba_core.files import FileRecord
from cryomamba_core.models import ModelInfo


@frozen(kw_only=True)
class Health:
    """That the server answers, or is ready: `status` is ``ok``."""

    status: str = "ok"


@frozen(kw_only=True)
class ModelList:
    """The models of all runners, by runner and name."""

    models: tuple[ModelInfo, ...]


@frozen(kw_only=True)
class InputPage:
    """Some of the caller's files, the newest first.

    Attributes
    ----------
    files
        The page.
    next_before
        What to give as ``before`` for the next page; None on the last.
    """

    files: tuple[FileRecord, ...]
    next_before: str | None

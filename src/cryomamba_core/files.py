"""Files that were sent to the engine."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen


@frozen(kw_only=True)
class FileRecord:
    """A complete file that jobs can name as their source.

    Attributes
    ----------
    id
        Names the content: the same bytes have the same id.
    name
        File name that its owner gave, without a folder.
    size
        In bytes.
    sha256
        Hex digest.
    created_at
        UTC.
    """

    id: str
    name: str
    size: int
    sha256: str
    created_at: datetime

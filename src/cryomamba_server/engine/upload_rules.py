"""What an engine allows of uploads."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class UploadRules:
    """What the engine allows.

    Attributes
    ----------
    part_size
        Bytes of an upload's parts.
    parallel_parts
        Parts of all uploads together that may be in memory at a time.
    quota_bytes
        What each owner may keep in files; 0 for any amount.
    reserve_bytes
        Free space of the storage that uploads leave alone.
    hours
        An upload to which nothing was added for so long is dropped.
    """

    part_size: int = 16 << 20
    parallel_parts: int = 5
    quota_bytes: int = 0
    reserve_bytes: int = 0
    hours: float = 72.0

"""Which bytes of an artifact are wanted: the ``Range`` header of RFC 9110, one range only."""

from __future__ import annotations

import re

from attrs import frozen

from cryomamba_core.errors import RangeNotSatisfiable

#: More digits than any size has: such a number is beyond every end.
MOST_DIGITS = 18

_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.ASCII | re.IGNORECASE)


@frozen(kw_only=True)
class ByteRange:
    """Bytes `start` (inclusive) to `stop` (exclusive) of `size`."""

    start: int
    stop: int
    size: int

    @property
    def content_range(self) -> str:
        """The header ``Content-Range``."""
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


def wanted_range(header: str | None, size: int) -> ByteRange | None:
    """The range that is asked for, or None if the whole is to be sent.

    What is no range, has another unit or names several ranges is ignored, as RFC 9110 allows.

    Raises
    ------
    RangeNotSatisfiable
        If the range lies behind the end.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = _number(suffix)
        if length == 0:
            raise _behind(size)
        return ByteRange(start=max(0, size - length), stop=size, size=size) if size else None
    start = _number(first)
    if last and _number(last) < start:
        return None
    if start >= size:
        raise _behind(size)
    return ByteRange(start=start, stop=min(_number(last) + 1, size) if last else size, size=size)


def matches(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names `etag`; weak tags count, since the content is the same."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= MOST_DIGITS else 10**MOST_DIGITS


def _behind(size: int) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(f"the range lies behind the end: the file has {size} bytes", size=size)

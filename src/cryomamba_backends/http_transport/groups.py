"""Of several errors that come together, the one to raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@contextmanager
def first_error() -> Iterator[None]:
    """Raise the first error of a group in its place, unless the group is one of a cancellation."""
    try:
        yield
    except BaseExceptionGroup as group:
        found = list(leaves(group))
        if any(isinstance(each, trio.Cancelled) or not isinstance(each, Exception) for each in found):
            raise
        raise found[0] from group

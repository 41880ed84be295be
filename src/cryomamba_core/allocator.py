"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache


def return_freed() -> None:
    """Give memory that was freed back to the system, where the C library can.

    Once a piece of up to 32 MiB was freed, glibc no longer maps others of that size by themselves, and returns those
    between pieces that are still held only when it is told to.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    """``malloc_trim`` of glibc; None where there is another C library."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows a library must have a name
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    found: Callable[[int], int] = trim
    return found

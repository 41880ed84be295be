"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

#: Options of glibc's ``mallopt``, from its ``malloc.h``.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4

#: A threshold that nothing reaches: glibc reads it without its sign.
NEVER = -1

#: What it does from its start on, once pieces of many sizes were freed: pieces from 32 MiB on are mapped by themselves,
#: and of what is free at the end of all others twice that is kept.
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}

#: Bytes in what glibc cuts off pieces that begin at multiples of 64, as PyTorch's do; and of each of these sizes, how
#: many a thread keeps.
CUT_OFF, KEPT_BY_THREADS = range(24, 105, 16), 7

#: Before it looks for room for so many bytes, glibc joins small pieces that no thread keeps with what is beside them.
JOINS = 64 << 10


def can_keep_freed() -> bool:
    """Whether `keep_freed` does anything with this C library."""
    return _options() is not None


class _Keepers:
    """Counts who wants freed memory kept, as it goes for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    @property
    def any(self) -> bool:
        """Whether anybody does."""
        return self._count > 0

    def enter(self) -> None:
        """Count one more, and have memory kept from the first on."""
        with self._lock:
            self._count += 1
            if self._count == 1:
                _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER})

    def leave(self) -> None:
        """Count one less, and have memory given back after the last."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                _set(USUAL)
        return_freed()


_keepers = _Keepers()


@contextmanager
def keep_freed() -> Iterator[None]:
    """Have what is freed kept for what is allocated next, until the end, when it is given back to the system.

    glibc maps large pieces by themselves and gives them back one by one, and the system clears every page of the next:
    for pieces that are soon freed, as the maps of a network are, that takes longer than much of what is computed.

    It goes for the whole process, until the last that began it ends it; but of pieces of more than 64 MiB only those of
    the main thread are kept.
    """
    _keepers.enter()
    try:
        yield
    finally:
        _keepers.leave()


def return_freed() -> None:
    """Give memory that was freed back to the system, where the C library can; not while `keep_freed` has it kept.

    Once a piece of up to 32 MiB was freed, glibc no longer maps others of that size by themselves, and returns those
    between pieces that are still held only when it is told to.
    """
    trim = _trim()
    if trim is not None and not _keepers.any:
        trim(0)


def join_freed() -> None:
    """Have small pieces that the calling thread freed join what is free beside them, where the C library is glibc.

    Of every aligned piece, and PyTorch's are, glibc cuts small ones off, and each thread keeps some of a size for
    itself: between large pieces that are free, one that fits both is then not found, and as chance has it the process
    grows by up to a half. The pieces that a thread keeps are here replaced by ones that lie wherever there was room.
    """
    heap = _heap()
    if heap is None:
        return
    allocate, free = heap
    kept = [allocate(size) for size in CUT_OFF for _ in range(KEPT_BY_THREADS)]
    free(allocate(JOINS))
    others = [allocate(size) for size in CUT_OFF for _ in range(KEPT_BY_THREADS)]
    for piece in (*others, *kept):  # the first are those that the thread keeps from now on
        free(piece)


def _set(options: Mapping[int, int]) -> None:
    """Set options of ``mallopt``, where the C library is glibc."""
    set_one = _options()
    if set_one is not None:
        for option, value in options.items():
            set_one(option, value)


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


@lru_cache(maxsize=1)
def _options() -> Callable[[int, int], int] | None:
    """``mallopt`` of glibc; None where there is another C library, whose numbers mean something else."""
    if _trim() is None:
        return None
    try:
        options = ctypes.CDLL(None).mallopt
    except AttributeError:
        return None
    options.argtypes, options.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    found: Callable[[int, int], int] = options
    return found


@lru_cache(maxsize=1)
def _heap() -> tuple[Callable[[int], int], Callable[[int], None]] | None:
    """``malloc`` and ``free`` of glibc; None where there is another C library."""
    if _trim() is None:
        return None
    library = ctypes.PyDLL(None)  # unlike CDLL it keeps Python's lock, which here would take longer than the calls
    allocate, free = library.malloc, library.free
    allocate.argtypes, allocate.restype = (ctypes.c_size_t,), ctypes.c_void_p
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    return allocate, free

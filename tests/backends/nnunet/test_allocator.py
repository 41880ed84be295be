"""What the C library keeps of freed memory, in a process of its own."""

from __future__ import annotations

import ctypes
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import psutil
import pytest

from cryomamba_core.allocator import CUT_OFF, join_freed, keep_freed, return_freed

MIB = 1 << 20
PIECES = 64

#: Of Linux's ``prctl.h``.
PR_SET_THP_DISABLE = 41

#: Bytes of a map, which glibc maps by itself, and how many are made.
MAP, MAPS = 64 * MIB, 8

#: Bytes of what two maps have room for and one has not.
MORE = MAP * 3 // 2


def resident() -> int:
    """Bytes."""
    return psutil.Process().memory_info().rss


def free_between_held() -> tuple[int, int]:
    """Resident bytes after pieces were freed that lay between others, and after the system was given them back."""
    np.ones(24 * MIB, np.uint8)  # freed at once: from now on glibc maps nothing smaller by itself
    freed, held = [], []
    for _ in range(PIECES):
        freed.append(np.ones(MIB, np.uint8))
        held.append(np.ones(MIB // 8, np.uint8))
    freed.clear()
    kept = resident()
    return_freed()
    assert len(held) == PIECES
    return kept, resident()


def faults_of_maps() -> int:
    """How many pages the system clears for maps like those of a network, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(MAPS):
        assert len(b"1" * MAP) == MAP  # unlike NumPy it asks for no huge pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def keep_gigabytes() -> tuple[int, int]:
    """Addresses of this process before it freed more than 2 GiB, which nothing wrote to, and after that."""
    with keep_freed():
        piece = np.empty(2200 * MIB, np.uint8)
        before = psutil.Process().memory_info().vms
        del piece
        return before, psutil.Process().memory_info().vms


def keep_maps() -> tuple[int, int, int, int]:
    """Faults while what was freed is kept and afterwards, and resident bytes before and afterwards."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # huge pages are cleared in few faults
    faults_of_maps()
    before = resident()
    with keep_freed():
        kept = faults_of_maps()
        assert resident() > before + MAP / 2
    return kept, faults_of_maps(), before, resident()


def takes_what_it_kept(*, joins: bool) -> bool:
    """Whether a thread that frees a small piece of memory is given the same for the next of its size."""
    library = ctypes.PyDLL(None)
    allocate, free = library.malloc, library.free
    allocate.argtypes, allocate.restype, free.argtypes = (ctypes.c_size_t,), ctypes.c_void_p, (ctypes.c_void_p,)
    join_freed()  # what it needs itself is there before
    piece = allocate(CUT_OFF[1])
    free(piece)
    if joins:
        join_freed()
    again: int = allocate(CUT_OFF[1])
    return again == piece


def allocate_above(piece, allocate) -> int:
    """A small piece behind a large one that is the last: there is room for some before it, which is filled first."""
    found: int = allocate(CUT_OFF[1])
    while found < piece:
        found = allocate(CUT_OFF[1])
    return found


def grows_for_what_two_pieces_held(*, joins: bool) -> int:
    """Bytes of addresses that are taken for a piece that fits in two which were freed, and in neither of them."""
    library = ctypes.PyDLL(None)
    allocate, free = library.malloc, library.free
    allocate.argtypes, allocate.restype, free.argtypes = (ctypes.c_size_t,), ctypes.c_void_p, (ctypes.c_void_p,)
    with keep_freed():
        join_freed()  # what it needs itself is there before
        room = allocate(MIB)  # for small pieces, else they lie where the second of the large ones was
        assert allocate_above(room, allocate) > room
        first = allocate(MAP)
        between = allocate_above(first, allocate)
        second = allocate(MAP)
        assert allocate_above(second, allocate) > second > between
        for piece in (room, between, first, second):  # the thread keeps the small one
            free(piece)
        if joins:
            join_freed()
        before = psutil.Process().memory_info().vms
        free(allocate(MORE))
        return psutil.Process().memory_info().vms - before


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do not keep what was freed")


def keep_within_keep() -> tuple[int, int, int]:
    """Faults while what was freed is kept: after a second that had it kept has ended, and after all have."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    with keep_freed():
        with keep_freed():
            faults_of_maps()
        return_freed()
        kept = faults_of_maps()
        held = resident()
    return kept, held, resident()


@glibc
def test_what_was_freed_is_kept_until_the_last_that_asked_for_it_ends():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        kept, held, left = alone.submit(keep_within_keep).result()
    assert kept < MAP / resource.getpagesize() / 2, "all maps are made where those before were"
    assert left < held - MAP / 2


@glibc
def test_what_was_freed_is_kept_for_what_comes_next_until_the_end():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        kept, afterwards, before, left = alone.submit(keep_maps).result()
    pages = MAP // resource.getpagesize()
    assert kept < 1.5 * pages, "the second map is not made where the first was"
    assert afterwards > MAPS * pages / 2, "large pieces are still kept"
    assert left - before < MAP / 4


@glibc
def test_more_than_two_gigabytes_are_kept():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        before, after = alone.submit(keep_gigabytes).result()
    assert after > before - 100 * MIB


@glibc
def test_memory_that_was_freed_between_pieces_still_held_goes_back_to_the_system():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        kept, left = alone.submit(free_between_held).result()
    # Of 64 MiB some pages at the edges of pieces stay.
    assert kept - left > PIECES * MIB * 3 / 4


@glibc
@pytest.mark.parametrize("joins", [False, True])
def test_small_pieces_that_a_thread_kept_are_exchanged_when_they_are_to_be_joined(joins):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        assert alone.submit(takes_what_it_kept, joins=joins).result() != joins


@glibc
@pytest.mark.parametrize("joins", [False, True])
def test_a_small_piece_between_two_large_ones_does_not_keep_them_apart_when_they_are_joined(joins):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        grown = alone.submit(grows_for_what_two_pieces_held, joins=joins).result()
    assert (grown < MAP) == joins, "without it the heap takes addresses for the whole piece"

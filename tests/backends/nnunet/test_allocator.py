"""What the C library keeps of freed memory, in a process of its own."""

from __future__ import annotations

import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import psutil
import pytest

from cryomamba_core.allocator import return_freed

MIB = 1 << 20
PIECES = 64


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do not keep what was freed")
def test_memory_that_was_freed_between_pieces_still_held_goes_back_to_the_system():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        kept, left = alone.submit(free_between_held).result()
    # Of 64 MiB some pages at the edges of pieces stay.
    assert kept - left > PIECES * MIB * 3 / 4

"""When memory is out: how that is recognised, what is let go of, and what is said."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from cryomamba_core.errors import OutOfMemory

#: How libraries say that memory is out, where they have no class of errors for it; the first for that of a GPU.
DEVICE_SIGNS = ("out of memory", "ALLOC_FAILED")
SIGNS = ("not enough memory", "can't allocate memory", "bad_alloc", *DEVICE_SIGNS)

HINT = "free memory, or cut the volume along its shorter axes (cutting the longest saves nothing)"


def says_out(error: BaseException) -> bool:
    """Whether an error is some library's way of saying that memory is out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def is_of_device(error: BaseException) -> bool:
    """Whether it is the memory of a GPU that an error says is out."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS)


def out_of_memory(needed: int, left: int, hint: str, *, device: str = "cpu") -> OutOfMemory:
    """The error of a run that needs more memory, of the host or of another device, than there is, in bytes."""
    memory = "memory" if device == "cpu" else f"memory on {device}"
    if needed <= left:
        return OutOfMemory(
            f"{memory} ran out, although the run needs about {needed >> 20} MiB and {left >> 20} MiB seem to be left",
            hint=f"see whether something limits the memory of workers or takes it for a short time, {hint}",
        )
    return OutOfMemory(
        f"the run needs about {needed >> 20} MiB of {memory}, of which {left >> 20} MiB are left",
        hint=f"free {max(1, (needed - left) >> 20)} MiB, {hint}",
    )


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turn any library's way of saying that memory is out into `OutOfMemory`; what the run held is let go of."""
    try:
        yield
    except OutOfMemory as error:
        let_go(error)
        raise
    except Exception as error:
        if not says_out(error):
            raise
        let_go(error)
        raise OutOfMemory("the run does not fit in memory", hint=HINT) from error


def let_go(error: BaseException | None) -> None:
    """Forget what the functions held that an error and its causes came through, whoever keeps the error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

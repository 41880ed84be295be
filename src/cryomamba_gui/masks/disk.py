"""What a disk refuses, in the words of our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cryomamba_core.errors import CryoMambaError, ErrorInfo, StorageError, StorageFull


@contextmanager
def told_as_storage(what: str) -> Iterator[None]:
    """Raise `StorageFull` or `StorageError` for what the system refuses in the block.

    Parameters
    ----------
    what
        The clause that says what cannot be done, e.g. ``the mask cannot be saved``.
    """
    try:
        yield
    except CryoMambaError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if ErrorInfo.of(error).code == StorageFull.code:
            raise StorageFull(f"{what}: {reason}", hint="free some space, then try again") from error
        raise StorageError(f"{what}: {reason}", hint="check the disk and the permissions of the folder") from error

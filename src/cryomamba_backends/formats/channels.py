"""Files that hold several channels of one volume, one after the other."""

from __future__ import annotations

from cryomamba_core.errors import UnsupportedFile
from cryomamba_core.volumes import MOST_CHANNELS, HeaderWarning


def check_channels(count: int) -> tuple[HeaderWarning, ...]:
    """Judge how many channels a header claims.

    Raises
    ------
    UnsupportedFile
        If there are more than `MOST_CHANNELS`.

    Returns
    -------
    warnings
        One if there is more than one channel.
    """
    if count > MOST_CHANNELS:
        raise UnsupportedFile(
            f"the file holds {count} volumes, more than the {MOST_CHANNELS} that can be channels of one",
            hint="write each volume to a file of its own and give one of those",
        )
    if count > 1:
        return (
            HeaderWarning(
                code="header/several-channels",
                message=f"the file holds {count} channels, and only models that take so many use more than the first",
                hint="if these are not channels of one volume, write each to a file of its own",
            ),
        )
    return ()

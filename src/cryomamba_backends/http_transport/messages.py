"""A job's events as a server sends them: read, and refused where no job of ours could have made them."""

from __future__ import annotations

from cryomamba_core.errors import BrokenProtocol
from cryomamba_core.events import JobEvent, PreviewReady
from cryomamba_core.labels import label_dtype
from cryomamba_core.previews import Preview
from cryomamba_core.protocol.live import event_of

#: Bytes of a preview's labels once they are unpacked; those of a policy that says nothing have at most 8 MiB.
MOST_LABELS = 512 << 20
#: The types that labels have.
_TYPES = {label_dtype(highest).name: label_dtype(highest) for highest in (0xFF, 0xFFFF)}


def heard(message: str | bytes) -> JobEvent:
    """The event in a message.

    Raises
    ------
    BrokenProtocol
        If it is none, or a preview that claims to be larger than any is: whoever shows it would
        unpack it, and a few bytes can be packed that become more than any memory holds.
    """
    try:
        event = event_of(message)
    except RecursionError as error:
        raise BrokenProtocol("the server sent a message that is nested too deeply") from error
    if isinstance(event, PreviewReady) and event.preview is not None:
        _require_size(event.preview)
    return event


def _require_size(preview: Preview) -> None:
    dtype = _TYPES.get(preview.dtype)
    factors = [preview.factor, *(companion.factor for companion in preview.companions)]
    if dtype is None or min(factors) < 1:
        raise BrokenProtocol("the server sent a preview that holds no labels")
    size = preview.grid.voxels * dtype.itemsize
    size += sum(companion.grid.voxels for companion in preview.companions)
    if size > MOST_LABELS:
        raise BrokenProtocol(f"the server sent a preview that claims to hold {size} bytes of voxels")

"""One section of a preview as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.labels import PALETTE, Label
from cryomamba_core.previews import Preview

#: Where nothing is labelled: lighter than the card around it, so that one sees where the section ends.
BACKGROUND = (27, 37, 48)

#: Pixels of the longer side: small sections are magnified by whole numbers, large ones are thinned out.
SIDE = 512


def middle_section(preview: Preview) -> NDArray[Any]:
    """Labels (y, x) of the section in the middle of what the preview covers."""
    covered = preview.covered
    middle = (covered.start[0] + max(covered.start[0], covered.stop[0] - 1)) // 2 // preview.factor
    section: NDArray[Any] = preview.labels()[min(middle, preview.grid.shape[0] - 1)]
    return section


def draw_section(section: NDArray[Any], labels: Iterable[Label]) -> bytes:
    """A PNG of labels (y, x) in their colours. Blocks."""
    from PIL import Image

    step = max(1, -(-max(section.shape) // SIDE))
    thinned = section[::step, ::step]
    colours = _colours(labels, int(thinned.max(initial=0)))
    image = Image.fromarray(colours[thinned])
    scale = max(1, SIDE // max(thinned.shape))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return _png(image.quantize(256))


def draw_nothing() -> bytes:
    """A PNG for a job that has no preview."""
    from PIL import Image

    return _png(Image.new("RGB", (SIDE, SIDE // 2), BACKGROUND).quantize(2))


def _colours(labels: Iterable[Label], highest: int) -> NDArray[np.uint8]:
    """The colour (red, green, blue) of each label value up to `highest`."""
    colours = np.empty((highest + 1, 3), np.uint8)
    for value in range(highest + 1):
        colours[value] = _rgb(PALETTE[(value - 1) % len(PALETTE)])
    for label in labels:
        if label.value <= highest:
            colours[label.value] = _rgb(label.color)
    colours[0] = BACKGROUND
    return colours


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _png(image: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()

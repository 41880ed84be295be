"""Which grey values to show, from a few sections of a file that is too large to be looked at whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.geometry import Region
from cryomamba_core.volumes import Volume

#: Sections that are looked at, spread over the file's slowest axis.
SECTIONS = 5

#: Of a section, every so many voxels in both directions are looked at; all where there are few.
STRIDE = 4
FEW_VOXELS = 512 * 512

#: A section of more voxels is looked at in so many bands, which hold as many together.
BAND_VOXELS = 2 << 20
BANDS = 8

#: Per cent of the voxels that are darker than black, and as many brighter than white.
TAIL = 0.5

#: Bins of a histogram.
BINS = 256


@frozen(kw_only=True)
class Contrast:
    """Grey values as they were sampled, in the units of the file.

    Attributes
    ----------
    limits
        What to show black and white: `TAIL` per cent of the sample lie beyond on each side.
    range
        What the limits can sensibly be moved in; voxels may lie outside.
    middle
        The median: what to show where nothing is known.
    """

    limits: tuple[float, float]
    range: tuple[float, float]
    middle: float


def sample_contrast(volume: Volume) -> Contrast:
    """Read a few sections and choose limits; works whatever the voxels are, NaN included.

    Reads at most `SECTIONS` sections, or `BAND_VOXELS` voxels of each.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        sample = np.concatenate([_sampled(volume, region) for region in _bands(volume)]).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return Contrast(limits=(0.0, 1.0), range=(0.0, 1.0), middle=0.0)
    low, middle, high = (float(value) for value in np.percentile(sample, (TAIL, 50, 100 - TAIL)))
    if low == high:
        low, high = float(sample.min()), float(sample.max())
    if low == high:
        margin = max(0.5, abs(low) * 1e-3)
        low, high = low - margin, high + margin
    return Contrast(limits=(low, high), range=_widened(low, high, volume.dtype), middle=middle)


def histogram_edges(contrast: Contrast, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """`BINS` + 1 edges over the contrast's range; with bins of whole numbers for whole numbers.

    Parameters
    ----------
    contrast
        Of the sample.
    dtype
        Of the voxels.
    """
    low, high = contrast.range
    if dtype.kind not in "iu":
        return np.linspace(low, high, BINS + 1)
    width = max(1, int(np.ceil((np.floor(high) - np.floor(low) + 1) / BINS)))
    edges: NDArray[np.float64] = np.floor(low) - 0.5 + width * np.arange(BINS + 1)
    return edges


def _widened(low: float, high: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """The limits and once their distance on each side, as far as voxels of this type reach."""
    span = high - low
    wide = low - span, high + span
    if dtype.kind not in "iu":
        return wide
    bounds = np.iinfo(dtype)
    return max(wide[0], min(low, float(bounds.min))), min(wide[1], max(high, float(bounds.max)))


def _bands(volume: Volume) -> list[Region]:
    """Regions to look at: sections across the stored order, or bands of rows of these."""
    grid = volume.grid
    section_axis, row_axis, _ = grid.stored_axes
    sections, rows, width = grid.stored_shape
    picked = sorted({(2 * i + 1) * sections // (2 * SECTIONS) for i in range(SECTIONS)})
    starts, height = [0], rows
    if rows * width > BAND_VOXELS:
        height = max(1, BAND_VOXELS // (BANDS * width))
        starts = sorted({int(start) for start in np.linspace(0, rows - height, BANDS)})
    found = []
    for section in picked:
        for row in starts:
            start, stop = [0, 0, 0], list(grid.shape)
            start[section_axis], stop[section_axis] = section, section + 1
            start[row_axis], stop[row_axis] = row, row + height
            found.append(Region(start=start, stop=stop))
    return found


def _sampled(volume: Volume, region: Region) -> NDArray[Any]:
    _, rows, width = volume.grid.stored_shape
    step = STRIDE if rows * width > FEW_VOXELS else 1
    section: NDArray[Any] = volume.read(region).transpose(volume.grid.stored_axes)[0]
    return section[::step, ::step].reshape(-1)

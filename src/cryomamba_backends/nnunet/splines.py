"""Cubic and linear interpolation of a slab of an array as if the whole array were there.

Exactly, every product and every sum is made by SciPy in the order in which `scipy.ndimage.zoom` makes them for the
whole array, in double precision. Otherwise axis after axis is interpolated in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

#: Rows on either side of a slab that a cubic spline's coefficients are made from. What lies further off counts less
#: than 0.268 ** rows: below the last bit of double precision, or of single precision.
EXACT_HALO = 32
HALO = 16

#: How many times SciPy repeats the outermost voxels before it makes the coefficients.
_EDGE = 12

#: Voxels that are interpolated at a time.
_PIECE = 1 << 20


def halo(*, exact: bool) -> int:
    """How many rows are needed on either side of those that are interpolated by cubic splines."""
    return EXACT_HALO if exact else HALO


def cubic(
    slab: NDArray[np.float32], centres: Sequence[NDArray[np.float64]], *, first: int, rows: int, exact: bool
) -> NDArray[np.float64] | NDArray[np.float32]:
    """Interpolate by cubic splines.

    Parameters
    ----------
    slab
        Rows of an array of two or three axes: those between which the new ones lie, and a `halo` of
        them before and after as far as the array has them.
    centres
        Where the new voxels lie on each axis, in voxels of the array.
    first
        Which row of the array the slab starts with.
    rows
        How many the array has.
    exact
        Whether bit by bit as SciPy does it.

    Returns
    -------
    values
        As many along each axis as there are centres.
    """
    low = max(0, math.floor(centres[0][0]) - 1 - first)
    high = math.floor(centres[0][-1]) + 3 - first
    before, after = (_EDGE if first == 0 else 0), (_EDGE if first + len(slab) == rows else 0)
    kept = slice(low, min(high + before + after, before + len(slab) + after))
    coefficients = _along_rows(slab, kept, (before, after), np.float64 if exact else np.float32)
    places = [centre + _EDGE for centre in centres]  # in this order SciPy rounds them
    places[0] += before - _EDGE - first - kept.start
    if exact:
        return _cubic_exactly(coefficients, places)
    for axis, place in enumerate(places):
        if axis > 0:
            coefficients = _coefficients(_padded(coefficients, axis), axis, np.float32)
        coefficients = _between_four(coefficients, place, axis)
    return coefficients


def linear_exactly(slab: NDArray[np.float16], centres: Sequence[NDArray[np.float64]]) -> NDArray[np.float16]:
    """Interpolate an array linearly in double precision, bit by bit as SciPy does it; centres in voxels of `slab`."""
    wide = slab.astype(np.float64)
    values = np.empty(tuple(len(centre) for centre in centres), np.float16)
    _at_places(wide, centres, order=1, values=values)
    return values


def indicators_exactly(mask: NDArray[np.bool_], centres: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Interpolate ones and zeros linearly, bit by bit as SciPy does it; centres in voxels of `mask`."""
    values = np.empty(tuple(len(centre) for centre in centres))
    _at_places(mask.astype(np.float64), centres, order=1, values=values)
    return values


def linear(slab: torch.Tensor, centres: Sequence[NDArray[np.float64]]) -> torch.Tensor:
    """Interpolate (heads, …) linearly along all axes but the first, where it lies; centres in voxels of `slab`."""
    import torch

    for axis, centre in enumerate(centres, start=1):
        count = slab.shape[axis]
        inside = np.clip(centre, 0, count - 1)
        if len(inside) == count and np.array_equal(inside, np.arange(count)):
            continue
        lower = np.floor(inside).astype(np.int64)
        upper = np.minimum(lower + 1, count - 1)
        weights = torch.from_numpy(inside - lower).to(slab.device, slab.dtype)
        weights = weights.reshape([-1 if at == axis else 1 for at in range(slab.ndim)])
        start, end = (torch.index_select(slab, axis, torch.from_numpy(at).to(slab.device)) for at in (lower, upper))
        slab = torch.lerp(start, end, weights)
    return slab


def _along_rows(
    slab: NDArray[np.float32], kept: slice, edges: tuple[int, int], dtype: type[np.floating]
) -> NDArray[np.floating]:
    """Coefficients along the first axis, of some rows of the slab between its repeated edges."""
    made = np.empty((kept.stop - kept.start, *slab.shape[1:]), dtype)
    columns = max(1, _PIECE // (len(slab) * math.prod(slab.shape[2:])))
    for start in range(0, slab.shape[1], columns):
        piece = slab[:, start : start + columns]
        padded = np.pad(piece, (edges, *[(0, 0)] * (piece.ndim - 1)), mode="edge")
        made[:, start : start + columns] = _coefficients(padded, 0, dtype)[kept]
    return made


def _padded(values: NDArray[np.floating], axis: int) -> NDArray[np.floating]:
    return np.pad(values, [(_EDGE, _EDGE) if at == axis else (0, 0) for at in range(values.ndim)], mode="edge")


def _coefficients(values: NDArray[np.floating], axis: int, dtype: type[np.floating]) -> NDArray[np.floating]:
    from scipy.ndimage import spline_filter1d

    made: NDArray[np.floating] = spline_filter1d(values, 3, axis=axis, output=dtype, mode="nearest")
    return made


def _cubic_exactly(coefficients: NDArray[np.floating], places: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    for axis in range(1, coefficients.ndim):
        coefficients = _coefficients(_padded(coefficients, axis), axis, np.float64)
    values = np.empty(tuple(len(place) for place in places))
    _at_places(coefficients, places, order=3, values=values)
    return values


def _at_places(
    array: NDArray[Any], places: Sequence[NDArray[np.float64]], *, order: Literal[1, 3], values: NDArray[Any]
) -> None:
    """Fill `values`, one for each combination of places, by SciPy."""
    from scipy.ndimage import map_coordinates

    rows = max(1, _PIECE // math.prod(values.shape[1:]))
    for start in range(0, len(values), rows):
        shape = (min(rows, len(values) - start), *values.shape[1:])
        coordinates = np.empty((len(places), *shape))
        for axis, place in enumerate((places[0][start : start + rows], *places[1:])):
            coordinates[axis] = place.reshape([-1 if at == axis else 1 for at in range(len(places))])
        values[start : start + rows] = map_coordinates(array, coordinates, order=order, mode="nearest", prefilter=False)


def _between_four(coefficients: NDArray[np.floating], place: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Values of the spline at places along one axis: each from the four coefficients around it."""
    lower = np.floor(place).astype(np.intp)
    part = place - lower
    rest = 1 - part
    weights = (rest**3 / 6, 2 / 3 - part**2 * (2 - part) / 2, 2 / 3 - rest**2 * (2 - rest) / 2, part**3 / 6)
    shape = [-1 if at == axis else 1 for at in range(coefficients.ndim)]
    total: NDArray[np.float32] | None = None
    for step, weight in enumerate(weights, start=-1):
        taken = np.take(coefficients, lower + step, axis)
        taken *= weight.astype(np.float32).reshape(shape)
        if total is None:
            total = taken
        else:
            total += taken
    assert total is not None
    return total

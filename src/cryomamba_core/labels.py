"""Labels: what they are called, and the blocks in which a runner hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_core.errors import PluginFault
from cryomamba_core.geometry import Region


@frozen(kw_only=True)
class Label:
    """One value of a mask.

    Attributes
    ----------
    value
        The number in the mask; background is 0 and is not listed.
    name
        What it stands for, e.g. ``membrane``.
    color
        ``#rrggbb``, as viewers show it.
    """

    value: int
    name: str
    color: str


#: Colours for labels without one of their own, from the Okabe–Ito palette, which the colour-blind can tell apart.
PALETTE = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#999999")


def name_labels(names: dict[int, str]) -> tuple[Label, ...]:
    """Labels for `names` (value → name), ordered by value, background left out, coloured from `PALETTE`."""
    values = sorted(value for value in names if value != 0)
    return tuple(
        Label(value=value, name=names[value], color=PALETTE[index % len(PALETTE)]) for index, value in enumerate(values)
    )


def label_dtype(highest: int) -> np.dtype[Any]:
    """The type that holds label values up to `highest`: uint8, or uint16 above 255."""
    return np.dtype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)


@frozen(kw_only=True, eq=False)
class LabelBlock:
    """A piece of a label volume.

    Attributes
    ----------
    region
        Where it lies, in voxels of the source.
    labels
        ZYX array of uint8 or uint16, of the region's shape.
    provisional
        Whether a later block will replace it. Only blocks that are not provisional become the mask.
    companions
        For each name of `ModelRunner.companions` a ZYX array of uint8, of the region's shape; provisional blocks need
        none.
    """

    region: Region
    labels: NDArray[np.uint8 | np.uint16] = field()
    provisional: bool = False
    companions: Mapping[str, NDArray[np.uint8]] = field(factory=dict)

    @labels.validator
    def _fits(self, _: object, labels: NDArray[Any]) -> None:
        if labels.shape != self.region.shape:
            raise PluginFault(f"label block of shape {labels.shape} for a region of shape {self.region.shape}")
        if labels.dtype not in (np.uint8, np.uint16):
            raise PluginFault(f"label block of type {labels.dtype}", hint="labels are uint8 or uint16")

    @companions.validator
    def _lie_beside(self, _: object, companions: Mapping[str, NDArray[Any]]) -> None:
        for name, values in companions.items():
            if values.shape != self.region.shape:
                raise PluginFault(f"{name} of shape {values.shape} for a region of shape {self.region.shape}")
            if values.dtype != np.uint8:
                raise PluginFault(f"{name} of type {values.dtype}", hint="companions are uint8")

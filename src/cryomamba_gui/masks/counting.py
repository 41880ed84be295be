"""Labels that count how often they are read, so that whoever reads them tells how far it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.label_file import LabelArray
from cryomamba_gui.masks.converting import OnSections


class Passes:
    """Tells how far several passes over a mask are, each as long as the others.

    Parameters
    ----------
    sections
        Sections of the mask.
    passes
        How many there will be.
    on_progress
        Hears sections that are done and sections in all, over all passes; may raise to stop.
    """

    def __init__(self, sections: int, passes: int, on_progress: OnSections | None) -> None:
        self._sections = sections
        self._total = sections * passes
        self._before = 0
        self._on_progress = on_progress

    def report(self, done: int) -> None:
        """Take in how many sections of this pass are done."""
        if self._on_progress is not None:
            self._on_progress(min(self._before + min(done, self._sections), self._total), self._total)

    def end(self) -> None:
        """Go on to the next pass."""
        self._before += self._sections
        self.report(0)


class CountedLabels:
    """Labels that report each reading of a piece before it is made.

    Parameters
    ----------
    labels
        What is read.
    passes
        Hears how many sections' worth of voxels have been read; if it raises, so does the reading.
    """

    def __init__(self, labels: LabelArray, passes: Passes) -> None:
        self._labels = labels
        self._passes = passes
        self._read = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent (z, y, x) in voxels."""
        return self._labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type uint8 or uint16."""
        return self._labels.dtype

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        self._passes.report(self._read // math.prod(self.shape[1:]))
        piece = self._labels[index]
        self._read += piece.size
        return piece

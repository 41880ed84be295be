"""A volume for several threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.volumes import HeaderWarning, Volume


class SharedVolume(Volume):
    """A volume whose readers take turns, so that any thread may read it.

    Parameters
    ----------
    volume
        Used by nobody else, and closed with this one.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._turn = threading.Lock()

    @property
    def grid(self) -> VoxelGrid:
        return self._volume.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._volume.dtype

    @property
    def warnings(self) -> tuple[HeaderWarning, ...]:
        return self._volume.warnings

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._volume.metadata

    def read(self, region: Region) -> NDArray[Any]:
        with self._turn:
            return self._volume.read(region)

    def close(self) -> None:
        with self._turn:
            self._volume.close()

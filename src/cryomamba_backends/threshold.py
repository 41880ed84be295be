"""The threshold runner: every voxel that is bright (or dark) enough is foreground.

It needs no model, no GPU and no time: a stand-in while other parts are developed, and the shortest
complete example of a runner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from attrs import Attribute, field, frozen
from numpy.typing import NDArray

from cryomamba_core.errors import InvalidParameter
from cryomamba_core.geometry import Region, VoxelGrid, slab_depth
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import ModelRunner, RunContext
from cryomamba_core.labels import LabelBlock, name_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.volumes import Volume

cryomamba_api_version = 1

#: Bins between the lowest and the highest voxel: few outliers, as gold beads, must not fill the scale alone.
BINS = 4096
#: Voxels that are read at a time, so that an order to cancel is seen several times a second.
SLAB_VOXELS = 2 << 20
#: Memory for each voxel of a slab: the voxels, NumPy's copies of them as float64, and the labels.
BYTES_PER_VOXEL = 32


@hookimpl
def cryomamba_register_runners(register: Callable[[ModelRunner], None]) -> None:
    """Register the runner."""
    register(ThresholdRunner())


def _finite(_: object, attribute: Attribute[float | None], value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise InvalidParameter(f"{attribute.name} = {value} is no grey value", hint="leave it out for Otsu's threshold")


@frozen(kw_only=True)
class ThresholdParams:
    """Parameters of the threshold runner.

    Attributes
    ----------
    value
        Voxels of this grey value and above are foreground; None for Otsu's threshold.
    dark
        Whether the voxels below it are foreground instead.
    """

    value: float | None = field(
        default=None,
        validator=_finite,
        metadata={"help": "grey value from which on a voxel is foreground; Otsu's threshold if left out"},
    )
    dark: bool = field(default=False, metadata={"help": "take the voxels below the threshold instead"})


class ThresholdRunner(ModelRunner):
    """Segments by one grey value."""

    name = "threshold"
    params_type = ThresholdParams

    def models(self) -> Sequence[ModelInfo]:
        """The only model: there is nothing to install."""
        model = ModelInfo(
            name="threshold",
            runner=self.name,
            labels=name_labels({1: "foreground"}),
            description="every voxel from a grey value on; the grey value is given or found by Otsu's method",
            citation="Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979) 62-66",
        )
        return (model,)

    def plan(self, model: ModelInfo, grid: VoxelGrid, params: ThresholdParams, device: str) -> RunPlan:
        """One slab in memory at a time; Otsu's threshold takes a first pass over the volume."""
        depth = slab_depth(grid.shape, voxels=SLAB_VOXELS)
        passes = 2 if params.value is None else 1
        return RunPlan(
            tiles=passes * math.ceil(grid.shape[0] / depth),
            ram_bytes=depth * grid.shape[1] * grid.shape[2] * BYTES_PER_VOXEL,
        )

    def shard_bounds(
        self, model: ModelInfo, grid: VoxelGrid, params: ThresholdParams, device: str, count: int
    ) -> tuple[int, ...]:
        """Anywhere: no section depends on another."""
        count = min(count, grid.shape[0])
        return tuple(round(grid.shape[0] * piece / count) for piece in range(count + 1))

    def segment(self, volume: Volume, params: ThresholdParams, context: RunContext) -> Iterator[LabelBlock]:
        """Label the sections that are asked for slab by slab, from the first that is not final on."""
        grid = volume.grid
        wanted = context.rows(grid.shape[0])
        depth = slab_depth(grid.shape, voxels=SLAB_VOXELS)
        first = grid.whole if params.value is None else grid.region((0, 0, 0), (0, 0, 0))
        second = grid.region((context.final_rows, 0, 0), (wanted.stop, *grid.shape[1:]))
        steps = _Steps(context, total=len(list(first.slabs(depth))) + len(list(second.slabs(depth))))

        threshold = params.value
        if threshold is None:
            low, high = context.intensity.minimum, context.intensity.maximum
            histogram = np.zeros(BINS, np.int64)
            for region in steps.count(first.slabs(depth)):
                scaled = (volume.read(region).astype(np.float64) - low) * (BINS / (high - low))
                histogram += np.bincount(scaled.astype(np.intp).clip(0, BINS - 1).ravel(), minlength=BINS)
            threshold = low + (high - low) * otsu_split(histogram) / BINS
            context.note(f"Otsu's threshold is the grey value {threshold:.6g}.")

        for region in steps.count(second.slabs(depth)):
            bright = volume.read(region) >= np.float64(threshold)
            yield LabelBlock(region=region, labels=(bright != params.dark).view(np.uint8))


class _Steps:
    """Looks for the order to cancel before each slab, and reports each slab that is done."""

    def __init__(self, context: RunContext, *, total: int) -> None:
        self._context = context
        self._total = total
        self._done = 0

    def count(self, regions: Iterator[Region]) -> Iterator[Region]:
        for region in regions:
            self._context.checkpoint()
            yield region
            self._done += 1
            self._context.report(self._done, self._total, "slabs")


def otsu_split(histogram: NDArray[np.int64]) -> int:
    """The number of bins below the threshold that separates two classes best.

    Parameters
    ----------
    histogram
        Voxels in each of several bins of equal width; neither the first nor the last bin is empty.

    Notes
    -----
    Maximises the variance between the classes, σ²(k) = (μ ω(k) − μ(k))² / (ω(k) (1 − ω(k))),
    equation 18 of N. Otsu, "A threshold selection method from gray-level histograms", IEEE
    Transactions on Systems, Man, and Cybernetics 9 (1979) 62–66. The answer does not depend on the
    unit of the grey values, so bins are counted; nor on a constant factor, so numbers of voxels stand
    for the shares ω.
    """
    below = np.cumsum(histogram)[:-1].astype(np.float64)
    above = histogram.sum() - below
    moment = np.cumsum(histogram * np.arange(len(histogram)))
    mean = moment[-1] / histogram.sum()
    between = (mean * below - moment[:-1]) ** 2 / (below * above)
    return int(np.argmax(between)) + 1

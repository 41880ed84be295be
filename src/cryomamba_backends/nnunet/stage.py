"""One model over the part of a volume that is not zero; a cascade has two of them, and an ensemble those of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from attrs import evolve, frozen

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.forward import Forward, Work, mirrorings
from cryomamba_backends.nnunet.grid_change import GridChange
from cryomamba_backends.nnunet.guide import OUTSIDE, GuideRows, LabelPieces
from cryomamba_backends.nnunet.installed import RUNNER, FoldRecord, InstalledModel
from cryomamba_backends.nnunet.memory import Need, Place, Way, estimate_ram, estimate_vram, sums_bytes
from cryomamba_backends.nnunet.normalised_rows import Found, masking_bytes, normalised_rows, shown_rows
from cryomamba_backends.nnunet.params import NNUNetParams, SpacingRule
from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_backends.nnunet.preparing import prepared
from cryomamba_backends.nnunet.resampling import (
    ResampledRows,
    resampled_scores_bytes,
    resampling_bytes,
    scores_on_source,
)
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.scores import Hold, Scores, SingleScores, StockScores
from cryomamba_backends.nnunet.spacing import Verdict, judge_ratio, judge_spacing
from cryomamba_backends.nnunet.sweep import Freed, Sweep
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_core.errors import UnusableVolume
from cryomamba_core.geometry import Index3, Region, Vector3, VoxelGrid, to_index, to_vector
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@frozen(kw_only=True)
class Stage:
    """A model, and how it goes over a box.

    Attributes
    ----------
    installed, recipe, folds
        The model, its plans, and which of its networks are averaged.
    course
        Axes of the sweep, device and precision.
    change
        From the box's grid to the model's.
    grid
        Tiles over the latter.
    mirror_axes
        Combinations of model axes from `mirrorings`.
    notes
        Sentences for the user.
    """

    installed: InstalledModel
    recipe: ModelRecipe
    folds: tuple[FoldRecord, ...]
    course: Course
    change: GridChange
    grid: TileGrid
    mirror_axes: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]

    @classmethod
    def over(
        cls,
        extent: Index3,
        installed: InstalledModel,
        *,
        grid: VoxelGrid,
        folds: tuple[FoldRecord, ...],
        course: Course,
        params: NNUNetParams,
        reference: Vector3,
    ) -> Self:
        """A model over a box of `extent` (z, y, x) of a volume on `grid`.

        `reference` is the spacing, (z, y, x) in the unit of the training files, that the voxels of a volume stand for
        where they have no length, or nobody asks for it: that of the model which was installed, whatever stage or
        member of it this one is.

        Raises
        ------
        UnsupportedModel
            If the volume has to be resampled in a way that is not known.
        UnusableVolume
            If nothing would be left of it.
        """
        recipe = installed.recipe()
        wanted, verdict = _judge(installed, recipe, grid, reference, params.spacing)
        change = _grid_change(extent, recipe, grid, wanted, verdict, course.axes)
        notes = list(verdict.notes)
        axes = mirrorings(installed.record.mirroring_axes) if params.mirroring else ()
        if params.mirroring and not axes:
            notes.append("the model was trained without mirroring, so tiles are not mirrored")
        return cls(
            installed=installed,
            recipe=recipe,
            folds=folds,
            course=course,
            change=change,
            grid=TileGrid.over(change.target, to_index(recipe.patch[axis] for axis in course.order), params.step),
            mirror_axes=axes,
            notes=tuple(notes),
        )

    @property
    def images(self) -> int:
        """How many images of tiles go through a network."""
        return self.grid.tiles * len(self.folds) * (1 + len(self.mirror_axes))

    def images_for(self, rows: range) -> int:
        """How many images of tiles the scores of some rows of the box take, along the axis of the sweep."""
        steps = self.grid.steps(self.change.rows_on_target(rows)) if rows else rows
        return len(steps) * self.images // len(self.grid.starts[0])

    def guide_rows(self, rows: range) -> range:
        """Rows of the box whose labels by a stage before are read for the scores of some rows."""
        steps = self.grid.steps(self.change.rows_on_target(rows))
        first = self.grid.starts[0][steps.start] - self.grid.before[0]
        stop = self.grid.starts[0][steps.stop - 1] + self.grid.patch[0] - self.grid.before[0]
        target = range(max(0, first), min(stop, self.grid.extent[0]))
        if not self.change.changes:
            return target
        places = np.clip(np.floor(self.change.to_target(0)), 0, self.change.source[0] - 1).astype(int)
        return range(int(places[target.start]), min(int(places[target.stop - 1]) + 2, self.change.source[0]))

    def shard_bounds(self, count: int) -> tuple[int, ...]:
        """Rows of the box at which it is best cut into up to `count` pieces: where rows of tiles begin.

        A piece runs every row of tiles that touches it, so all but the first run some again that end in them.
        """
        starts, depth = self.grid.starts[0], self.grid.patch[0]
        count = min(count, len(starts))
        middle = len(starts) // 2
        again = sum(start + depth > starts[middle] for start in starts[:middle])
        each = (len(starts) + (count - 1) * again) / count
        bounds, step = [0], 0
        for piece in range(1, count):
            even = round(each + (piece - 1) * (each - again))
            step = max(step + 1, min(even, len(starts) - count + piece))
            row = starts[step] - self.grid.before[0]
            bounds.append(int(np.searchsorted(self.change.to_source(0), row)) if self.change.changes else row)
        return tuple(dict.fromkeys((*bounds, self.change.source[0])))

    def ram(self, way: Way) -> Need:
        """What the stage needs of the host's memory."""
        sweep = estimate_ram(
            self.recipe,
            self.grid,
            self.course,
            folds=len(self.folds),
            weight_bytes=self.weight_bytes,
            dtype=np.dtype(np.float32),
            way=way,
            mirrored=bool(self.mirror_axes),
            working=self.installed.record.working_bytes,
        )
        inputs = self.recipe.inputs
        resampling = resampling_bytes(
            self.change, channels=len(inputs), heads=self.recipe.labels.heads, exact=self.course.exact
        )
        masking = masking_bytes(inputs)
        return evolve(sweep, lasting=sweep.lasting + resampling + masking)

    def vram(self, place: Place, batch: int) -> Need:
        """What the stage needs of the device's memory, with its sums in a place; nothing on the CPU."""
        need = estimate_vram(
            self.recipe,
            self.grid,
            self.course,
            folds=len(self.folds),
            weight_bytes=self.weight_bytes,
            place=place,
            batch=batch,
            working=self.installed.record.working_bytes,
        )
        if self.course.device == "cpu" or place != "device":
            return need
        resampling = resampled_scores_bytes(self.change, heads=self.recipe.labels.heads, exact=False)
        return evolve(need, lasting=need.lasting + resampling)

    @property
    def sums_bytes(self) -> int:
        """The size of the stage's sums."""
        return sums_bytes(self.recipe, self.grid, self.course, folds=len(self.folds))

    @property
    def labels_bytes(self) -> int:
        """The size of all labels of the box."""
        return math.prod(self.change.source) * self.recipe.labels.dtype.itemsize

    @property
    def weight_bytes(self) -> int:
        """The size of all weights of its networks."""
        return sum(fold.size for fold in self.folds)

    @property
    def follows_all(self) -> bool:
        """Whether the stage before must be whole: its labels are part of a mask that some channel is normalised in."""
        return self.recipe.previous_stage is not None and any(channel.masked for channel in self.recipe.inputs)

    def rows(
        self, volume: Volume, box: Region, *, on_read: Callable[[], None], found: Found | None = None
    ) -> tuple[Rows, ...]:
        """Measure the normalisation on the voxels of a box; gives what reads each channel as the model wants it.

        `found` reads where a stage before has found something, in given axes; a mask holds these voxels, too.
        """
        read = normalised_rows(self.recipe, volume, box, self.course.axes, on_read=on_read, found=found)
        if not self.change.changes:
            return read
        return tuple(
            ResampledRows(rows, self.change, exact=self.course.exact, channel=channel)
            for channel, rows in enumerate(read)
        )

    def forward(self, work: Work, batch: int) -> Forward:
        """The networks, loaded, for so many tiles at once."""
        networks = [self._network(fold, self.course, work) for fold in self.folds]
        return Forward(
            networks=networks,
            mirror_axes=self.mirror_axes,
            course=self.course,
            work=work,
            batch=batch,
        )

    def rough_forward(self, work: Work) -> Forward:
        """One network, loaded for a pass whose labels are only looked at."""
        course = self.course.rough
        network = self._network(self.folds[0], course, work)
        return Forward(networks=[network], mirror_axes=(), course=course, work=work, batch=course.batch)

    def _network(self, fold: FoldRecord, course: Course, work: Work) -> torch.nn.Module:
        """One network as a course wants it, loaded unless an earlier job of this process has left it."""

        def load() -> torch.nn.Module:
            return prepared(self.installed.network(fold, self.recipe), course, self.recipe.patch)

        key = RUNNER, self.installed.network_key(fold, self.recipe), course.device, course.mode, course.precision
        return work.context.keep(key, load)

    def scores(
        self,
        rows: Sequence[Rows],
        forward: Forward,
        *,
        guide: GuideRows | None,
        first_row: int,
        hold: Hold,
        freed: Freed,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Mean scores on the grid of the box, in the axes of the sweep; see `scores_on_source`."""
        sweep = Sweep(grid=self.grid, rows=rows, guide=guide, forward=forward, sums=self._sums(hold), freed=freed)
        yield from scores_on_source(sweep.scores, self.change, first_row=first_row, exact=self.course.exact)

    def guide(
        self, volume: Volume, box: Region, labels: LabelPieces, change: GridChange, *, on_read: Callable[[], None]
    ) -> GuideRows:
        """Labels of this stage as channels of a next one, which has the grid of `change`."""
        shown = shown_rows(volume, box, self.course.axes, on_read=on_read) if change.changes else None

        def marked(first_row: int) -> Iterator[tuple[int, NDArray[np.integer]]]:
            for row, found in labels(first_row):
                piece = found.astype(np.int32)
                if shown is not None:
                    piece[(piece == 0) & (shown(row, row + len(piece)) == 0)] = OUTSIDE
                yield row, piece

        return GuideRows(marked, change, self.recipe.labels.foreground)

    def _sums(self, hold: Hold) -> Scores:
        kind = StockScores if self.course.exact else SingleScores
        return kind(folds=len(self.folds), heads=self.recipe.labels.heads, grid=self.grid, hold=hold)


def _judge(
    installed: InstalledModel, recipe: ModelRecipe, grid: VoxelGrid, reference: Vector3, rule: SpacingRule
) -> tuple[Vector3 | None, Verdict]:
    """Voxel size (z, y, x) in Å that a volume should have, and whether it is resampled for that."""
    size = installed.record.voxel_size
    if (size is None or rule == "voxels") and recipe.source_spacing != reference:
        spacings = zip(grid.voxel_size, recipe.source_spacing, reference, strict=True)
        wanted = _along_sections(recipe, grid, to_vector(length * own / its for length, own, its in spacings))
        name = installed.record.configuration
        return wanted, judge_ratio(grid, wanted, rule, recipe.resampling, name)
    expected = None if size is None else _along_sections(recipe, grid, size)
    return expected, judge_spacing(grid, expected, rule, recipe.resampling)


def _along_sections(recipe: ModelRecipe, grid: VoxelGrid, wanted: Vector3) -> Vector3:
    """A voxel size that a volume should have; between sections that are taken one by one it is its own."""
    across = recipe.transpose[0] if recipe.planar else None
    return to_vector(grid.voxel_size[axis] if axis == across else length for axis, length in enumerate(wanted))


def _grid_change(
    extent: Index3,
    recipe: ModelRecipe,
    grid: VoxelGrid,
    wanted: Vector3 | None,
    verdict: Verdict,
    axes: Index3,
) -> GridChange:
    turned = to_index(extent[axis] for axis in axes)
    if wanted is None or not verdict.resample:
        return GridChange.none(turned)
    size, target = (to_vector(lengths[axis] for axis in axes) for lengths in (grid.voxel_size, wanted))
    apart = math.prod(grid.shape[1:]), grid.shape[2], 1
    strides = to_index(apart[axis] for axis in axes)
    change = GridChange.between(
        turned,
        size,
        target,
        resampling=recipe.resampling,
        strides=strides,
        channels=len(recipe.inputs),
        heads=recipe.labels.heads,
    )
    if 0 in change.target:
        axis = axes[change.target.index(0)]
        length = extent[axis] * grid.voxel_size[axis]
        raise UnusableVolume(
            f"along {'ZYX'[axis]} the volume, or what of it is not zero, is {length:.4g} Å long: less than half a "
            f"voxel of {wanted[axis]:.4g} Å, for which it is resampled",
            hint="correct its voxel size with --voxel-size, or take a thicker part of the tomogram",
        )
    return change

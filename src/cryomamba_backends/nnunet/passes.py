"""What a run does over the part of a volume that is not zero: a coarse answer, a first stage, and final labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field, frozen

from cryomamba_backends.nnunet.blocks import Blocks
from cryomamba_backends.nnunet.coarse import CoarsePass, costs_little, tiles_touching
from cryomamba_backends.nnunet.costs import Costs
from cryomamba_backends.nnunet.first_labels import FirstLabels
from cryomamba_backends.nnunet.forward import Forward, Work
from cryomamba_backends.nnunet.guide import GuideRows, LabelPieces
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.placing import Placing
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.shortage import let_go, says_out
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.uncertainty import companions_of
from cryomamba_core.geometry import Region
from cryomamba_core.interfaces import RunContext
from cryomamba_core.labels import LabelBlock
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")


@frozen(kw_only=True)
class Part:
    """Rows of the box that a run gives labels to, and those of them that are not final from an earlier attempt."""

    rows: range
    left: range


@frozen(kw_only=True)
class Counted:
    """How many images of tiles there are.

    Attributes
    ----------
    work
        Counts them.
    images
        How many some rows of the box take, that are to be done.
    """

    work: Work
    images: Callable[[range], int] = field(repr=False)

    def begin(self, left: range) -> None:
        """Count all as done but those of rows that are left."""
        self.work.done = self.work.total - self.images(left)


@define(kw_only=True, eq=False)
class Passes:
    """The passes of a run.

    Attributes
    ----------
    stages
        The model, after the one that it goes on from if it is a cascade.
    volume, box
        What is segmented, and the part of it that is not zero.
    params
        Of the run.
    part
        What is asked for.
    labels
        Makes blocks of what is found.
    context
        Hears of it.
    """

    stages: Sequence[Stage]
    volume: Volume = field(repr=False)
    box: Region
    params: NNUNetParams
    part: Part
    labels: Blocks = field(repr=False)
    context: RunContext = field(repr=False)

    def blocks(self) -> Iterator[LabelBlock]:
        """Provisional and final blocks of the rows that are left."""
        *before, stage = self.stages
        costs = Costs(stages=self.stages, uncertain=self.params.uncertainty != "none")
        placing = Placing.chosen(costs, self.context)
        if not before:
            read = stage.rows(self.volume, self.box, on_read=self.context.checkpoint)
            counted = self._counted(stage.images_for)
            yield from self._coarse(read, counted, placing)
            yield from self._final(read, None, counted, placing)
        elif stage.follows_all:
            yield from self._after_all(before[0], placing)
        else:
            counted = self._counted(lambda left: stage.images_for(left) + before[0].images_for(stage.guide_rows(left)))
            rows = before[0].rows(self.volume, self.box, on_read=self.context.checkpoint)
            forward = before[0].forward(counted.work, placing.batch)
            guide = self._guide(before[0], lambda first: _labels(before[0], rows, forward, first, placing))
            read = stage.rows(self.volume, self.box, on_read=self.context.checkpoint)
            yield from self._final(read, guide, counted, placing)

    def _after_all(self, before: Stage, placing: Placing) -> Iterator[LabelBlock]:
        """Blocks of a second stage that begins when the first has labels for all of the box."""
        stage = self.stages[-1]
        with closing(FirstLabels(before, self.box, self.context)) as first:
            total = before.images + stage.images_for(self.part.rows)
            counted = self._counted(lambda left: before.images_for(first.left) + stage.images_for(left), total)
            yield from self._first(before, first, counted, placing)
            read = stage.rows(self.volume, self.box, on_read=self.context.checkpoint, found=first.found)
            yield from self._final(read, self._guide(before, first.pieces), counted, placing)

    def _first(self, before: Stage, first: FirstLabels, counted: Counted, placing: Placing) -> Iterator[LabelBlock]:
        """Fill `first`; its labels are a provisional answer."""
        if not first.left:
            return
        rows = before.rows(self.volume, self.box, on_read=self.context.checkpoint)
        forward = before.forward(counted.work, placing.batch)
        shown = self.context.previewed and self.params.coarse != "off"

        def pieces(left: range) -> Iterator[tuple[int, LabelBlock | None]]:
            counted.begin(self.part.left)
            for row, labels in _labels(before, rows, forward, left.start, placing):
                self.context.checkpoint()
                first.append(labels)
                part = range(max(row, self.part.left.start), min(row + len(labels), self.part.left.stop))
                block = None
                if part and shown:
                    region = Region(start=(part.start, 0, 0), stop=(part.stop, *labels.shape[1:]))
                    block = self.labels.provisional(region, labels[part.start - row : part.stop - row])
                yield row + len(labels), block

        yield from (block for block in _stepping_down(pieces, first.left, placing) if block is not None)

    def _counted(self, images: Callable[[range], int], total: int | None = None) -> Counted:
        """Counts images; where `total` is None they are as many as the rows take."""
        work = Work(context=self.context, total=images(self.part.rows) if total is None else total)
        counted = Counted(work=work, images=images)
        counted.begin(self.part.left)
        return counted

    def _guide(self, before: Stage, labels: LabelPieces) -> GuideRows:
        """What the network of the second stage is told."""
        change = self.stages[-1].change
        return before.guide(self.volume, self.box, labels, change, on_read=self.context.checkpoint)

    def _coarse(self, rows: Sequence[Rows], counted: Counted, placing: Placing) -> Iterator[LabelBlock]:
        """Provisional blocks of the rows that are left, if they are worth it; they end where memory runs out."""
        if self.params.coarse == "off" or not self.context.previewed:
            return
        work = counted.work
        known = work.total, work.done
        try:
            yield from self._provisional(rows, work, placing)
        except (MemoryError, RuntimeError) as error:
            if not says_out(error):
                raise
            let_go(error)
            work.total, work.done = known
            self.context.note("memory ran out during the coarse answer, which ended there")

    def _provisional(self, rows: Sequence[Rows], work: Work, placing: Placing) -> Iterator[LabelBlock]:
        stage, left = self.stages[-1], self.part.left
        grid = TileGrid.over(stage.change.target, stage.grid.patch, 1.0)
        tiles, images = tiles_touching(grid, stage.change, left), work.total - work.done
        much = 2 * len(left) > len(self.part.rows)
        by_itself = self.params.coarse == "auto"
        if by_itself and not (much and costs_little(tiles, images, exact=stage.course.exact)):
            return  # before a network is loaded for it
        coarse = CoarsePass(
            grid=grid,
            rows=rows,
            change=stage.change,
            forward=stage.rough_forward(work),
            decide=stage.recipe.labels.decide,
            first=self.labels.in_sweep(self.params.first_section),
            freed=placing.freed,
        )
        if by_itself and not coarse.is_needed(images):
            return
        work.total += tiles
        for region, piece in coarse.labels(left):
            self.context.checkpoint()
            yield self.labels.provisional(region, piece)

    def _final(
        self, rows: Sequence[Rows], guide: GuideRows | None, counted: Counted, placing: Placing
    ) -> Iterator[LabelBlock]:
        """Final blocks of the rows that are left."""
        stage = self.stages[-1]
        forward = stage.forward(counted.work, placing.batch)

        def pieces(left: range) -> Iterator[tuple[int, LabelBlock]]:
            counted.begin(left)
            yield from self._decided(rows, forward, guide and guide.anew(), left, placing)

        yield from _stepping_down(pieces, self.part.left, placing)

    def _decided(
        self, rows: Sequence[Rows], forward: Forward, guide: GuideRows | None, left: range, placing: Placing
    ) -> Iterator[tuple[int, LabelBlock]]:
        """Final blocks of rows of the box, each with the row behind its last."""
        stage = self.stages[-1]
        for row, scores in stage.scores(
            rows, forward, guide=guide, first_row=left.start, hold=placing.hold, freed=placing.freed
        ):
            self.context.checkpoint()
            wanted = scores[:, : left.stop - row]
            companions = companions_of(wanted, stage.recipe.labels, self.params.uncertainty)
            yield row + wanted.shape[1], self.labels.block(row, stage.recipe.labels.decide(wanted), companions)
            if row + scores.shape[1] >= left.stop:
                return


def _labels(
    stage: Stage, rows: Sequence[Rows], forward: Forward, first_row: int, placing: Placing
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Labels of a stage from a row of the box on, in the axes of the sweep, each piece with its first row."""
    for row, scores in stage.scores(
        rows, forward, guide=None, first_row=first_row, hold=placing.hold, freed=placing.freed
    ):
        yield row, stage.recipe.labels.decide(scores)


def _stepping_down(pieces: Callable[[range], Iterator[tuple[int, T]]], left: range, placing: Placing) -> Iterator[T]:
    """Pieces of some rows, each given with the row behind its last; where memory runs out, it goes on another way."""
    while True:
        try:
            for stop, piece in pieces(left):
                left = range(stop, left.stop)
                yield piece
        except (MemoryError, RuntimeError) as error:
            if not says_out(error):
                raise
            placing.step_down(left.start, error)
        else:
            return

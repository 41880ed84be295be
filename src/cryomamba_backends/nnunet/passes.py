"""What a run does over the part of a volume that is not zero: a coarse answer, first stages, and final labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field, frozen

from cryomamba_backends.nnunet.blocks import Blocks
from cryomamba_backends.nnunet.coarse import CoarsePass, costs_little, tiles_touching
from cryomamba_backends.nnunet.costs import Costs
from cryomamba_backends.nnunet.forward import Work
from cryomamba_backends.nnunet.members import Member, Scored, mean_probabilities
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.placing import Placing
from cryomamba_backends.nnunet.shortage import let_go, says_out
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.uncertainty import companions_of
from cryomamba_core.geometry import Region
from cryomamba_core.interfaces import RunContext
from cryomamba_core.labels import LabelBlock
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    import torch

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
    chains
        The models whose probabilities are averaged, each after the one that it goes on from if it is a cascade.
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

    chains: Sequence[Sequence[Stage]]
    volume: Volume = field(repr=False)
    box: Region
    params: NNUNetParams
    part: Part
    labels: Blocks = field(repr=False)
    context: RunContext = field(repr=False)

    def blocks(self) -> Iterator[LabelBlock]:
        """Provisional and final blocks of the rows that are left."""
        costs = Costs(chains=self.chains, uncertain=self.params.uncertainty != "none")
        placing = Placing.chosen(costs, self.context)
        with ExitStack() as opened:
            members = [
                opened.enter_context(Member(stages, self.volume, self.box, self.context, number))
                for number, stages in enumerate(self.chains)
            ]
            counted = self._counted(members)
            if members[0].before is None:
                yield from self._coarse(members[0], counted, placing)
            for member in members:
                yield from self._first(member, counted, placing)
            yield from self._final(members, counted, placing)

    def _counted(self, members: Sequence[Member]) -> Counted:
        work = Work(context=self.context, total=sum(member.all_images_for(self.part.rows) for member in members))
        counted = Counted(work=work, images=lambda left: sum(member.images_for(left) for member in members))
        counted.begin(self.part.left)
        return counted

    def _first(self, member: Member, counted: Counted, placing: Placing) -> Iterator[LabelBlock]:
        """Fill what a member cannot begin without; these labels are a provisional answer."""
        first = member.first
        if first is None or not first.left:
            return
        found = member.labels_before(counted.work, placing)
        shown = self.context.previewed and self.params.coarse != "off" and member.number == 0

        def pieces(left: range) -> Iterator[tuple[int, LabelBlock | None]]:
            counted.begin(self.part.left)
            for row, labels in found(left.start):
                self.context.checkpoint()
                first.append(labels)
                part = range(max(row, self.part.left.start), min(row + len(labels), self.part.left.stop))
                block = None
                if part and shown:
                    region = Region(start=(part.start, 0, 0), stop=(part.stop, *labels.shape[1:]))
                    block = self.labels.provisional(region, labels[part.start - row : part.stop - row])
                yield row + len(labels), block

        yield from (block for block in _stepping_down(pieces, first.left, placing) if block is not None)

    def _coarse(self, member: Member, counted: Counted, placing: Placing) -> Iterator[LabelBlock]:
        """Provisional blocks of the rows that are left, if they are worth it; they end where memory runs out."""
        if self.params.coarse == "off" or not self.context.previewed:
            return
        work = counted.work
        known = work.total, work.done
        try:
            yield from self._provisional(member, work, placing)
        except (MemoryError, RuntimeError) as error:
            if not says_out(error):
                raise
            let_go(error)
            work.total, work.done = known
            self.context.note("memory ran out during the coarse answer, which ended there")

    def _provisional(self, member: Member, work: Work, placing: Placing) -> Iterator[LabelBlock]:
        stage, left = member.stage, self.part.left
        grid = TileGrid.over(stage.change.target, stage.grid.patch, 1.0)
        tiles, images = tiles_touching(grid, stage.change, left), work.total - work.done
        much = 2 * len(left) > len(self.part.rows)
        by_itself = self.params.coarse == "auto"
        if by_itself and not (much and costs_little(tiles, images, exact=stage.course.exact)):
            return  # before a network is loaded for it
        coarse = CoarsePass(
            grid=grid,
            rows=member.rows,
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

    def _final(self, members: Sequence[Member], counted: Counted, placing: Placing) -> Iterator[LabelBlock]:
        """Final blocks of the rows that are left."""
        ready = [member.ready(counted.work, placing) for member in members]
        scheme = members[0].stage.recipe.labels

        def scored(first_row: int) -> Scored:
            answers = [scores(first_row) for scores in ready]
            return answers[0] if len(answers) == 1 else mean_probabilities(answers, scheme)

        def pieces(left: range) -> Iterator[tuple[int, LabelBlock]]:
            counted.begin(left)
            for row, scores in scored(left.start):
                self.context.checkpoint()
                wanted = scores[:, : left.stop - row]
                yield row + wanted.shape[1], self._decided(row, wanted)
                if row + scores.shape[1] >= left.stop:
                    return

        yield from _stepping_down(pieces, self.part.left, placing)

    def _decided(self, row: int, scores: torch.Tensor) -> LabelBlock:
        """A final block of rows of the box from `row` on, of scores, or of an ensemble's mean probabilities."""
        scheme, averaged = self.chains[0][-1].recipe.labels, len(self.chains) > 1
        labels = scheme.decide_mean(scores) if averaged else scheme.decide(scores)
        as_scores = scheme.as_scores(scores) if averaged and self.params.uncertainty != "none" else scores
        return self.labels.block(row, labels, companions_of(as_scores, scheme, self.params.uncertainty))


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

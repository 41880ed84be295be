"""What a run does over the part of a volume that is not zero: a coarse answer, first stages, and final labels.

Where the model has its mask tidied up when it is whole, what it finds is provisional until then.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from attrs import define, evolve, field, frozen

from cryomamba_backends.nnunet.aside import Aside, Listener
from cryomamba_backends.nnunet.beside import companions_of
from cryomamba_backends.nnunet.blocks import Blocks
from cryomamba_backends.nnunet.coarse import CoarsePass, costs_little, tiles_touching
from cryomamba_backends.nnunet.costs import Costs
from cryomamba_backends.nnunet.forward import Work
from cryomamba_backends.nnunet.members import Member, Scored, mean_probabilities
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.placing import Placing
from cryomamba_backends.nnunet.postprocessing import KeepLargest, apply_postprocessing
from cryomamba_backends.nnunet.shortage import let_go, says_out
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.whole_labels import WholeLabels, maker_of, pieces_of
from cryomamba_core.geometry import Region
from cryomamba_core.interfaces import RunContext
from cryomamba_core.labels import LabelBlock
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

T = TypeVar("T")


#: Makes a block of rows of the box, of the number of the first, their labels, and what lies beside them.
Take = Callable[[int, "NDArray[Any]", Mapping[str, "NDArray[np.uint8]"]], LabelBlock | None]


@frozen(kw_only=True)
class Part:
    """Rows of the box.

    Attributes
    ----------
    rows
        Those that a run gives labels to.
    left
        Those of them that are not there from an earlier attempt.
    shown
        Those of the latter that are previewed.
    """

    rows: range
    left: range
    shown: range


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
    steps
        What is done with the mask when it is whole.
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
    steps: tuple[KeepLargest, ...]
    labels: Blocks = field(repr=False)
    context: RunContext = field(repr=False)

    def blocks(self) -> Iterator[LabelBlock]:
        """Provisional and final blocks of the rows that are left."""
        yield from self._tidied() if self.steps else self._found(self.labels.block)

    def _found(self, take: Take) -> Iterator[LabelBlock]:
        """Provisional blocks, and what `take` makes of the labels of the rows that are left."""
        placing = Placing.chosen(Costs(chains=self.chains, params=self.params, steps=self.steps), self.context)
        hears = Aside(self.context) if self.chains[0][-1].course.apart else self.context
        with ExitStack() as opened:
            members = [
                opened.enter_context(Member(stages, self.volume, self.box, self.context, number, hears.checkpoint))
                for number, stages in enumerate(self.chains)
            ]
            counted = self._counted(members, hears)
            if members[0].before is None:
                yield from self._coarse(members[0], counted, placing)
            for member in members:
                yield from self._first(member, counted, placing)
            yield from self._decided(members, counted, placing, take)

    def _tidied(self) -> Iterator[LabelBlock]:
        """Blocks of a mask in which the largest of pieces stay: final when all of the box is known."""
        with closing(self._whole_mask()) as mask, mask.copied() as tidy:
            if mask.left:
                part = Part(rows=range(mask.left.stop), left=mask.left, shown=self.part.shown)
                yield from evolve(self, part=part)._found(partial(self._kept, mask))
            for row, labels in mask.pieces(0):
                self.context.checkpoint()
                tidy.write(Region(start=(row, 0, 0), stop=(row + len(labels), *labels.shape[1:])), labels)
            apply_postprocessing(tidy, self.steps, on_slab=self.context.checkpoint)
            for row, labels in pieces_of(tidy, self.part.left):
                self.context.checkpoint()
                yield self.labels.block(row, labels, mask.companions(row, row + len(labels)))

    def _whole_mask(self) -> WholeLabels:
        """All labels of the box, as far as an earlier attempt has found them."""
        stage = self.chains[0][-1]
        every = [each for stages in self.chains for each in stages]
        beside = [repr((self.params.uncertainty, self.params.probabilities))]
        return WholeLabels(
            "mask",
            made_by=maker_of(every, self.box, self.context, beside),
            extent=stage.change.source,
            axes=stage.course.axes,
            dtype=stage.recipe.labels.dtype,
            folder=self.context.lasting,
            companions=self.labels.companions,
        )

    def _kept(
        self, mask: WholeLabels, row: int, labels: NDArray[Any], companions: Mapping[str, NDArray[np.uint8]]
    ) -> LabelBlock | None:
        """Keep rows of a mask that is tidied up later, and show them."""
        mask.write(row, labels, companions)
        return self._shown(row, labels) if self.context.previewed else None

    def _shown(self, row: int, labels: NDArray[Any]) -> LabelBlock | None:
        """A provisional block of rows of the box, as far as they are previewed."""
        part = range(max(row, self.part.shown.start), min(row + len(labels), self.part.shown.stop))
        if not part:
            return None
        region = Region(start=(part.start, 0, 0), stop=(part.stop, *labels.shape[1:]))
        return self.labels.provisional(region, labels[part.start - row : part.stop - row])

    def _counted(self, members: Sequence[Member], hears: Listener) -> Counted:
        work = Work(context=hears, total=sum(member.all_images_for(self.part.rows) for member in members))
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

        def pieces(left: range) -> Generator[tuple[int, LabelBlock | None]]:
            counted.begin(self.part.left)
            for row, labels in found(left.start):
                counted.work.context.checkpoint()
                first.write(row, labels)
                yield row + len(labels), self._shown(row, labels) if shown else None

        yield from _stepping_down(pieces, first.left, counted.work, placing)

    def _coarse(self, member: Member, counted: Counted, placing: Placing) -> Iterator[LabelBlock]:
        """Provisional blocks of the rows that are previewed, if they are worth it; they end where memory runs out."""
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
        stage, shown = member.stage, self.part.shown
        grid = TileGrid.over(stage.change.target, stage.grid.patch, 1.0)
        tiles, images = tiles_touching(grid, stage.change, shown), work.total - work.done
        much = 2 * len(shown) > len(self.part.rows)
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
        with closing(work.each(coarse.labels(shown))) as found:
            for region, piece in found:
                self.context.checkpoint()
                yield self.labels.provisional(region, piece)

    def _decided(
        self, members: Sequence[Member], counted: Counted, placing: Placing, take: Take
    ) -> Iterator[LabelBlock]:
        """What `take` makes of the labels of the rows that are left."""
        ready = [member.ready(counted.work, placing) for member in members]
        scheme, averaged = members[0].stage.recipe.labels, len(members) > 1

        def scored(first_row: int) -> Scored:
            answers = [scores(first_row) for scores in ready]
            return mean_probabilities(answers, scheme) if averaged else answers[0]

        def pieces(left: range) -> Generator[tuple[int, LabelBlock | None]]:
            counted.begin(left)
            for row, scores in scored(left.start):
                counted.work.context.checkpoint()
                wanted = scores[:, : left.stop - row]
                labels = scheme.decide_mean(wanted) if averaged else scheme.decide(wanted)
                block = take(row, labels, self._companions(wanted, averaged=averaged))
                yield row + wanted.shape[1], block
                if row + scores.shape[1] >= left.stop:
                    return

        yield from _stepping_down(pieces, self.part.left, counted.work, placing)

    def _companions(self, values: torch.Tensor, *, averaged: bool) -> dict[str, NDArray[np.uint8]]:
        """What lies beside the labels of scores, or of an ensemble's mean probabilities."""
        if not self.labels.companions:
            return {}
        scheme = self.chains[0][-1].recipe.labels
        return companions_of(scheme.as_scores(values) if averaged else values, scheme, self.params)


def _stepping_down(
    pieces: Callable[[range], Generator[tuple[int, T | None]]], left: range, work: Work, placing: Placing
) -> Iterator[T]:
    """Pieces of some rows, each given with the row behind its last; where memory runs out, it goes on another way."""
    while True:
        try:
            with closing(work.each(pieces(left))) as found:
                for stop, piece in found:
                    left = range(stop, left.stop)
                    if piece is not None:
                        yield piece
        except (MemoryError, RuntimeError) as error:
            if not says_out(error):
                raise
            placing.step_down(left.start, error)
        else:
            return

"""The models of a run, each after the one that it goes on from, and the mean of what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from cryomamba_backends.nnunet.forward import Forward, Work
from cryomamba_backends.nnunet.guide import GuideRows
from cryomamba_backends.nnunet.label_scheme import LabelScheme
from cryomamba_backends.nnunet.placing import Placing
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.whole_labels import WholeLabels, first_labels
from cryomamba_core.geometry import Region
from cryomamba_core.interfaces import RunContext
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

#: Scores of some rows, the first of which is given: (heads, rows, y, x) in the axes of the sweep.
Scored = Iterator[tuple[int, "torch.Tensor"]]


class Member:
    """One model over the part of a volume that is not zero; an ensemble has several of them, all others have one.

    Parameters
    ----------
    stages
        The model, after the one that it goes on from if it is a cascade.
    volume, box
        What is segmented, and the part of it that is not zero.
    context
        Of the run.
    number
        Which of the run's models it is, from 0 on.
    on_read
        Called before voxels are read, by whichever thread reads them; may raise to stop.

    Attributes
    ----------
    stage, before
        The model, and the one that it goes on from; the latter is None but for a cascade.
    first
        All labels of the latter, where the model cannot begin without them; else None.
    number
        As given.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        volume: Volume,
        box: Region,
        context: RunContext,
        number: int,
        on_read: Callable[[], None],
    ) -> None:
        *before, self.stage = stages
        self.before = before[0] if before else None
        self.number = number
        self._volume, self._box, self._on_read = volume, box, on_read
        self.first: WholeLabels | None = None
        if self.before is not None and self.stage.follows_all:
            self.first = first_labels(self.before, box, context, number=number)

    def images_for(self, rows: range) -> int:
        """How many images of tiles are still to be run for some rows of the box."""
        images = self.stage.images_for(rows)
        if self.before is None:
            return images
        before = self.first.left if self.first is not None else self.stage.guide_rows(rows) if rows else rows
        return images + self.before.images_for(before)

    def all_images_for(self, rows: range) -> int:
        """As `images_for`, and those that an earlier attempt has run."""
        if self.before is None or self.first is None:
            return self.images_for(rows)
        return self.stage.images_for(rows) + self.before.images

    @cached_property
    def rows(self) -> tuple[Rows, ...]:
        """What reads the channels; labels that the model cannot begin without must be there."""
        found = self.first.found if self.first is not None else None
        return self.stage.rows(self._volume, self._box, on_read=self._on_read, found=found)

    @cached_property
    def rows_before(self) -> tuple[Rows, ...]:
        """What reads the channels for the stage before."""
        assert self.before is not None
        return self.before.rows(self._volume, self._box, on_read=self._on_read)

    def ready(self, work: Work, placing: Placing) -> Callable[[int], Scored]:
        """Load the networks; gives mean scores on the grid of the box, from any of its rows on."""
        guide = self._guide(work, placing)
        rows = self.rows
        forward = self.stage.forward(work, placing.batch)
        return lambda first: _scores(self.stage, rows, forward, guide and guide.anew(), first, placing)

    def labels_before(self, work: Work, placing: Placing) -> Callable[[int], Iterator[tuple[int, NDArray[Any]]]]:
        """Load the networks of the stage before; gives its labels in the axes of the sweep, from any row on."""
        assert self.before is not None
        before, rows = self.before, self.rows_before
        forward = before.forward(work, placing.batch)

        def labels(first: int) -> Iterator[tuple[int, NDArray[Any]]]:
            for row, scores in _scores(before, rows, forward, None, first, placing):
                yield row, before.recipe.labels.decide(scores)

        return labels

    def _guide(self, work: Work, placing: Placing) -> GuideRows | None:
        """What the networks are told of the labels of the stage before."""
        if self.before is None:
            return None
        labels = self.first.pieces if self.first is not None else self.labels_before(work, placing)
        return self.before.guide(self._volume, self._box, labels, self.stage.change, on_read=self._on_read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.first is not None:
            self.first.close()


def _scores(
    stage: Stage, rows: Sequence[Rows], forward: Forward, guide: GuideRows | None, first_row: int, placing: Placing
) -> Scored:
    return stage.scores(rows, forward, guide=guide, first_row=first_row, hold=placing.hold, freed=placing.freed)


def mean_probabilities(answers: Sequence[Scored], scheme: LabelScheme) -> Scored:
    """The mean of the probabilities of several models, added up in their order as ``nnUNetv2_ensemble`` does.

    Parameters
    ----------
    answers
        The scores of each, all from the same row on; pieces may be cut at other rows in each.
    scheme
        What the heads of all of them stand for.
    """
    with ExitStack() as opened:
        for answer in answers:
            opened.enter_context(closing(answer))  # type: ignore[type-var]  # all are generators
        pieces = [next(answer, None) for answer in answers]
        while all(piece is not None for piece in pieces):
            known = [piece for piece in pieces if piece is not None]
            count = min(scores.shape[1] for _, scores in known)
            mean = scheme.probabilities(known[0][1][:, :count])
            for _, scores in known[1:]:
                mean += scheme.probabilities(scores[:, :count])
            yield known[0][0], mean.div_(len(known))
            del mean  # else it is held while the networks run
            pieces = [
                (row + count, scores[:, count:]) if scores.shape[1] > count else next(answer, None)
                for answer, (row, scores) in zip(answers, known, strict=True)
            ]

"""How uncertain each label is, from the scores that it was decided by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cryomamba_backends.nnunet.label_scheme import LabelScheme
from cryomamba_backends.nnunet.params import UncertaintyRule
from cryomamba_backends.nnunet.piecewise import highest, measured
from cryomamba_core.companions import Companion

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

#: Of the companion, and of its files.
NAME = "uncertainty"

#: The share of a score that is further below the best one, perhaps infinitely far, is exactly 0 in single precision.
FURTHEST = 200.0

_MEANINGS: dict[UncertaintyRule, dict[bool, str]] = {
    "margin": {
        False: "0 where the best label is certain, 255 where the two best are equally probable: 255 (1 - p1 + p2)",
        True: "0 where every region is certain, 255 where one is as probable as not: 255 (1 - |2 p - 1|) of that one",
    },
    "entropy": {
        False: "0 where one label is certain, 255 where all are equally probable: 255 H(p) / log(labels)",
        True: "0 where every region is certain, 255 where one is as probable as not: 255 H(p) / log(2) of that one",
    },
}


def companion_of(scheme: LabelScheme, rule: UncertaintyRule, binning: int) -> Companion:
    """What is said of the volume; `rule` is not ``none``."""
    return Companion(name=NAME, meaning=_MEANINGS[rule][scheme.regions is not None], binning=binning)


def measure_uncertainty(scores: torch.Tensor, scheme: LabelScheme, rule: UncertaintyRule) -> NDArray[np.uint8]:
    """How uncertain the labels of some voxels are, from 0 for certain to 255.

    Parameters
    ----------
    scores
        (heads, z, y, x) without NaN, as for `LabelScheme.decide`; in any precision, they are taken in single.
    scheme
        What the heads stand for. Labels compete: their probabilities p are the softmax of the scores. Regions do not:
        the probability of each is the sigmoid of its score, and the voxel is as uncertain as its least certain region.
    rule
        ``margin``: ``1 - (p1 - p2)`` of the most and the next probable label, ``1 - |2 p - 1|`` of a region.
        ``entropy``: that of the probabilities, as a part of the one that as many equal ones have.

    Returns
    -------
    uncertainty
        (z, y, x), rounded to the nearest of 0 to 255.
    """
    of_piece = _of_regions if scheme.regions is not None else _of_labels

    def measure(part: torch.Tensor) -> Iterator[torch.Tensor]:
        yield of_piece(part, rule)

    return measured(scores, [NAME], measure)[NAME]


def _of_labels(scores: torch.Tensor, rule: UncertaintyRule) -> torch.Tensor:
    import torch

    best = highest(scores)
    total, other = torch.zeros_like(best), torch.zeros_like(best)
    if rule == "entropy":
        for head in scores:
            below = (head.float() - best).clamp_(min=-FURTHEST)  # 0 or less, so that nothing overflows
            share = torch.exp(below)
            total += share
            other += share.mul_(below)
        return (torch.log(total) - other / total) / math.log(len(scores))
    second, first = torch.zeros_like(best), torch.zeros_like(best)
    for head in scores:
        share = torch.exp(head.float() - best)
        total += share
        torch.maximum(second, torch.minimum(first, share), out=second)
        torch.maximum(first, share, out=first)
    return 1 - (first - second) / total


def _of_regions(scores: torch.Tensor, rule: UncertaintyRule) -> torch.Tensor:
    """Both measures of a region fall with the distance of its score from 0, so the smallest distance is enough."""
    import torch

    least = scores[0].float().abs()
    for head in scores[1:]:
        least = torch.minimum(least, head.float().abs())
    if rule == "margin":
        return 1 - torch.tanh(least / 2)
    least = least.clamp(max=FURTHEST)
    doubt = torch.sigmoid(-least)  # probability of the less probable answer
    return (torch.nn.functional.softplus(-least) + least * doubt) / math.log(2)

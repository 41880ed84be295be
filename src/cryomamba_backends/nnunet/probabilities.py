"""How probable each label is, from the scores that labels are decided by."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from cryomamba_backends.nnunet.label_scheme import LabelScheme
from cryomamba_backends.nnunet.params import ALL_LABELS
from cryomamba_backends.nnunet.piecewise import highest, measured
from cryomamba_core.companions import Companion
from cryomamba_core.errors import InvalidParameter

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

#: What the names of companions begin with.
PREFIX = "probability-"

#: Letters of a label's name that fit behind it, in the name of a companion.
MOST_LETTERS = 40 - len(PREFIX)


@frozen(kw_only=True)
class LabelHead:
    """A label, or a region, whose probability is asked for.

    Attributes
    ----------
    label
        As the model names it.
    value
        Of the label in the mask.
    name
        Of its companion.
    head
        Number of the network's output that scores it.
    """

    label: str
    value: int
    name: str
    head: int


def asked_heads(scheme: LabelScheme, asked: Sequence[str]) -> tuple[LabelHead, ...]:
    """The labels that are asked for by `NNUNetParams.probabilities`, in the order of their values in the mask.

    Raises
    ------
    InvalidParameter
        If the model has none of that name.
    """
    if not asked:
        return ()
    known = {label.name for label in scheme.labels}
    missing = [repr(name) for name in asked if name not in known]
    everything = tuple(asked) == (ALL_LABELS,)
    if missing and not everything:
        listed = ", ".join(label.name for label in scheme.labels)
        raise InvalidParameter(
            f"probabilities are asked for of {', '.join(missing)}, which the model does not have",
            hint=f"it has: {listed}; {ALL_LABELS} by itself stands for all of them",
        )
    names, heads = companion_names(scheme), _heads(scheme)
    return tuple(
        LabelHead(label=label.name, value=label.value, name=names[label.value], head=heads[label.value])
        for label in scheme.labels
        if everything or label.name in asked
    )


def companion_names(scheme: LabelScheme) -> dict[int, str]:
    """Mask value → name of the companion of a label, which is the same whatever else is asked for.

    It is made of the label's name, and of its value too where others would be called the same.
    """
    short = {value: _plain(name) for value, name in scheme.names.items()}
    count = Counter(short.values())
    made = {value: word if word and count[word] == 1 else _numbered(word, value) for value, word in short.items()}
    if len(set(made.values())) < len(made):  # a label is called as another one with its value
        made = {value: _numbered(word, value) for value, word in short.items()}
    return {value: f"{PREFIX}{word}" for value, word in made.items()}


def companion_of(asked: LabelHead, scheme: LabelScheme, binning: int) -> Companion:
    """What is said of the volume."""
    kind, by = ("label", "softmax of all scores") if scheme.regions is None else ("region", "sigmoid of its score")
    return Companion(
        name=asked.name,
        meaning=f"255 p, where p is the probability of the {kind} {asked.label}: the {by}",
        binning=binning,
        label=asked.value,
    )


def measure_probabilities(
    scores: torch.Tensor, scheme: LabelScheme, asked: Sequence[LabelHead]
) -> dict[str, NDArray[np.uint8]]:
    """How probable some labels are in some voxels, from 0 to 255 for certain; by the names of their companions.

    Parameters
    ----------
    scores
        (heads, z, y, x) without NaN, as for `LabelScheme.decide`; in any precision, they are taken in single.
    scheme
        What the heads stand for. Labels compete: their probabilities are the softmax of the scores. Regions do not: the
        probability of each is the sigmoid of its score.
    asked
        Labels of the scheme.

    Returns
    -------
    probabilities
        (z, y, x) each, rounded to the nearest of 0 to 255.
    """
    import torch

    def of_labels(part: torch.Tensor) -> Iterator[torch.Tensor]:
        best = highest(part)
        total = torch.zeros_like(best)
        for head in part:
            total += torch.exp(head.float() - best)  # of 0 or less, so that nothing overflows
        for each in asked:
            yield torch.exp(part[each.head].float() - best).div_(total)

    def of_regions(part: torch.Tensor) -> Iterator[torch.Tensor]:
        for each in asked:
            yield torch.sigmoid(part[each.head].float())

    names = [each.name for each in asked]
    return measured(scores, names, of_labels if scheme.regions is None else of_regions)


def _heads(scheme: LabelScheme) -> Mapping[int, int]:
    """Mask value → number of the head; of two regions with one value the later, which is painted over the earlier."""
    if scheme.regions is None:
        return {value: value for value in scheme.names}
    return {value: head for head, value in enumerate(scheme.regions)}


def _plain(name: str) -> str:
    """A label's name in lower-case letters, digits and hyphens; empty where it has no letter and no digit of ASCII."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", ascii_only).strip("-")[:MOST_LETTERS].rstrip("-")


def _numbered(word: str, value: int) -> str:
    """A word that ends with a label's value, as no other label's does."""
    ending = str(value)
    kept = word[: MOST_LETTERS - len(ending) - 1].rstrip("-")
    return f"{kept}-{ending}" if kept else ending

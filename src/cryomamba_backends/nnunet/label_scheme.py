"""From a network's scores to labels, as nnU-Net's label manager does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from cryomamba_core.errors import UnsupportedModel, UnusableModel
from cryomamba_core.labels import Label, label_dtype, name_labels

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

#: Highest value that fits a mask of uint16.
HIGHEST_LABEL = 65535


@frozen(kw_only=True)
class LabelScheme:
    """What a network's heads stand for.

    Attributes
    ----------
    names
        Mask value → name, background left out.
    regions
        Mask value of each head where heads are overlapping regions, later ones painted over
        earlier ones; None where the heads are background and the labels, of which the best wins.
    heads
        Number of outputs of the network.
    foreground
        Label values of the training data, background left out, ascending: what a cascade's second
        network is told of the first one's labels.
    """

    names: dict[int, str]
    regions: tuple[int, ...] | None
    heads: int = field()
    foreground: tuple[int, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        """Labels as users see them."""
        return name_labels(self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of voxels of a mask."""
        return label_dtype(max(self.names))

    def decide(self, scores: torch.Tensor) -> NDArray[np.uint8 | np.uint16]:
        """Labels of voxels.

        Parameters
        ----------
        scores
            (heads, z, y, x) in half or single precision, without NaN.

        Returns
        -------
        labels
            (z, y, x)
        """
        return self._decided(scores, sigmoid=True)

    def decide_mean(self, probabilities: torch.Tensor) -> NDArray[np.uint8 | np.uint16]:
        """Labels of voxels, from probabilities as `probabilities` gives them, or from a mean of several."""
        return self._decided(probabilities, sigmoid=False)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities (heads, z, y, x) in single precision: of labels they add up to 1, regions have one each."""
        import torch

        single = scores.float()
        return torch.sigmoid(single) if self.regions is not None else torch.softmax(single, 0)

    def as_scores(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Scores that have these probabilities, as far as single precision goes."""
        import torch

        least = torch.finfo(torch.float32).tiny
        if self.regions is not None:
            return torch.logit(probabilities, eps=torch.finfo(torch.float32).eps)
        return torch.log(probabilities.clamp_min(least))

    def _decided(self, values: torch.Tensor, *, sigmoid: bool) -> NDArray[np.uint8 | np.uint16]:
        """Labels of scores or of probabilities: regions are judged by the latter, which `sigmoid` makes of scores."""
        import torch

        wide = torch.uint8 if self.dtype.itemsize == 1 else torch.int32
        labels = torch.zeros(values.shape[1:], dtype=wide, device=values.device)
        if self.regions is not None:
            for head, value in enumerate(self.regions):
                probable = torch.sigmoid(values[head].float()) if sigmoid else values[head]
                labels.masked_fill_(probable > 0.5, value)
        else:
            best = values[0].clone()
            for head in range(1, self.heads):
                labels.masked_fill_(values[head] > best, head)
                torch.maximum(best, values[head], out=best)
        decided: NDArray[Any] = labels.cpu().numpy().astype(self.dtype, copy=False)
        return decided


def parse_label_scheme(dataset: dict[str, Any]) -> LabelScheme:
    """The label scheme of a ``dataset.json``.

    Raises
    ------
    UnusableModel
        If the labels contradict each other.
    UnsupportedModel
        If they do not fit a mask.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise UnusableModel("dataset.json names no labels with background 0")
    given = {str(name): value for name, value in labels.items() if name != "ignore"}
    for name, value in given.items():
        if not _values(value):
            raise UnusableModel(f"label {name!r} of dataset.json has the value {value!r}, which is no label")
    if any(isinstance(value, list) and len(value) > 1 for value in given.values()):
        scheme = _of_regions(given, dataset.get("regions_class_order"))
    else:
        scheme = _of_labels(given)
    if not scheme.names:
        raise UnusableModel("dataset.json has no label besides the background")
    if max(scheme.names) > HIGHEST_LABEL:
        raise UnsupportedModel(f"label value {max(scheme.names)} does not fit a mask of 16 bits")
    return scheme


def _values(value: object) -> tuple[int, ...]:
    values: list[Any] = value if isinstance(value, list) else [value]
    return tuple(values) if values and all(type(part) is int and part >= 0 for part in values) else ()


def _of_labels(given: dict[str, Any]) -> LabelScheme:
    names = {_values(value)[0]: name for name, value in given.items()}
    if sorted(names) != list(range(len(given))):
        raise UnusableModel(
            f"the labels of dataset.json are {sorted(names)}, not consecutive numbers from 0",
            hint="nnU-Net needs consecutive labels",
        )
    heads = len(names)
    del names[0]
    return LabelScheme(names=names, regions=None, heads=heads, foreground=tuple(sorted(names)))


def _of_regions(given: dict[str, Any], order: object) -> LabelScheme:
    regions = [name for name, value in given.items() if set(_values(value)) != {0}]
    if not isinstance(order, list) or len(order) != len(regions) or any(type(v) is not int or v < 1 for v in order):
        raise UnusableModel(
            f"dataset.json has {len(regions)} regions, but regions_class_order is {order!r}",
            hint="it must give a positive label to each region",
        )
    return LabelScheme(
        names=dict(zip(order, regions, strict=True)),
        regions=tuple(order),
        heads=len(regions),
        foreground=tuple(sorted({part for value in given.values() for part in _values(value)} - {0})),
    )

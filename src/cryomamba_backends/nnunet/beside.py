"""What a run writes beside its labels: how uncertain they are, and how probable each of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryomamba_backends.nnunet import probabilities, uncertainty
from cryomamba_backends.nnunet.label_scheme import LabelScheme
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.piecewise import measuring_bytes
from cryomamba_core.companions import Companion

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def companions_asked(scheme: LabelScheme, params: NNUNetParams) -> tuple[Companion, ...]:
    """What is asked for.

    Raises
    ------
    InvalidParameter
        If the probability of a label is that the model does not have.
    """
    asked = probabilities.asked_heads(scheme, params.probabilities)
    probable = tuple(probabilities.companion_of(each, scheme, params.probabilities_binning) for each in asked)
    if params.uncertainty == "none":
        return probable
    return uncertainty.companion_of(scheme, params.uncertainty, params.uncertainty_binning), *probable


def companions_of(scores: torch.Tensor, scheme: LabelScheme, params: NNUNetParams) -> dict[str, NDArray[np.uint8]]:
    """What a block of labels brings beside them, by the names of `companions_asked`.

    Parameters
    ----------
    scores
        (heads, z, y, x) without NaN, of which softmax or sigmoid make probabilities: for a mean of probabilities, the
        logarithms of those of labels, the logits of those of regions.
    scheme
        What the heads stand for.
    params
        Of the run.
    """
    made: dict[str, NDArray[np.uint8]] = {}
    if params.uncertainty != "none":
        made[uncertainty.NAME] = uncertainty.measure_uncertainty(scores, scheme, params.uncertainty)
    asked = probabilities.asked_heads(scheme, params.probabilities)
    if asked:
        made |= probabilities.measure_probabilities(scores, scheme, asked)
    return made


def beside_bytes(scheme: LabelScheme, params: NNUNetParams, row_voxels: int, *, device: str) -> tuple[int, int]:
    """What it takes of the host's and of the device's memory, in bytes, beside the scores.

    `row_voxels` are those of a row of the sweep.
    """
    return measuring_bytes(len(companions_asked(scheme, params)), row_voxels, device=device)

"""What fast mode makes of a network, held against the network as it was trained."""

from __future__ import annotations

import copy

from cryomamba_backends.nnunet.course import choose_course
from cryomamba_backends.nnunet.fixed_point import bytes_convolve
from cryomamba_backends.nnunet.installed import read_installed
from cryomamba_backends.nnunet.params import NNUNetParams, PrecisionRule
from cryomamba_backends.nnunet.preparing import prepared
from cryomamba_backends.nnunet.runner import NNUNetRunner
from cryomamba_core.models import ModelInfo

#: Share of voxels whose label may differ, of random networks, whose scores are near each other.
MOST: dict[PrecisionRule, float] = {"single": 1e-4, "fixed": 2e-3}


def assert_scores_are_kept(runner: NNUNetRunner, model: ModelInfo) -> None:
    """The scores of one tile are the same but for rounding, and decide the same labels."""
    import torch

    installed = read_installed(runner._settings.models_dir / model.name)
    recipe = installed.recipe()
    network = installed.network(installed.record.folds[0], recipe)
    tile = torch.randn((1, recipe.channels, *recipe.patch), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(tile)
        for precision, share in MOST.items() if bytes_convolve() else [("single", MOST["single"])]:
            course = choose_course(recipe, recipe.patch, NNUNetParams(mode="fast", precision=precision), "cpu")
            scores = prepared(copy.deepcopy(network), course, recipe.patch)(tile)
            assert (scores - expected).abs().max() < 1e-3 * expected.abs().max(), precision
            assert (scores.argmax(1) != expected.argmax(1)).float().mean() <= share, precision

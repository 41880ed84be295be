"""MONAI's sliding window over the same network."""

from __future__ import annotations

import itertools
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rig.nnunet.cases import Case, Outcome
from rig.nnunet.models import installed_model, stub_network
from rig.nnunet.watched import Clock, NetworkWatch, peak_mib

if TYPE_CHECKING:
    import torch

#: Rows of tiles that are buffered; the buffer goes along the first axis.
STEPS = 1


def run(case: Case, labels: Path | None) -> Outcome:
    """Infer the whole volume: half-overlapping tiles, weighted by a Gaussian, buffered row of tiles by row."""
    import dynamic_network_architectures.architectures.unet  # noqa: F401  # what follows belongs to the imports
    import mrcfile
    import safetensors.torch  # noqa: F401
    import torch
    from monai.inferers.utils import sliding_window_inference

    torch.set_num_threads(case.threads)
    watch, base = NetworkWatch(), peak_mib()
    clock = Clock()
    installed = installed_model(Path(case.data_dir))
    recipe = installed.recipe()
    network = stub_network(recipe.labels.heads) if case.stub else installed.network(installed.record.folds[0], recipe)
    watch.watch(network)

    def predict(tiles: torch.Tensor) -> torch.Tensor:
        scores = network(tiles)
        if case.mirroring:
            for axes in (axes for count in (1, 2, 3) for axes in itertools.combinations((2, 3, 4), count)):
                scores += torch.flip(network(torch.flip(tiles, axes)), axes)
        return scores

    volume = mrcfile.read(case.volume)
    volume = (volume - volume.mean()) / max(volume.std(), 1e-8)
    with torch.inference_mode():
        scores = sliding_window_inference(
            torch.from_numpy(volume)[None, None],
            roi_size=recipe.patch,
            sw_batch_size=1,
            predictor=predict,
            overlap=0.5,
            mode="gaussian",
            buffer_steps=STEPS,
            buffer_dim=0,
        )
        answer = scores[0].argmax(0).to(torch.uint8).numpy()
    whole, peak = clock.spent(), peak_mib()
    if labels:
        np.ascontiguousarray(answer).tofile(labels)
    return Outcome(
        whole=whole,
        network=watch.spent,
        passes=watch.passes,
        base=base,
        peak=peak,
        final=whole.wall,
        note=f"monai {metadata.version('monai')}: sliding_window_inference(mode='gaussian', overlap=0.5, "
        f"buffer_steps={STEPS}, buffer_dim=0)",
    )

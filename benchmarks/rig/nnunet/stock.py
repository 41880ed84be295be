"""Stock nnU-Net: ``nnUNetPredictor`` on the CPU."""

from __future__ import annotations

import os
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from rig.nnunet.cases import Case, Outcome
from rig.nnunet.models import stub_network
from rig.nnunet.watched import Clock, NetworkWatch, peak_mib, peak_vram_mib


def run(case: Case, labels: Path | None) -> Outcome:
    """Predict the whole volume as an array; its labels are an array too."""
    warnings.simplefilter("ignore")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, "unused")
    import dynamic_network_architectures.architectures.unet  # noqa: F401  # what it imports later
    import mrcfile
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer  # noqa: F401
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(case.threads)
    watch, base = NetworkWatch(case.device), peak_mib()
    clock = Clock()
    predictor = nnUNetPredictor(
        use_mirroring=case.mirroring,
        perform_everything_on_device=case.device != "cpu",
        device=torch.device(case.device),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(case.trained, use_folds=(0,))
    if case.stub:
        predictor.network = stub_network(predictor.label_manager.num_segmentation_heads)
        predictor.list_of_parameters = [{}]
    watch.watch(predictor.network)
    array = mrcfile.read(case.volume)
    spacing = list(predictor.configuration_manager.spacing)
    answer = predictor.predict_single_npy_array(array[None], {"spacing": spacing})
    whole, peak = clock.spent(), peak_mib()
    if labels:
        np.asarray(answer).astype(np.uint8).tofile(labels)
    return Outcome(
        whole=whole,
        network=watch.spent,
        passes=watch.passes,
        base=base,
        peak=peak,
        final=whole.wall,
        vram=peak_vram_mib(case.device),
        note=f"nnunetv2 {metadata.version('nnunetv2')}",
    )

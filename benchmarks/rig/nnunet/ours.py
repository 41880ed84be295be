"""The runner of this project, in one of its modes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rig.nnunet.cases import Case, Outcome
from rig.nnunet.models import installed_model, rows_of, stub_network
from rig.nnunet.watched import Clock, NetworkWatch, peak_mib, peak_vram_mib


def run(case: Case, labels: Path | None, *, mode: str, precision: str = "auto") -> Outcome:
    """Run it block by block, as a worker does; blocks go into a file if labels are to be kept, else nowhere."""
    import dynamic_network_architectures.architectures.unet  # noqa: F401  # what follows belongs to the imports
    import safetensors.torch  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import torch

    from cryomamba_backends.formats.mrc.reader import MrcReader
    from cryomamba_backends.nnunet.installed import InstalledModel
    from cryomamba_backends.nnunet.params import NNUNetParams
    from cryomamba_backends.nnunet.runner import NNUNetRunner
    from cryomamba_core.label_file import LabelFile
    from cryomamba_core.settings import Settings
    from cryomamba_core.testing.contexts import RecordingContext

    torch.set_num_threads(case.threads)
    params = NNUNetParams(mode=mode, precision=precision, mirroring=case.mirroring, spacing="voxels")
    runner = NNUNetRunner(Settings(data_dir=Path(case.data_dir), threads=case.threads))
    installed = installed_model(Path(case.data_dir))
    watch, load = NetworkWatch(case.device), InstalledModel.network
    heads = installed.recipe().labels.heads
    InstalledModel.network = lambda *its: watch.watch(stub_network(heads) if case.stub else load(*its))
    base = peak_mib()
    with ExitStack() as stack:
        volume = stack.enter_context(MrcReader().open(Path(case.volume)))
        plan = runner.plan(installed.info, volume.grid, params, case.device)
        context = RecordingContext(installed.info, volume, device=case.device)
        clock = Clock()
        kept = LabelFile(labels, volume.grid.shape, np.dtype(np.uint8), create=True) if labels else None
        if kept is not None:
            stack.enter_context(kept)
        coarse = final = None
        for block in runner.segment(volume, params, context):
            if block.provisional:
                coarse = clock.spent().wall
                continue
            final = final or clock.spent().wall
            if kept is not None:
                kept.write(block.region, block.labels)
        whole, peak = clock.spent(), peak_mib()
    return Outcome(
        whole=whole,
        network=watch.spent,
        passes=watch.passes,
        base=base,
        peak=peak,
        coarse=coarse,
        final=final,
        rows=rows_of(installed, volume.grid.shape, params, case.device),
        planned=None if case.stub else plan.ram_bytes / 2**20,
        vram=peak_vram_mib(case.device),
        vram_planned=plan.vram_bytes / 2**20,
        note=context.notes[0].partition(": ")[2],
    )

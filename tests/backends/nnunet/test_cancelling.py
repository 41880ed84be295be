"""What is left of a run that is cancelled in the middle of a tile: nothing."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from cryomamba_backends.nnunet.installed import InstalledModel
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.runner import BUNDLED, NNUNetRunner
from cryomamba_core.interfaces import JobCanceled
from cryomamba_core.settings import Settings
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.volumes import IntensityStatistics

MIB = 1 << 20
INTENSITY = IntensityStatistics(minimum=1.0, maximum=2.0, mean=1.5, standard_deviation=0.3)
#: A row of tiles of 64 voxels over this, of voxels and four sums, is 168 MiB in exact mode and 240 MiB in fast mode.
SHAPE = (320, 384, 512)
LEAST_HELD = 120 * MIB
#: What the allocator keeps, and libraries compile: less than `memory.FAST_KEEPS` and `memory.LIBRARIES`.
MOST_KEPT = 65 * MIB


class CancellingStub(torch.nn.Module):
    """A network without work during whose pass number `at` the run is cancelled."""

    def __init__(self, heads: int, context: RecordingContext, at: int) -> None:
        super().__init__()
        self.passes = 0
        self.resident = 0
        self._heads, self._context, self._at = heads, context, at

    def forward(self, tile: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.passes == self._at:
            self.resident = psutil.Process().memory_info().rss
            self._context.cancel()
        return tile.repeat(1, self._heads, 1, 1, 1)


def open_files() -> list[str]:
    """What this process has open, but for the listing itself."""
    return sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists())


def cancel_twice(mode: str, data_dir: Path) -> dict[str, object]:
    """Cancel two runs, and tell what the second one held and left; for a process of its own.

    Memory that other tests have freed, and the allocator has kept, would be used again: nothing would seem to be held.
    """
    runner = NNUNetRunner(Settings(data_dir=data_dir, threads=1))
    model = next(model for model in runner.models() if model.name == (BUNDLED / "cryomamba-demo").name)
    volume = ArrayVolume(np.broadcast_to(np.linspace(1, 2, SHAPE[2], dtype=np.float32), SHAPE))
    params = NNUNetParams(mode=mode, mirroring=False, coarse="off", spacing="voxels")

    def cancelled(at: int) -> CancellingStub:
        context = RecordingContext(model, volume, intensity=INTENSITY)
        stub = CancellingStub(len(model.labels) + 1, context, at)
        InstalledModel.network = lambda *_: stub  # type: ignore[method-assign]  # in this process alone
        with pytest.raises(JobCanceled):
            list(runner.segment(volume, params, context))
        return stub

    cancelled(1)  # loads what stays loaded
    gc.collect()
    threads, files, resident = threading.enumerate(), open_files(), psutil.Process().memory_info().rss
    stub = cancelled(5)
    gc.collect()
    return {
        "passes": stub.passes,
        "held": stub.resident - resident,
        "kept": psutil.Process().memory_info().rss - resident,
        "new threads": [thread.name for thread in threading.enumerate() if thread not in threads],
        "new files": [path for path in open_files() if path not in files],
    }


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc")
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_cancelled_run_ends_with_the_tile_that_it_is_at_and_gives_everything_back(mode, tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        told = alone.submit(cancel_twice, mode, tmp_path).result()
    assert told["passes"] == 5
    assert told["held"] > LEAST_HELD, "there was nothing to give back"
    assert (told["new threads"], told["new files"]) == ([], [])
    assert told["kept"] < MOST_KEPT

"""One run of an nnU-Net engine in a process of its own, measured."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import asdict, frozen

from cryomamba_backends.nnunet.runner import BUNDLED
from cryomamba_core.worker.run import peak_rss_bytes

Engine = Literal["stock", "exact", "fast"]

ENGINES: tuple[Engine, ...] = ("stock", "exact", "fast")
WRITER = Path(__file__).parents[2] / "tools" / "write_trained_folder.py"


@frozen(kw_only=True)
class Task:
    """What is run.

    Attributes
    ----------
    engine
        Stock nnU-Net, or our runner in one of its modes.
    model
        A trained-model folder.
    volume
        An MRC file.
    stub
        Whether a network without work replaces the real one: the shape may then be large while the run is short, and
        the sums, which are what grows, stay the real ones.
    mirroring
        Whether tiles are mirrored.
    threads
        Of PyTorch.
    """

    engine: Engine
    model: str
    volume: str
    stub: bool = False
    mirroring: bool = False
    threads: int = 2


@frozen(kw_only=True)
class Course:
    """How it went.

    Attributes
    ----------
    seconds
        From the first byte read to the last label.
    imported, ready, peak
        Largest resident size of the process in MiB: before the model was loaded, after its weights and one tile, and
        at the end.
    planned
        What our plan says that a run adds to `imported`, in MiB; without the network's part where a stub replaces it.
    coarse, final
        Seconds to a provisional label for every voxel, and to the first final ones; None where there are none.
    """

    seconds: float
    imported: float
    ready: float
    peak: float
    planned: float | None = None
    coarse: float | None = None
    final: float | None = None

    @property
    def added(self) -> float:
        """MiB that the run adds to a process that is ready."""
        return self.peak - self.ready


def measure(task: Task, *, labels: Path | None = None) -> Course:
    """Run it, and keep its labels as raw uint8 if asked to."""
    told = json.dumps({**asdict(task), "labels": str(labels) if labels else None})
    done = subprocess.run(
        [sys.executable, "-m", "rig.nnunet", told],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return Course(**json.loads(done.stdout.strip().splitlines()[-1]))


def demo_model(folder: Path) -> Path:
    """The model that comes with the package, as stock nnU-Net opens it."""
    subprocess.run([sys.executable, str(WRITER), str(BUNDLED / "cryomamba-demo"), str(folder)], check=True)
    return folder


def write_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """A synthetic tomogram, mirrored at its faces until the shape is filled."""
    import mrcfile

    from cryomamba_backends.demo.phantom import PhantomParameters, make_phantom

    piece = make_phantom(PhantomParameters(seed=1)).tomogram.astype(np.float32)
    picked = [_back_and_forth(size, wanted) for size, wanted in zip(piece.shape, shape, strict=True)]
    with mrcfile.new_mmap(path, shape, mrc_mode=2, overwrite=True) as file:
        for z, source in enumerate(picked[0]):
            file.data[z] = piece[source][np.ix_(*picked[1:])]
        file.voxel_size = 10.0


def _back_and_forth(size: int, wanted: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    index = np.arange(wanted) % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _peak_mib() -> float:
    """The most memory that this process has held; where Linux does not say it, that of its parent counts too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    return peak_rss_bytes() / 2**20


def _stub(heads: int) -> Any:
    import torch

    class Stub(torch.nn.Module):
        """A network without work that has the outputs of the real one."""

        def forward(self, tile: torch.Tensor) -> torch.Tensor:
            return tile.repeat(1, heads, 1, 1, 1)

    return Stub()


def _run_ours(task: Task, labels: Path | None) -> Course:
    import scipy.ndimage  # noqa: F401  # belongs to what is imported
    import torch

    from cryomamba_backends.formats.mrc.reader import MrcReader
    from cryomamba_backends.nnunet import installed
    from cryomamba_backends.nnunet.course import choose_course
    from cryomamba_backends.nnunet.memory import activation_bytes
    from cryomamba_backends.nnunet.params import NNUNetParams
    from cryomamba_backends.nnunet.runner import NNUNetRunner
    from cryomamba_core.label_file import LabelFile
    from cryomamba_core.settings import Settings
    from cryomamba_core.testing.contexts import RecordingContext

    torch.set_num_threads(task.threads)
    params = NNUNetParams(mode=task.engine, mirroring=task.mirroring, spacing="voxels")
    with tempfile.TemporaryDirectory() as folder, MrcReader().open(Path(task.volume)) as volume:
        runner = NNUNetRunner(Settings(data_dir=Path(folder), threads=task.threads))
        info = runner.install(Path(task.model), name="benchmark", options={"spacing_unit": "voxels"})
        found = installed.read_installed(Path(folder) / "models" / "benchmark")
        recipe = found.recipe()
        course = choose_course(recipe, volume.grid.shape, params, "cpu")
        planned = runner.plan(info, volume.grid, params, "cpu").ram_bytes
        if task.stub:
            scores = 2 * 4 * recipe.labels.heads * math.prod(recipe.patch)
            planned += scores - activation_bytes(recipe, course)
        imported = _peak_mib()
        network = found.network(found.record.folds[0], recipe)
        if task.stub:
            network = _stub(recipe.labels.heads)
            installed.InstalledModel.network = lambda *_: network
        with torch.inference_mode(), course.autocast():
            network(torch.zeros((1, 1, *recipe.patch)))
        ready = _peak_mib()
        kept = LabelFile(labels, volume.grid.shape, np.dtype(np.uint8), create=True) if labels else None
        context = RecordingContext(info, volume)
        begun = time.monotonic()
        coarse = final = None
        for block in runner.segment(volume, params, context):
            if block.provisional:
                coarse = time.monotonic() - begun
                continue
            final = final or time.monotonic() - begun
            if kept is not None:
                kept.write(block.region, block.labels)
        seconds, peak = time.monotonic() - begun, _peak_mib()
    return Course(
        seconds=seconds,
        imported=imported,
        ready=ready,
        peak=peak,
        planned=planned / 2**20,
        coarse=coarse,
        final=final,
    )


def _run_stock(task: Task, labels: Path | None) -> Course:
    warnings.simplefilter("ignore")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, "unused")
    import mrcfile
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(task.threads)
    predictor = nnUNetPredictor(
        use_mirroring=task.mirroring, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    imported = _peak_mib()
    predictor.initialize_from_trained_model_folder(task.model, use_folds=(0,))
    if task.stub:
        predictor.network = _stub(predictor.label_manager.num_segmentation_heads)
        predictor.list_of_parameters = [{}]
    with torch.inference_mode():
        predictor.network(torch.zeros((1, 1, *predictor.configuration_manager.patch_size)))
    ready = _peak_mib()
    begun = time.monotonic()
    array = mrcfile.read(task.volume)
    spacing = list(predictor.configuration_manager.spacing)
    answer = predictor.predict_single_npy_array(array[None], {"spacing": spacing})
    seconds, peak = time.monotonic() - begun, _peak_mib()
    if labels:
        np.asarray(answer).astype(np.uint8).tofile(labels)
    return Course(seconds=seconds, imported=imported, ready=ready, peak=peak)


def main() -> None:
    """Run the task of the command line and print how it went."""
    told = json.loads(sys.argv[1])
    labels = told.pop("labels")
    task = Task(**told)
    run = _run_stock if task.engine == "stock" else _run_ours
    print(json.dumps(asdict(run(task, Path(labels) if labels else None))))


if __name__ == "__main__":
    main()

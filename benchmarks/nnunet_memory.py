"""Peak memory of our nnU-Net runner and of stock nnU-Net when the depth of a volume doubles.

::

    python benchmarks/nnunet_memory.py [--model FOLDER] [--shape 128 192 192] [--stub] [--json FILE]

Every run has a process of its own. The base is the process's peak after all imports, the model's weights and one tile;
what is printed is what the run adds to it. ``--stub`` replaces the network by a copy of its input, so that the shape
may be large while the run is short: the accumulators, which are what grows, stay the real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cryomamba_backends.nnunet.runner import BUNDLED

LIMIT_MIB = 32
ENGINES = ("ours", "stock")
WRITER = Path(__file__).parents[1] / "tools" / "write_trained_folder.py"


def peak_mib() -> float:
    """Peak resident size of this process in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def stub_of(network: Any, heads: int) -> Any:
    """A network without work that has the outputs of the real one."""
    import torch

    class Stub(torch.nn.Module):
        def forward(self, tile: torch.Tensor) -> torch.Tensor:
            return tile.repeat(1, heads, 1, 1, 1)

    del network
    return Stub()


def run_ours(model: Path, volume_path: Path, *, stub: bool, threads: int) -> float:
    """MiB that our runner adds to the base."""
    import torch

    from cryomamba_backends.nnunet import installed
    from cryomamba_backends.nnunet.params import NNUNetParams
    from cryomamba_backends.nnunet.runner import NNUNetRunner
    from cryomamba_core.geometry import Region, VoxelGrid
    from cryomamba_core.settings import Settings
    from cryomamba_core.testing.contexts import RecordingContext
    from cryomamba_core.volumes import IntensityStatistics, Volume

    class FileVolume(Volume):
        """Reads a .npy file piece by piece, without a memory map."""

        def __init__(self, path: Path) -> None:
            self._stream = path.open("rb")
            np.lib.format.read_magic(self._stream)
            shape, _, self._dtype = np.lib.format.read_array_header_1_0(self._stream)
            self._start = self._stream.tell()
            self._grid = VoxelGrid(shape=shape, voxel_size=(1, 1, 1))

        @property
        def grid(self) -> VoxelGrid:
            return self._grid

        @property
        def dtype(self) -> Any:
            return self._dtype

        def read(self, region: Region) -> Any:
            _, y, x = self._grid.shape
            rows = region.shape[0]
            array = np.empty((rows, y, x), self._dtype)
            self._stream.seek(self._start + region.start[0] * y * x * self._dtype.itemsize)
            self._stream.readinto(memoryview(array).cast("B"))
            return np.ascontiguousarray(array[:, region.slices[1], region.slices[2]])

    with tempfile.TemporaryDirectory() as folder:
        runner = NNUNetRunner(Settings(data_dir=Path(folder), threads=threads))
        info = runner.install(model, name="benchmark", options={"spacing_unit": "voxels"})
        found = installed.read_installed(Path(folder) / "models" / "benchmark")
        recipe = found.recipe()
        network = found.network(found.record.folds[0], recipe)
        if stub:
            network = stub_of(network, recipe.labels.heads)
            installed.InstalledModel.network = lambda *_: network
        torch.set_num_threads(threads)
        import scipy.ndimage  # noqa: F401  # belongs to the base

        with torch.inference_mode():
            network(torch.zeros((1, 1, *recipe.patch)))
        base = peak_mib()
        params = NNUNetParams(mirroring=False)
        known = IntensityStatistics(minimum=0, maximum=1, mean=0, standard_deviation=1)  # the runner has its own
        for block in runner.segment(FileVolume(volume_path), params, RecordingContext(info, intensity=known)):
            assert block.labels.size
        return peak_mib() - base


def run_stock(model: Path, volume_path: Path, *, stub: bool, threads: int) -> float:
    """MiB that stock nnU-Net adds to the base, without what it needs to read the file."""
    warnings.simplefilter("ignore")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, "unused")
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(threads)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
    if stub:
        predictor.network = stub_of(predictor.network, predictor.label_manager.num_segmentation_heads)
        predictor.list_of_parameters = [{}]
    with torch.inference_mode():
        predictor.network(torch.zeros((1, 1, *predictor.configuration_manager.patch_size)))
    base = peak_mib()
    array = np.load(volume_path)
    spacing = predictor.configuration_manager.spacing
    predictor.predict_single_npy_array(array[None], {"spacing": list(spacing)})
    return peak_mib() - base


def measure(engine: str, options: argparse.Namespace, volume_path: Path) -> float:
    """Run an engine in a process of its own."""
    command = [sys.executable, __file__, "--model", str(options.model), "--threads", str(options.threads)]
    command += ["--stub"] if options.stub else []
    command += ["--engine", engine, "--volume", str(volume_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def demo_model(folder: Path) -> Path:
    """The model that comes with the package, as stock nnU-Net opens it."""
    subprocess.run([sys.executable, str(WRITER), str(BUNDLED / "cryomamba-demo"), str(folder)], check=True)
    return folder


def make_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """A volume of noise, written section by section."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    random = np.random.default_rng(0)
    for z in range(shape[0]):
        array[z] = random.normal(86, 12, shape[1:])
    array.flush()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="trained-model folder; the demo's model if left out")
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 192, 192), help="z y x; z is then doubled")
    parser.add_argument("--stub", action="store_true", help="a network without work")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--volume", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        run = {"ours": run_ours, "stock": run_stock}[options.engine]
        print(run(options.model, options.volume, stub=options.stub, threads=options.threads))
        return
    z, y, x = options.shape
    figures: dict[str, Any] = {"shape": [z, y, x], "stub": options.stub}
    with tempfile.TemporaryDirectory() as folder:
        options.model = options.model or demo_model(Path(folder) / "demo-model")
        for depth in (z, 2 * z):
            path = Path(folder) / f"{depth}.npy"
            make_volume(path, (depth, y, x))
            for engine in ENGINES:
                figures.setdefault(engine, {})[f"z={depth}"] = round(measure(engine, options, path), 1)
    print(f"{'engine':8}{f'{z}×{y}×{x}':>18}{f'{2 * z}×{y}×{x}':>18}{'added':>12}   MiB over the base")
    for engine in ENGINES:
        first, second = figures[engine].values()
        figures[engine]["added"] = round(second - first, 1)
        print(f"{engine:8}{first:18.0f}{second:18.0f}{second - first:12.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if figures["ours"]["added"] >= LIMIT_MIB:
        sys.exit(f"doubling the depth added {figures['ours']['added']} MiB, the limit is {LIMIT_MIB}")


if __name__ == "__main__":
    main()

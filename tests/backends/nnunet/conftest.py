"""A judge (stock nnU-Net), and ways to make volumes and models for it."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from attrs import frozen
from cascade_plans import cascaded
from write_trained_folder import write_trained_folder

from cryomamba_core.geometry import Region
from cryomamba_core.models import ModelInfo
from cryomamba_core.settings import Settings
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

from cryomamba_backends.nnunet.params import NNUNetParams  # noqa: E402
from cryomamba_backends.nnunet.runner import NNUNetRunner  # noqa: E402

#: More would wait for each other where tests of several parts share the cores.
THREADS = 1


@frozen
class Answer:
    """What a run gave."""

    labels: np.ndarray
    companions: dict[str, np.ndarray]
    blocks: list[Region]
    context: RecordingContext


@pytest.fixture
def runner(tmp_path: Path) -> NNUNetRunner:
    return NNUNetRunner(Settings(data_dir=tmp_path / "data", threads=THREADS))


@pytest.fixture(scope="session")
def answer_of() -> Callable[..., Answer]:
    """Run the runner over an array, in exact mode unless told, and put its final blocks together, each voxel once."""

    def run(
        runner: NNUNetRunner,
        model: ModelInfo,
        array: np.ndarray,
        *,
        final_rows: int = 0,
        scratch: Path | None = None,
        voxel_size: tuple[float, float, float] | None = None,
        **params: Any,
    ) -> Answer:
        volume = ArrayVolume(array, voxel_size=voxel_size or model.voxel_size or (1.0, 1.0, 1.0))
        context = RecordingContext(model, volume, final_rows=final_rows, scratch=scratch)
        chosen = NNUNetParams(**{"mode": "exact", "coarse": "off", **params})
        labels = np.full(volume.grid.shape, 255, np.uint8)
        times = np.zeros(volume.grid.shape, np.uint8)
        named = runner.companions(model, chosen)
        companions = {companion.name: np.full(volume.grid.shape, 77, np.uint8) for companion in named}
        blocks = []
        for block in runner.segment(volume, chosen, context):
            assert not block.provisional
            labels[block.region.slices] = block.labels
            times[block.region.slices] += 1
            for name, values in companions.items():
                values[block.region.slices] = block.companions[name]
            blocks.append(block.region)
        axis = runner.sweep_axis(model, volume.grid, chosen, "cpu")
        assert (np.moveaxis(times, axis, 0)[final_rows:] == 1).all()
        return Answer(labels, companions, blocks, context)

    return run


@pytest.fixture(scope="session")
def stock_labels() -> Iterator[Callable[..., np.ndarray]]:
    """Labels of stock nnU-Net for an array (z, y, x) or (channels, z, y, x), from a trained-model folder.

    ``spacing`` is (z, y, x) in the plans' unit; ``previous`` are the labels that a cascade goes on from. Given
    ``probabilities``, a function of scores (heads, z, y, x), what it makes of stock's is returned instead of labels;
    ``"stock"`` for the probabilities that stock itself makes of them.
    """
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, "unused")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    def predict(
        folder: Path,
        array: np.ndarray,
        *,
        mirroring: bool = True,
        step: float = 0.5,
        folds: tuple[int | str, ...] = (0,),
        spacing: Sequence[float] | None = None,
        previous: np.ndarray | None = None,
        probabilities: Callable[[np.ndarray], np.ndarray] | Literal["stock"] | None = None,
    ) -> np.ndarray:
        torch.set_num_threads(THREADS)
        spacing = list(spacing or _spacing_of(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor = nnUNetPredictor(
                tile_step_size=step,
                use_mirroring=mirroring,
                perform_everything_on_device=False,
                device=torch.device("cpu"),
                allow_tqdm=False,
            )
            predictor.initialize_from_trained_model_folder(str(folder), use_folds=folds)
            before = None if previous is None else previous[None].astype(np.float32)  # as nnU-Net reads it from files
            given = (array if array.ndim == 4 else array[None], {"spacing": spacing}, before)
            if probabilities is None:
                return np.asarray(predictor.predict_single_npy_array(*given))
            if probabilities != "stock":
                predictor.label_manager.inference_nonlin = lambda scores: torch.from_numpy(
                    probabilities(scores.numpy())
                )
            _, made = predictor.predict_single_npy_array(*given, save_or_return_probabilities=True)
            return np.asarray(made)

    return predict


def _spacing_of(folder: Path) -> list[float]:
    """The spacing (z, y, x) that the model was trained on."""
    plans = json.loads((folder / "plans.json").read_text())
    spacing = [0.0, 0.0, 0.0]
    for axis, length in zip(plans["transpose_forward"], plans["configurations"]["3d_fullres"]["spacing"], strict=True):
        spacing[axis] = length
    return spacing


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """A reproducible volume with structure in it: smooth blobs in noise."""

    def make(shape: tuple[int, int, int], dtype: str = "float32", seed: int = 0) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        random = np.random.default_rng(seed)
        blobs = gaussian_filter(random.normal(size=shape), 4)
        values = 86 + 12 * (blobs / blobs.std()) + random.normal(0, 8, shape)
        return np.clip(values, 1, 250).astype(dtype)

    return make


@pytest.fixture(scope="session")
def vesicles():
    """What tiny-tomo was trained on: dark shells and balls in noise, so that its answers are no coin tosses."""
    from scipy.ndimage import gaussian_filter

    def make(shape, seed=1):
        random = np.random.default_rng(seed)
        place = np.indices(shape, np.float32)
        density = np.zeros(shape, np.float32)
        count = 1 + round(np.prod(shape) / 150_000)
        for kind in ["shell", "ball", "ball", "ball", "ball"] * count:
            centre = random.uniform(0, 1, 3) * shape
            distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(place, centre, strict=True)))
            density[np.abs(distance - random.uniform(12, 24)) < 2 if kind == "shell" else distance < 4.5] = 1
        return (128 - 25 * gaussian_filter(density, 0.7) + random.normal(0, 6, shape)).astype(np.float32)

    return make


@pytest.fixture
def edited_model(tiny_tomo_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of tiny-tomo with other plans, labels or weights, as trained-model folders.

    ``plans`` and ``dataset`` are functions that change the content in place; ``checkpoint`` changes what fold 0's
    checkpoint holds; ``folds`` gives a seed for each fold: 0 for the weights as they are, others disturb them.
    """

    def edit(
        name: str = "edited",
        *,
        plans: Callable[[dict[str, Any]], None] | None = None,
        dataset: Callable[[dict[str, Any]], None] | None = None,
        checkpoint: Callable[[dict[str, Any]], None] | None = None,
        folds: dict[str, int] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, change in (("plans.json", plans), ("dataset.json", dataset)):
            content = json.loads((tiny_tomo_model / file).read_text())
            if change:
                change(content)
            (folder / file).write_text(json.dumps(content))
        original = torch.load(
            tiny_tomo_model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False
        )
        original.pop("optimizer_state")
        for fold, seed in (folds or {"0": 0}).items():
            content = copy.deepcopy(original)
            if seed:
                disturb(content["network_weights"], seed)
            if checkpoint:
                checkpoint(content)
            (folder / f"fold_{fold}").mkdir()
            torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder

    return edit


@pytest.fixture
def fresh_model(edited_model):
    """A model of any configuration whose weights are random, built by nnU-Net itself."""
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    def make(name, *, plans, folder=None, mirroring=(0, 1, 2), channels=1, heads=3, background=0.0, **others):
        def weights(content):
            described = {}

            def note(edited):
                plans(edited)
                described.update(edited["configurations"])

            note(content["init_args"]["plans"])
            architecture = described[name].get("architecture") or described["3d_fullres"]["architecture"]
            torch.manual_seed(3)
            network = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                channels,
                heads,
                deep_supervision=False,
            )
            content["network_weights"] = network.state_dict()
            last = max(key for key in content["network_weights"] if key.startswith("decoder.seg_layers."))
            content["network_weights"][last.replace("weight", "bias")][0] += background
            content["init_args"]["configuration"] = name
            content["inference_allowed_mirroring_axes"] = mirroring

        return edited_model(folder or name, plans=plans, checkpoint=weights, **others)

    return make


@pytest.fixture
def cascade(fresh_model):
    """Both folders of a cascade, the first one's and the second one's."""

    def make(*, plans=cascaded, inputs=1, labels=2, **others):
        named = {name: f"Trainer__Plans__{name}" for name in ("3d_lowres", "3d_cascade_fullres")}
        first = fresh_model(
            "3d_lowres", plans=plans, folder=named["3d_lowres"], channels=inputs, background=1.0, **others
        )
        name = "3d_cascade_fullres"
        return first, fresh_model(name, plans=plans, folder=named[name], channels=inputs + labels, **others)

    return make


def disturb(weights: dict[str, Any], seed: int) -> None:
    """Change weights a little; names that share one tensor still do."""
    generator = torch.Generator().manual_seed(seed)
    done: dict[int, Any] = {}
    for key, tensor in weights.items():
        if tensor.data_ptr() not in done:
            change = 0.05 * tensor.std() * torch.randn(tensor.shape, generator=generator) if tensor.numel() > 1 else 0
            done[tensor.data_ptr()] = tensor + change
        weights[key] = done[tensor.data_ptr()]


@pytest.fixture
def as_trained_folder(tmp_path: Path) -> Callable[[Path], Path]:
    """Write an installed model back as a trained-model folder that stock nnU-Net opens."""

    def write(installed: Path) -> Path:
        folder = tmp_path / f"{installed.name}-trained"
        write_trained_folder(installed, folder)
        return folder

    return write


@pytest.fixture
def with_threads():
    """Results of a function, from each count of threads."""
    import torch

    before = torch.get_num_threads()

    def run(function, *counts):
        results = []
        for count in counts:
            torch.set_num_threads(count)
            results.append(function())
        return results

    yield run
    torch.set_num_threads(before)

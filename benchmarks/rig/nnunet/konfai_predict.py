"""KonfAI's prediction workflow over the same network."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from rig.nnunet.cases import Case, Outcome
from rig.nnunet.models import installed_model, stub_network
from rig.nnunet.watched import Clock, NetworkWatch, peak_mib

#: Sections that are copied at a time.
SECTIONS = 8

#: Seconds between two looks at the file that it writes, and the size up to which that is a header.
LOOK, HEADER = 0.02, 4096

WATCH = NetworkWatch()


def network(data_dir: str, *, stub: bool) -> Any:
    """The network, as KonfAI finds it by its classpath."""
    installed = installed_model(Path(data_dir))
    recipe = installed.recipe()
    made = stub_network(recipe.labels.heads) if stub else installed.network(installed.record.folds[0], recipe)
    return WATCH.watch(made)


def run(case: Case, labels: Path | None) -> Outcome:
    """Predict from a file to a file.

    KonfAI writes section by section where it holds that worth its while, as a part of the machine's memory; here it
    always does, which needs least. Its own Gaussian weights the tiles.
    """
    os.environ["KONFAI_STREAM_WORTH_THRESHOLD"] = "0"
    import dynamic_network_architectures.architectures.unet  # noqa: F401  # what follows belongs to the imports
    import safetensors.torch  # noqa: F401
    import SimpleITK as sitk  # noqa: N813  # as its own documentation has it
    import torch
    from konfai import predictor  # noqa: F401
    from konfai.api import predict

    torch.set_num_threads(case.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patch = _lay_out(case, folder)
        tree = _tree(case, folder, patch)
        base = peak_mib()
        clock = Clock()
        with contextlib.redirect_stdout(sys.stderr), _FirstWritten(folder / "predictions") as written:
            weights = folder / "weights.pt"
            state = {
                f"Model.{key}": value for key, value in network(case.data_dir, stub=case.stub).state_dict().items()
            }
            torch.save({"Model": {"network": state}}, weights)
            workspace = predict(weights, tree, quiet=True, predictions_dir=folder / "predictions")
        whole, peak = clock.spent(), peak_mib()
        if labels:
            [answer] = workspace.rglob("*.mha")
            sitk.GetArrayFromImage(sitk.ReadImage(str(answer))).astype(np.uint8).tofile(labels)
    return Outcome(
        whole=whole,
        network=WATCH.spent,
        passes=WATCH.passes,
        base=base,
        peak=peak,
        final=written.after or whole.wall,
        note=f"konfai {metadata.version('konfai')}: konfai.predict with the same network, overlap of half a tile, "
        "its Gaussian, writing by slabs forced",
    )


def _lay_out(case: Case, folder: Path) -> list[int]:
    """Copy the volume to where and in the format in which KonfAI takes it; gives the patch."""
    import mrcfile

    target = folder / "volumes" / "case" / "tomogram.mha"
    target.parent.mkdir(parents=True)
    with mrcfile.mmap(case.volume) as file, target.open("wb") as stream:
        z, y, x = file.data.shape
        stream.write(
            f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            f"CompressedData = False\nOffset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = {x} {y} {z}\n"
            f"ElementType = MET_FLOAT\nElementDataFile = LOCAL\n".encode()
        )
    with Path(case.volume).open("rb") as source, target.open("ab") as stream:
        source.seek(-4 * z * y * x, os.SEEK_END)
        while piece := source.read(4 * y * x * SECTIONS):
            stream.write(piece)
    return list(installed_model(Path(case.data_dir)).recipe().patch)


def _tree(case: Case, folder: Path, patch: list[int]) -> dict[str, Any]:
    """What a Prediction.yml would say."""
    mirrors = {"mirrors": {"nb": 7, "data_augmentations": {"Flip": {"f_prob": [1, 1, 1], "prob": 1}}}}
    group = {"transforms": {"Standardize": {"inverse": False}}, "patch_transforms": None, "is_input": True}
    return {
        "Predictor": {
            "train_name": "run",
            "autocast": False,
            "combine": "Mean",
            "Model": {
                "classpath": f"{__name__}:network",
                "network": {
                    "data_dir": case.data_dir,
                    "stub": case.stub,
                    "in_channels": 1,
                    "dim": 3,
                    "outputs_criterions": None,
                    "ModelPatch": None,
                },
            },
            "Dataset": {
                "dataset_filenames": [f"{folder / 'volumes'}:mha"],
                "groups_src": {"tomogram": {"groups_dest": {"tomogram": group}}},
                "augmentations": mirrors if case.mirroring else None,
                "Patch": {
                    "patch_size": patch,
                    "overlap": patch[0] // 2,
                    "pad_value": 0,
                    "extend_slice": 0,
                },
                "batch_size": 1,
                "num_workers": 0,
                "pin_memory": False,
            },
            "outputs_dataset": {
                "Model": {
                    "OutputDataset": {
                        "name_class": "OutputDataset",
                        "before_reduction_transforms": None,
                        "after_reduction_transforms": None,
                        "final_transforms": {
                            "Argmax": {"dim": 0},
                            "TensorCast": {"dtype": "uint8", "inverse": False},
                        },
                        "patch_combine": "Gaussian",
                        "sigma_scale": 0.125,
                        "dataset_filename": "labels:mha",
                        "group": "labels",
                        "same_as_group": "tomogram:tomogram",
                        "reduction": "Mean",
                    }
                }
            },
        }
    }


class _FirstWritten:
    """Looks when a file of labels first holds more than a header, as a context.

    Attributes
    ----------
    after
        Seconds from the beginning of the context; 0 if it never did.
    """

    def __init__(self, folder: Path) -> None:
        self.after = 0.0
        self._clock = Clock()
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            if any(512 * path.stat().st_blocks > HEADER for path in self._folder.rglob("labels*.mha*")):
                self.after = self._clock.spent().wall
                return

    def __enter__(self) -> _FirstWritten:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

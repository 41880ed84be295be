"""What nnU-Net found in training to be worth doing with a finished mask: smaller pieces of a label are removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.label_scheme import LabelScheme
from cryomamba_backends.nnunet.trained_folder import read_json
from cryomamba_core.errors import UnsupportedModel, UnusableModel
from cryomamba_core.geometry import Index3, Region, slab_depth, to_index
from cryomamba_core.label_file import LabelArray
from cryomamba_core.measuring.components import LargestPieces, look_up, number_pieces
from cryomamba_core.measuring.labels import SLAB_VOXELS

#: The file that describes the steps; the pickle beside it names functions to import, and is never opened.
DESCRIPTION = "postprocessing.json"

#: The only function that nnU-Net has for this.
KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"

#: Bytes that a voxel of a slab takes: its mask, the numbers of its pieces, and the mask of those that stay.
_SLAB_BYTES = 6

#: Bytes for whatever does not grow with the volume, such as indices of the voxels that are looked at together.
_FIXED_BYTES = 16 << 20

#: Masks of networks have fewer pieces than one in so many voxels; the finest noise has one in 8.
_PIECE_VOXELS = 1000

#: Bytes that a piece takes while all are compared: its size, and what it is tied to.
_PIECE_BYTES = 80


class WritableLabels(LabelArray, Protocol):
    """Labels that are read and written piece by piece; a `LabelFile` is one."""

    def write(self, region: Region, labels: NDArray[Any]) -> None:
        """Write the labels of a region."""


@frozen(kw_only=True)
class KeepLargest:
    """One step: of the voxels that have any of some labels, only the largest connected piece stays.

    Voxels that share a face, an edge or a corner are connected, and pieces of equal size all stay.

    Attributes
    ----------
    labels
        Mask values that count together, ascending.
    background
        Mask value that the voxels of the other pieces get.
    """

    labels: tuple[int, ...]
    background: int = 0

    @property
    def told(self) -> str:
        """The step in words."""
        named = ", ".join(map(str, self.labels))
        return f"of label{'s' * (len(self.labels) > 1)} {named} only the largest connected piece stays"


def read_postprocessing(path: Path, scheme: LabelScheme) -> tuple[KeepLargest, ...]:
    """Read the steps that training has found, in the order in which they are applied; none is an answer, too.

    Parameters
    ----------
    path
        A ``postprocessing.json``, or the folder that it lies in. Nothing in it is trusted.
    scheme
        That of the model whose masks it is for.

    Raises
    ------
    UnusableModel
        If it is missing, broken, or meant for another model's labels.
    UnsupportedModel
        If it asks for something else than to keep largest pieces.
    """
    content = read_json(_description(path))
    names, arguments = content.get("postprocessing_fns"), content.get("postprocessing_kwargs")
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
        raise UnusableModel(
            f"{DESCRIPTION} has no postprocessing_fns with as many postprocessing_kwargs",
            hint="nnUNetv2_determine_postprocessing writes both",
        )
    most = 1 + max(len(scheme.names), len(scheme.foreground))
    if len(names) > most:
        raise UnusableModel(
            f"{DESCRIPTION} has {len(names)} steps, where training finds at most {most} for the labels of this model"
        )
    steps = (_step(*described, scheme) for described in zip(names, arguments, strict=True))
    return tuple(step for step in steps if step.labels)


def _description(path: Path) -> Path:
    if path.suffix == ".pkl":
        raise UnsupportedModel(
            f"{path.name} is a pickle, which can run any program when it is opened, and never is",
            hint=f"give the {DESCRIPTION} that nnU-Net writes beside it",
        )
    found = path / DESCRIPTION if path.is_dir() else path
    if not found.is_file():
        raise UnusableModel(
            f"there is no file {found}",
            hint=f"nnU-Net writes {DESCRIPTION} into the folder of the validation's masks, crossval_results_folds_…",
        )
    return found


def _step(name: object, arguments: object, scheme: LabelScheme) -> KeepLargest:
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UnusableModel(f"a step of {DESCRIPTION} is no name with named arguments")
    if name != KEEP_LARGEST:
        raise UnsupportedModel(
            f"{DESCRIPTION} asks for {name[:100]!r}, which is not supported", hint=f"only {KEEP_LARGEST} is"
        )
    for other in arguments.keys() - {"labels_or_regions", "background_label"}:
        raise UnsupportedModel(f"{DESCRIPTION} asks for {name} with {other[:100]!r}, which is not supported")
    labels, background = _labels(arguments.get("labels_or_regions")), arguments.get("background_label", 0)
    if not labels or type(background) is not int:
        raise UnusableModel(f"a step of {DESCRIPTION} has no whole numbers for its labels and its background")
    painted = {0, *scheme.names}
    unknown = (labels - painted - set(scheme.foreground)) | ({background} - painted)
    if unknown:
        raise UnusableModel(
            f"{DESCRIPTION} speaks of label {min(unknown)}, which masks of this model do not have",
            hint="give the file that was written for this model",
        )
    # nnU-Net names all labels of the training data, and where heads are regions, some of these may be painted by none.
    return KeepLargest(labels=tuple(sorted(labels & painted)), background=background)


def _labels(given: object) -> set[int]:
    """The labels of a step; none if they are not understood.

    One region of labels 1 and 2 is the tuple (1, 2) for nnU-Net, and labels 1 and 2 are a list of them. JSON has
    one way to write both, but nothing is lost: a voxel counts if any of them is its label, either way.
    """
    parts: list[Any] = given if isinstance(given, list) else [given]
    flat = [label for part in parts for label in (part if isinstance(part, list) else [part])]
    return set(flat) if all(type(label) is int for label in flat) else set()


def apply_postprocessing(
    labels: WritableLabels, steps: tuple[KeepLargest, ...], *, on_slab: Callable[[], None]
) -> None:
    """Change finished labels as nnU-Net does, slab by slab.

    Whoever may have to begin again gives it a copy: labels that are changed in part are no longer
    those that the first step is meant for, and other pieces may be the largest in them.

    Parameters
    ----------
    labels
        ZYX; changed in place. A file is not synced.
    steps
        Applied one after the other.
    on_slab
        Called twice for each slab and each step; may raise to stop.
    """
    shape = to_index(labels.shape)
    slabs = tuple(Region.of_shape(shape).slabs(slab_depth(shape, voxels=SLAB_VOXELS)))
    for step in steps:
        _keep_largest(labels, step, slabs, on_slab)


def _keep_largest(
    labels: WritableLabels, step: KeepLargest, slabs: tuple[Region, ...], on_slab: Callable[[], None]
) -> None:
    concerned = np.zeros(np.iinfo(labels.dtype).max + 1, np.bool_)
    concerned[list(step.labels)] = True
    pieces = LargestPieces((labels.shape[1], labels.shape[2]))
    for slab in slabs:
        pieces.add(look_up(concerned, labels[slab.slices]))
        on_slab()
    for slab, largest in zip(slabs, pieces.finish(), strict=True):
        if not largest[1:].all():
            labels.write(slab, _without_smaller(labels[slab.slices], concerned, largest, step.background))
        on_slab()


def _without_smaller(
    block: NDArray[Any], concerned: NDArray[np.bool_], largest: NDArray[np.bool_], background: int
) -> NDArray[Any]:
    mask = look_up(concerned, block)
    mask ^= look_up(largest, number_pieces(mask)[0])
    block[mask] = background
    return block


def postprocessing_bytes(shape: Index3, dtype: np.dtype[Any]) -> int:
    """Memory that `apply_postprocessing` takes at its peak, in bytes, besides the labels themselves.

    Enough for masks of up to one piece in 1000 voxels: each further one takes up to 80 bytes.

    Parameters
    ----------
    shape
        Extent (z, y, x) of the labels in voxels.
    dtype
        Their type.
    """
    section = (shape[1] + 2) * (shape[2] + 2)
    slab = slab_depth(shape, voxels=SLAB_VOXELS) * shape[1] * shape[2]
    pieces = shape[0] * shape[1] * shape[2] // _PIECE_VOXELS
    return _FIXED_BYTES + 4 * section + (_SLAB_BYTES + dtype.itemsize) * slab + _PIECE_BYTES * pieces

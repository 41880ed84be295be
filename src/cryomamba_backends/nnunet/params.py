"""What can be chosen for a run."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from attrs import Attribute, field, frozen

from cryomamba_core.companions import MAX_BINNING
from cryomamba_core.errors import InvalidParameter

Mode = Literal["exact", "fast"]
PrecisionRule = Literal["auto", "single", "fixed", "bfloat16", "float16"]
CoarseRule = Literal["auto", "on", "off"]
SpacingRule = Literal["strict", "tolerant", "voxels"]
UncertaintyRule = Literal["none", "margin", "entropy"]

MODES: tuple[Mode, ...] = ("exact", "fast")
PRECISION_RULES: tuple[PrecisionRule, ...] = ("auto", "single", "fixed", "bfloat16", "float16")
COARSE_RULES: tuple[CoarseRule, ...] = ("auto", "on", "off")
SPACING_RULES: tuple[SpacingRule, ...] = ("strict", "tolerant", "voxels")
UNCERTAINTY_RULES: tuple[UncertaintyRule, ...] = ("none", "margin", "entropy")

#: By itself it stands for every label of the model.
ALL_LABELS = "all"


def _one_of(*allowed: str) -> Any:
    def check(_: object, attribute: Attribute[str], value: object) -> None:
        if value not in allowed:
            raise InvalidParameter(
                f"{attribute.name} {value!r} is not known", hint=f"choose one of: {', '.join(allowed)}"
            )

    return check


def _flag(_: object, attribute: Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidParameter(f"{attribute.name} is true or false, not {value!r}")


def _step(_: object, __: object, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 1:
        raise InvalidParameter(
            f"step {value!r} is no fraction of a tile", hint="use a number above 0 and up to 1; 0.5 is nnU-Net's own"
        )


def _binning(_: object, attribute: Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_BINNING:
        raise InvalidParameter(
            f"{attribute.name} {value!r} is no number of voxels",
            hint=f"use 1, which is as fine as the mask, to {MAX_BINNING}",
        )


def _section(_: object, attribute: Attribute[str | None], value: object) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[zyx]=[0-9]{1,9}", value)):
        raise InvalidParameter(
            f"{attribute.name} {value!r} names no section", hint="write its axis and its number from 0 on, as in z=120"
        )


def _folds(_: object, __: object, value: tuple[int, ...] | None) -> None:
    if value is None:
        return
    numbers = isinstance(value, tuple) and all(isinstance(fold, int) and fold >= 0 for fold in value)
    if not numbers or not value or len(set(value)) != len(value):
        raise InvalidParameter(
            f"folds {value!r} are not different numbers of folds", hint="name them as in folds=0,1, or leave them out"
        )


def _labels(_: object, attribute: Attribute[tuple[str, ...]], value: object) -> None:
    words = isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)
    if not isinstance(value, tuple) or not words or len(set(value)) != len(value):
        raise InvalidParameter(
            f"{attribute.name} {value!r} are not different names of labels",
            hint=f"name them as in {attribute.name}=membrane,ribosome, write {ALL_LABELS} for all, or leave them out",
        )


@frozen(kw_only=True)
class NNUNetParams:
    """Parameters of a run.

    Attributes
    ----------
    mode
        ``fast`` adds up in single precision along the axis that needs least memory, with networks as
        `precision` says. ``exact`` gives the labels of stock nnU-Net on the CPU bit by bit.
    precision
        Of the networks in fast mode. ``auto`` is 16-bit fixed point (``fixed``) on a CPU with AMX, half
        precision (``float16``) on a GPU, else ``single``. ``bfloat16`` is twice as fast again on a CPU that has
        instructions for it, and misses stock's labels in 2 to 4 of 10,000 voxels.
    coarse
        Whether a coarse answer for the whole volume is previewed before the sweep: ``auto`` where it is
        ready long before the end and costs little.
    coarse_first
        Section that the coarse answer begins with, e.g. ``z=120``, counted from 0; None for its first tiles.
    mirroring
        Average over mirrored tiles where the model was trained with mirroring.
    step
        Distance of neighbouring tiles as a fraction of the tile's edge, above 0 and up to 1.
    folds
        Which folds to average; None for all that are installed.
    spacing
        ``tolerant``: voxel sizes within 1 % of the model's are taken as equal, others are resampled.
        ``strict``: whatever stock nnU-Net would resample is resampled. ``voxels``: never compared.
    postprocessing
        Whether smaller pieces of labels are removed at the end, where training has found that it helps and the model
        was installed with what it found.
    uncertainty
        What is written of each voxel beside its label: ``margin`` between the two most probable labels, ``entropy`` of
        the probabilities, or ``none``. See `cryomamba_backends.nnunet.uncertainty.measure_uncertainty`.
    uncertainty_binning
        Voxels, on every axis, over which the uncertainty is averaged, 1 to 64.
    probabilities
        Labels, or regions, whose probabilities are written beside the mask, as the model names them; ``all`` by itself
        stands for each of them. See `cryomamba_backends.nnunet.probabilities.measure_probabilities`.
    probabilities_binning
        Voxels, on every axis, over which each probability is averaged, 1 to 64.
    """

    mode: Mode = field(
        default="fast",
        validator=_one_of(*MODES),
        metadata={
            "help": "fast: stock nnU-Net's labels but for at most 1 voxel in 10,000, in less time; "
            "exact: stock nnU-Net's, bit by bit, on the CPU only"
        },
    )
    precision: PrecisionRule = field(
        default="auto",
        validator=_one_of(*PRECISION_RULES),
        metadata={
            "help": "of the networks in fast mode; auto: fixed on a CPU with AMX, float16 on a GPU, else single; "
            "bfloat16: faster on CPUs that have it, with up to 4 voxels in 10,000 that differ"
        },
    )
    coarse: CoarseRule = field(
        default="auto",
        validator=_one_of(*COARSE_RULES),
        metadata={
            "help": "preview a coarse answer for the whole volume first; auto: where it is ready long before the end"
        },
    )
    coarse_first: str | None = field(
        default=None,
        validator=_section,
        metadata={
            "help": "section that the coarse answer begins with, e.g. z=120, because somebody looks at it",
            "section": True,
        },
    )
    mirroring: bool = field(
        default=True,
        validator=_flag,
        metadata={"help": "average over mirrored tiles, as the model was trained (up to 8 times the work)"},
    )
    step: float = field(
        default=0.5,
        validator=_step,
        metadata={"help": "distance of tiles as a fraction of their edge, above 0 and up to 1; 0.5 is nnU-Net's own"},
    )
    folds: tuple[int, ...] | None = field(
        default=None, validator=_folds, metadata={"help": "folds to average, e.g. 0,1; all that are installed if empty"}
    )
    spacing: SpacingRule = field(
        default="tolerant",
        validator=_one_of(*SPACING_RULES),
        metadata={
            "help": "tolerant: more than 1 % from the model's voxel size is resampled; "
            "strict: so is all that stock nnU-Net would resample; voxels: do not compare"
        },
    )
    postprocessing: bool = field(
        default=True,
        validator=_flag,
        metadata={
            "help": "remove smaller pieces of labels at the end, if the model was installed with what training found"
        },
    )
    uncertainty: UncertaintyRule = field(
        default="none",
        validator=_one_of(*UNCERTAINTY_RULES),
        metadata={
            "help": "write how uncertain each label is, 0 to 255, beside the mask; margin: of the two most probable "
            "labels; entropy: of all"
        },
    )
    uncertainty_binning: int = field(
        default=1,
        validator=_binning,
        metadata={"help": "average the uncertainty over so many voxels on each axis; 1: as fine as the mask"},
    )
    probabilities: tuple[str, ...] = field(
        default=(),
        validator=_labels,
        metadata={
            "help": "write how probable each of these labels is, 0 to 255, beside the mask, e.g. membrane,ribosome; "
            "all: every label of the model",
            "labels": True,
        },
    )
    probabilities_binning: int = field(
        default=1,
        validator=_binning,
        metadata={"help": "average the probabilities over so many voxels on each axis; 1: as fine as the mask"},
    )

    @property
    def first_section(self) -> tuple[int, int] | None:
        """Axis (0 is Z) and number of the section that the coarse answer begins with."""
        if self.coarse_first is None:
            return None
        axis, _, number = self.coarse_first.partition("=")
        return "zyx".index(axis), int(number)

"""How a model's plans have volumes, scores and labels of another voxel size resampled."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from attrs import frozen

Method = Literal["splines", "torch", "never", "unknown"]

#: How PyTorch interpolates along an axis.
Mode = Literal["linear", "nearest", "nearest-exact"]

#: nnU-Net's functions that resample, and that leave volumes as they are.
METHODS: dict[str, Method] = {
    "resample_data_or_seg_to_shape": "splines",
    "resample_torch_fornnunet": "torch",
    "no_resampling_hack": "never",
}
SPLINES = "resample_data_or_seg_to_shape"

#: Voxels longer than this on one axis, by the ratio to the shortest, are resampled section by section.
ANISOTROPIC = 3.0

#: What nnU-Net's functions take for arguments that the plans leave out.
_BOTH = {"is_seg": False, "force_separate_z": None, "separate_z_anisotropy_threshold": ANISOTROPIC}
DEFAULTS: dict[Method, dict[str, Any]] = {
    "splines": {**_BOTH, "order": 3, "order_z": 0, "force_separate_z": False},
    "torch": {
        **_BOTH,
        "num_threads": 4,
        "device": "cpu",
        "memefficient_seg_resampling": False,
        "mode": "linear",
        "aniso_axis_mode": "nearest-exact",
    },
}


@frozen(kw_only=True)
class Interpolation:
    """What is resampled by one of nnU-Net's functions, and how.

    Attributes
    ----------
    method
        ``splines`` is nnU-Net's usual function: cubic for voxels, linear for scores and for each label. ``torch`` is
        that by PyTorch, linear for all. ``never`` leaves everything as it is; of an ``unknown`` one only the name is
        known.
    name
        Of nnU-Net's function.
    separate
        Whether sections across the axis of the longest voxels are resampled by themselves; None to judge.
    threshold
        Above which ratio of the longest to the shortest voxel they are, where that is judged.
    within, across
        How PyTorch interpolates such sections, and between them.
    frugal
        Whether PyTorch's labels are those of more than a half, not the highest.
    one_thread
        Whether PyTorch has one thread, where it takes another kernel for three sections.
    """

    method: Method
    name: str
    separate: bool | None = None
    threshold: float = ANISOTROPIC
    within: Mode = "linear"
    across: Mode = "nearest-exact"
    frugal: bool = False
    one_thread: bool = False


@frozen(kw_only=True)
class Resampling:
    """How volumes of another voxel size are brought to that of the model.

    Attributes
    ----------
    data
        How voxels are.
    scores
        How scores are brought back.
    labels
        How a cascade's second network is given the labels of the first; None where there is none.
    """

    data: Interpolation
    scores: Interpolation
    labels: Interpolation | None = None

    @classmethod
    def usual(cls, *, separate: bool | None = None) -> Resampling:
        """That of nnU-Net's own planner."""
        each = Interpolation(method="splines", name=SPLINES, separate=separate)
        return cls(data=each, scores=each, labels=each)

    @property
    def method(self) -> Literal["known", "never", "unknown"]:
        """Whether a volume can be resampled.

        Voxels that are never resampled give scores that need not be. Where only one of both is, stock nnU-Net fails.
        """
        others = [self.data, *([self.labels] if self.labels else [])]
        methods = {each.method for each in (*others, self.scores)}
        if "unknown" in methods:
            return "unknown"
        if all(each.method == "never" for each in others):
            return "never"
        return "unknown" if "never" in methods else "known"

    @property
    def name(self) -> str:
        """The names of nnU-Net's functions."""
        return " and ".join(sorted({each.name for each in (self.data, self.scores, self.labels) if each}))


def parse_resampling(chosen: dict[str, Any]) -> Resampling:
    """How a configuration of ``plans.json`` has volumes resampled; what cannot be done is ``unknown``."""
    labels = _interpolation(chosen, "seg", order=1, is_seg=True) if chosen.get("previous_stage") else None
    return Resampling(
        data=_interpolation(chosen, "data", order=3),
        scores=_interpolation(chosen, "probabilities", order=1),
        labels=labels,
    )


def _interpolation(chosen: dict[str, Any], what: str, *, order: int, is_seg: bool = False) -> Interpolation:
    name = str(chosen.get(f"resampling_fn_{what}", SPLINES))
    method = METHODS.get(name, "unknown")
    if method not in DEFAULTS:
        return Interpolation(method=method, name=name)
    usual = {"order": order, "is_seg": is_seg, "force_separate_z": None} if method == "splines" else {}
    given = chosen.get(f"resampling_fn_{what}_kwargs", usual)
    if not isinstance(given, dict) or not set(given) <= set(DEFAULTS[method]):
        return Interpolation(method="unknown", name=name)
    arguments = {**DEFAULTS[method], **given}
    separate, threshold = arguments["force_separate_z"], arguments["separate_z_anisotropy_threshold"]
    modes = _modes(arguments)
    known = (
        arguments["is_seg"] is is_seg
        and (separate is None or isinstance(separate, bool))
        and type(threshold) in (int, float)
        and math.isfinite(threshold)
        and (arguments["order"] == order and arguments["order_z"] == 0 if method == "splines" else _of_torch(arguments))
    )
    if not known or modes is None:
        return Interpolation(method="unknown", name=name)
    return Interpolation(
        method=method,
        name=name,
        separate=separate,
        threshold=float(threshold),
        within=modes[0],
        across=modes[1],
        frugal=is_seg and arguments.get("memefficient_seg_resampling", False),
        one_thread=arguments.get("num_threads") == 1,
    )


def _of_torch(arguments: dict[str, Any]) -> bool:
    threads = arguments["num_threads"]
    frugal = isinstance(arguments["memefficient_seg_resampling"], bool)
    return arguments["device"] == "cpu" and frugal and type(threads) is int and threads > 0


def _modes(arguments: dict[str, Any]) -> tuple[Mode, Mode] | None:
    """How sections are interpolated, and how between them, as usual where there are none; None if that is unknown."""
    if arguments["force_separate_z"] is False:
        arguments = DEFAULTS["torch"]
    within, across = (_mode(arguments.get(name, DEFAULTS["torch"][name])) for name in ("mode", "aniso_axis_mode"))
    return None if within is None or across is None else (within, across)


def _mode(name: object) -> Mode | None:
    for mode in get_args(Mode):
        if name == mode:
            return mode  # type: ignore[no-any-return]  # get_args has no types
    return None

"""How a model's spacing maps to Å, and whether a volume has to be resampled for it."""

from __future__ import annotations

from typing import Literal, get_args

from attrs import frozen

from cryomamba_backends.nnunet.params import SpacingRule
from cryomamba_backends.nnunet.resampling_plans import Resampling
from cryomamba_core.errors import InvalidParameter, UnsupportedModel
from cryomamba_core.geometry import Vector3, VoxelGrid, to_vector

SpacingUnit = Literal["angstrom-as-mm", "mm", "voxels"]

#: Å in one unit of the plans' spacing; with ``voxels`` it is no length.
_ANGSTROM: dict[SpacingUnit, float | None] = {"angstrom-as-mm": 1.0, "mm": 1e7, "voxels": None}

#: Relative difference up to which voxel sizes are taken as equal by the rule ``tolerant``.
TOLERANCE = 0.01

#: Above this a wrong header is likelier than a model for so different voxels.
DOUBTFUL = 1.0

#: Below this a difference is that of the digits in a header, and not worth a note.
NEGLIGIBLE = 1e-4


@frozen(kw_only=True)
class UnitGuess:
    """A unit, and why."""

    unit: SpacingUnit
    note: str


def spacing_unit(value: str) -> SpacingUnit:
    """A unit by its name.

    Raises
    ------
    InvalidParameter
        If there is none of this name.
    """
    for unit in get_args(SpacingUnit):
        if value == unit:
            return unit  # type: ignore[no-any-return]  # get_args has no types
    raise InvalidParameter(
        f"spacing_unit {value!r} is not known", hint=f"choose one of: {', '.join(get_args(SpacingUnit))}"
    )


def guess_unit(spacing: Vector3) -> UnitGuess:
    """The unit that the training files of a model most likely had.

    Raises
    ------
    InvalidParameter
        If several are as likely.
    """
    told = " × ".join(f"{length:g}" for length in spacing)
    if all(length == 1 for length in spacing):
        return UnitGuess(unit="voxels", note="the plans' spacing is 1, taken as voxels: voxel sizes are not compared")
    if all(2 <= length <= 60 for length in spacing):
        return UnitGuess(unit="angstrom-as-mm", note=f"the plans' spacing {told} was guessed to be in Å")
    if all(length < 1e-3 for length in spacing):
        return UnitGuess(unit="mm", note=f"the plans' spacing {told} was guessed to be in mm")
    raise InvalidParameter(
        f"the plans' spacing {told} may be in any unit",
        hint="install with spacing_unit set to angstrom-as-mm, mm, or voxels (never compared)",
    )


def in_angstrom(spacing: Vector3, unit: SpacingUnit) -> Vector3 | None:
    """A spacing in Å, or None where it is no length."""
    scale = _ANGSTROM[unit]
    return None if scale is None else to_vector(length * scale for length in spacing)


@frozen(kw_only=True)
class Verdict:
    """Whether a volume has to be resampled, and what the user should know of it."""

    resample: bool
    notes: tuple[str, ...] = ()


def judge_spacing(grid: VoxelGrid, expected: Vector3 | None, rule: SpacingRule, resampling: Resampling) -> Verdict:
    """Compare the size of a volume's voxels with that which a model was trained on.

    Parameters
    ----------
    grid
        Of the volume.
    expected
        Voxel size (z, y, x) in Å that the model was trained on; None where it does not matter.
    rule
        How large a difference may be.
    resampling
        How the model has it done.

    Raises
    ------
    UnsupportedModel
        If the volume has to be resampled in a way that is not known.
    """
    if expected is None:
        return Verdict(resample=False)
    worst = _worst(grid, expected)
    told = f"the voxel size is {_told(grid.voxel_size)} Å, the model was trained on {_told(expected)} Å"
    if rule == "voxels":
        notes = () if worst <= NEGLIGIBLE else (f"{told}; spacing=voxels ignores the difference",)
        return Verdict(resample=False, notes=notes)
    if resampling.method == "unknown" and _is_resampled(grid, expected, rule):
        raise UnsupportedModel(
            f"{told}: the plans have the volume resampled by {resampling.name}, which is not known",
            hint="rescale the volume, correct its voxel size with --voxel-size, or run with spacing=voxels",
        )
    doubt = "; if that is not so, correct it with --voxel-size" if worst > DOUBTFUL else ""
    return _verdict(told, grid, expected, rule, resampling, doubt)


def judge_ratio(grid: VoxelGrid, expected: Vector3, rule: SpacingRule, resampling: Resampling, name: str) -> Verdict:
    """The same for a model of a run whose voxels are others than those of the one that was installed.

    Whatever voxels are taken for those of the latter, this one's are larger or smaller by the ratio of both spacings.

    Parameters
    ----------
    grid
        Of the volume.
    expected
        Size (z, y, x) in Å that a voxel stands for if those of `grid` are what the installed model was trained on.
    rule, resampling
        As in `judge_spacing`; a ratio counts with the rule ``voxels``, too.
    name
        Of the model's configuration.

    Raises
    ------
    UnsupportedModel
        If the volume has to be resampled in a way that is not known.
    """
    ratio = to_vector(wanted / size for wanted, size in zip(expected, grid.voxel_size, strict=True))
    told = f"{name} takes voxels of {_told(ratio)} times the size"
    rule = "strict" if rule == "voxels" else rule
    if resampling.method == "unknown" and _is_resampled(grid, expected, rule):
        raise UnsupportedModel(
            f"{told}: its plans have the volume resampled by {resampling.name}, which is not known",
            hint="install a model that does without it",
        )
    return _verdict(told, grid, expected, rule, resampling)


def _verdict(
    told: str, grid: VoxelGrid, expected: Vector3, rule: SpacingRule, resampling: Resampling, doubt: str = ""
) -> Verdict:
    differs = _worst(grid, expected) > NEGLIGIBLE
    if resampling.method == "never" and differs:
        return Verdict(resample=False, notes=(f"{told}; its plans say never to resample",))
    if _is_resampled(grid, expected, rule):
        note = f"{told}: the volume is resampled for the model, and its scores are resampled back{doubt}"
        return Verdict(resample=True, notes=(note,))
    return Verdict(resample=False, notes=(f"{told}; it runs without resampling",) if differs else ())


def _worst(grid: VoxelGrid, expected: Vector3) -> float:
    return max(abs(size / wanted - 1) for size, wanted in zip(grid.voxel_size, expected, strict=True))


def _is_resampled(grid: VoxelGrid, expected: Vector3, rule: SpacingRule) -> bool:
    return _stock_would_resample(grid, expected) and (rule == "strict" or _worst(grid, expected) >= TOLERANCE)


def _stock_would_resample(grid: VoxelGrid, expected: Vector3) -> bool:
    sizes = zip(grid.voxel_size, expected, grid.shape, strict=True)
    return any(round(size / wanted * count) != count for size, wanted, count in sizes)


def _told(size: Vector3) -> str:
    first = f"{size[0]:.4g}"
    return first if all(f"{part:.4g}" == first for part in size) else " × ".join(f"{part:.4g}" for part in size)

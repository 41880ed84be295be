"""What is known of a model without loading its weights."""

from __future__ import annotations

from attrs import field, frozen

from cryomamba_core.errors import UnusableModel
from cryomamba_core.geometry import Vector3
from cryomamba_core.labels import Label


@frozen(kw_only=True)
class ModelInfo:
    """A model as users see it.

    Attributes
    ----------
    name
        The name under which it is installed.
    runner
        Name of the runner that runs it.
    labels
        What it segments, background left out, ordered by value.
    voxel_size
        Voxel size (z, y, x) in Å that it expects, or None where any will do.
    digest
        SHA-256 (hex) over what decides its labels; empty for a runner without weights.
    description, licence, citation
        For people; may be empty.
    details
        Further facts as the runner words them, e.g. ``{"patch": "64 × 64 × 64"}``.
    """

    name: str
    runner: str
    labels: tuple[Label, ...]
    voxel_size: Vector3 | None = None
    digest: str = ""
    description: str = ""
    licence: str = ""
    citation: str = ""
    details: dict[str, str] = field(factory=dict)

    @property
    def highest_label(self) -> int:
        """The largest label value."""
        return max((label.value for label in self.labels), default=1)


def model_replaced(name: str) -> UnusableModel:
    """The error of work that was begun with another model than the one that has its name now."""
    return UnusableModel(
        f"the model {name!r} was replaced by another one of the same name",
        hint="submit the job again, or install the model that it was made for",
    )

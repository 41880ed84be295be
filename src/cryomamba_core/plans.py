"""What a job will cost, said before it runs."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class RunPlan:
    """What a runner expects of a run.

    Attributes
    ----------
    tiles
        Units of work; progress counts them.
    ram_bytes, vram_bytes
        Peak memory of the host and of the device above what the process needs when idle.
    seconds
        Expected wall time, or None when it is not known.
    notes
        Decisions that the user should know of, one sentence each.
    """

    tiles: int
    ram_bytes: int
    vram_bytes: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()


@frozen(kw_only=True)
class JobPlan:
    """A run plan, and when it could start.

    Attributes
    ----------
    run
        What the runner expects; its time, if it does not know it, as such jobs have taken before.
    device
        Where it would run, e.g. ``cpu``.
    queue_position
        How many jobs would run first.
    starts_in_seconds
        Expected time to its start, in seconds; None when it is not known.
    """

    run: RunPlan
    device: str
    queue_position: int
    starts_in_seconds: float | None = None

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
        Peak memory of the host and of the device above what the process needs when idle; of each shard.
    disk_bytes
        Files of the runner's own in the job's folder, at their largest: without labels and what lies beside them, which
        the worker keeps for every runner; of each shard.
    seconds
        Expected wall time, or None when it is not known.
    notes
        Decisions that the user should know of, one sentence each.
    shards, shards_at_once
        Workers that share the volume, and how many of them run at the same time.
    """

    tiles: int
    ram_bytes: int
    vram_bytes: int = 0
    disk_bytes: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    shards: int = 1
    shards_at_once: int = 1


@frozen(kw_only=True)
class JobPlan:
    """A run plan, and when it could start.

    Attributes
    ----------
    run
        What the runner expects; its time, if it does not know it, as such jobs have taken before.
    device
        Where it would run, e.g. ``cpu``.
    disk_bytes
        Room that the whole job takes in the engine's data directory, roughly: labels, what lies beside them, artifacts,
        and what the runner keeps meanwhile. The tomogram itself is not in it.
    queue_position
        How many jobs would run first.
    starts_in_seconds
        Expected time to its start, in seconds; None when it is not known.
    """

    run: RunPlan
    device: str
    disk_bytes: int
    queue_position: int
    starts_in_seconds: float | None = None

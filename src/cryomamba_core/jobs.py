"""Jobs: what was asked for, how far it is, and which states may follow each other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import field, frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo, IllegalTransition, InputError, InvalidParameter, UnusableVoxelSize
from cryomamba_core.geometry import Vector3
from cryomamba_core.previews import PreviewPolicy

#: Characters of a job's label: no file name, which a label often is, is longer.
MAX_LABEL = 255
#: Characters of a runner's name, and of a model's, which may be the path of a folder where the engine is a local one.
MAX_RUNNER, MAX_MODEL = 200, 4096
#: Bytes of a runner's parameters as JSON, and how deep they may be nested.
MAX_PARAMS, MAX_DEPTH = 64 << 10, 32
#: Workers that may share a volume.
MAX_SHARDS = 64
#: How many artifacts may be named, and the characters of each name.
MAX_ARTIFACTS, MAX_ARTIFACT = 32, 100


class JobState(StrEnum):
    """Where a job stands. `PREVIEWING` is running with a preview to look at."""

    QUEUED = "queued"
    RUNNING = "running"
    PREVIEWING = "previewing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens unless somebody asks for a retry."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)

    @property
    def active(self) -> bool:
        """Whether a worker is at it."""
        return self in (JobState.RUNNING, JobState.PREVIEWING)


#: Which states may follow each state. Back to queued is a retry: by us after a lost worker, by the user after an end.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELED}),
    JobState.RUNNING: frozenset(
        {JobState.PREVIEWING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELED, JobState.QUEUED}
    ),
    JobState.PREVIEWING: frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED, JobState.QUEUED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELED: frozenset({JobState.QUEUED}),
}


def check_transition(before: JobState, after: JobState) -> None:
    """Raise `IllegalTransition` unless `after` may follow `before`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(
            f"a job that is {before} cannot become {after}", hint="look at it with: cryomamba jobs show ID"
        )


@frozen(kw_only=True)
class Source:
    """Where the tomogram of a job is: exactly one of the two.

    Attributes
    ----------
    file_id
        Id of an uploaded file.
    path
        Absolute path that the engine can open.
    """

    file_id: str | None = None
    path: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.file_id is None) == (self.path is None):
            raise InputError("a source is either a file id or a path", hint="give exactly one of the two")


@frozen(kw_only=True)
class JobConfig:
    """What a user asks for. It is kept, sent and listed often, so none of it may be large.

    Attributes
    ----------
    source
        The tomogram.
    model
        Name of a model; None for a runner's only model.
    runner
        Name of a runner; None for the one that has the model.
    params
        The runner's own parameters, as its `params_type` has them; missing ones take their default.
    artifacts
        Names of wanted artifacts such as ``mask.mrc``; None for all that can be made.
    voxel_size
        Voxel size (z, y, x) in Å to use instead of the header's.
    preview
        How the job is previewed.
    label
        A name for people, e.g. the file's.
    shards
        Workers that share the volume, 1 to 64, each with a range of rows of its own. The labels do not depend on it. A
        job that was accepted has as many as its volume can be cut into, at most.
    """

    source: Source
    model: str | None = None
    runner: str | None = None
    params: dict[str, Any] = field(factory=dict)
    artifacts: tuple[str, ...] | None = None
    voxel_size: Vector3 | None = None
    preview: PreviewPolicy = field(factory=PreviewPolicy)
    label: str = ""
    shards: int = 1

    def __attrs_post_init__(self) -> None:
        if isinstance(self.shards, bool) or not 1 <= self.shards <= MAX_SHARDS:
            raise InvalidParameter(f"shards is {self.shards}, and may be 1 to {MAX_SHARDS}")
        if self.voxel_size is not None and not all(0 < size < math.inf for size in self.voxel_size):
            raise UnusableVoxelSize(f"the voxel size {self.voxel_size} is not positive", hint="give it in Å")
        for name, text, most in (
            ("label", self.label, MAX_LABEL),
            ("model", self.model, MAX_MODEL),
            ("runner", self.runner, MAX_RUNNER),
        ):
            if text is not None and len(text) > most:
                raise InvalidParameter(f"{name} has {len(text)} characters, and may have {most}")
        if self.artifacts is not None and len(self.artifacts) > MAX_ARTIFACTS:
            raise InvalidParameter(f"artifacts names {len(self.artifacts)}, and may name {MAX_ARTIFACTS}")
        if max(map(len, self.artifacts or ()), default=0) > MAX_ARTIFACT:
            raise InvalidParameter(f"artifacts has a name of more than {MAX_ARTIFACT} characters")
        if _nests_deeper(self.params, MAX_DEPTH):
            raise InvalidParameter(f"params is nested deeper than {MAX_DEPTH} levels")
        if self.params and (size := _json_size(self.params)) > MAX_PARAMS:
            raise InvalidParameter(
                f"params has {size} bytes as JSON, and may have {MAX_PARAMS}",
                hint="name a file that holds what is large, if the runner can read one",
            )


@frozen(kw_only=True)
class JobProgress:
    """How far a worker is.

    Attributes
    ----------
    stage
        ``inspecting``, ``segmenting``, ``measuring`` or ``exporting``.
    done, total
        Units of this stage that are done, and all of them.
    unit
        What is counted, e.g. ``tiles``.
    fraction
        Done part of the whole job, 0 to 1; never falls within an attempt.
    eta_seconds
        Expected time to the end of the job; None while it is not known.
    """

    stage: str
    done: int
    total: int
    unit: str
    fraction: float
    eta_seconds: float | None = None


@frozen(kw_only=True)
class JobRecord:
    """Everything that is known of a job.

    Attributes
    ----------
    id
        UUID version 7: sorts by time of creation.
    owner
        Who asked for it.
    state
        Where it stands.
    config
        What was asked for, with runner and model resolved.
    progress
        How far the worker is, None before the first report.
    queue_position
        How many jobs run first, for a queued job; else None.
    starts_in_seconds
        Expected time to the start of a queued job, in seconds; None while it is not known.
    attempt
        Counts the workers that were started on it; 0 before the first.
    created_at, started_at, finished_at
        UTC.
    error
        Why it failed.
    artifacts
        What it made.
    versions
        Versions of the software that ran it.
    """

    id: str
    owner: str
    state: JobState
    config: JobConfig
    progress: JobProgress | None = None
    queue_position: int | None = None
    starts_in_seconds: float | None = None
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: ErrorInfo | None = None
    artifacts: tuple[Artifact, ...] = ()
    versions: dict[str, str] = field(factory=dict)

    @property
    def eta_seconds(self) -> float | None:
        """Expected time to the end, in seconds."""
        return self.progress.eta_seconds if self.progress else None


def _json_size(params: dict[str, Any]) -> int:
    """Bytes of parameters as JSON; what is no JSON is refused where it is needed as such."""
    return len(json.dumps(params, ensure_ascii=False, default=str).encode(errors="surrogatepass"))


def _nests_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        inner: Iterable[object] = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    else:
        return False
    return levels == 0 or any(_nests_deeper(each, levels - 1) for each in inner)

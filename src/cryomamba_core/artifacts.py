"""What a job leaves behind, and where each piece came from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import field, frozen

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.models import ModelInfo
from cryomamba_core.volumes import IntensityStatistics


@frozen(kw_only=True)
class Artifact:
    """A file that a job made.

    Attributes
    ----------
    name
        File name within the job, e.g. ``mask.mrc``.
    media_type
        MIME type.
    size
        In bytes.
    sha256
        Hex digest of the content.
    url, url_expires_at
        Where to fetch it and until when (UTC), where the transport has addresses.
    """

    name: str
    media_type: str
    size: int
    sha256: str
    url: str | None = None
    url_expires_at: datetime | None = None


@frozen(kw_only=True)
class SourceFile:
    """The tomogram that was read.

    Attributes
    ----------
    name
        File name without its folder.
    size
        In bytes.
    sha256
        Hex digest of the file.
    format
        Name of the reader.
    dtype
        Type of the voxels.
    metadata
        What the reader kept of the header (`Volume.metadata`).
    """

    name: str
    size: int
    sha256: str
    format: str
    dtype: str
    metadata: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class RunInfo:
    """What every exporter is told of the run whose labels it writes.

    Attributes
    ----------
    job_id, label
        Id of the job, and its name for people.
    source
        The file that was segmented.
    intensity
        Its grey values.
    model
        The model, with the names and colours of the labels.
    params
        The runner's parameters, all of them.
    statistics
        One entry for each label of the model, ordered by value.
    """

    job_id: str
    label: str
    source: SourceFile
    intensity: IntensityStatistics
    model: ModelInfo
    params: dict[str, Any]
    statistics: tuple[LabelStatistics, ...]


@frozen(kw_only=True)
class Manifest:
    """The provenance of a job's artifacts, written last as ``manifest.json``.

    Attributes
    ----------
    run
        What was run on what.
    grid
        Grid of the source and of every mask.
    device, attempt
        Where, and the how-manieth worker did it.
    versions
        Package → version.
    notes
        Decisions taken on the way, e.g. how lengths are written.
    started_at, finished_at
        UTC.
    peak_rss_bytes
        The most memory that the worker process held at any time, code and libraries included.
    artifacts
        Everything else that was written, with digests.
    """

    run: RunInfo
    grid: VoxelGrid
    device: str
    attempt: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    started_at: datetime
    finished_at: datetime
    peak_rss_bytes: int
    artifacts: tuple[Artifact, ...]

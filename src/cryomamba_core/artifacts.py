"""What a job leaves behind, and where each piece came from."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from attrs import field, frozen

from cryomamba_core.companions import Companion
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.models import ModelInfo
from cryomamba_core.volumes import IntensityStatistics

#: Bytes of an artifact's name: with the tomogram's name before it, it is still a file name.
_LONGEST_NAME = 100
#: A SHA-256 as it is written everywhere here.
_DIGEST = re.compile("[0-9a-f]{64}")


def require_plain_name(name: str) -> None:
    """Raise `InvalidParameter` for what an artifact cannot be called."""
    if not name or name.startswith(".") or set(name) & set("/\\") or not name.isprintable():
        raise InvalidParameter(f"{name[:_LONGEST_NAME]!r} is no plain file name")
    if len(name.encode()) > _LONGEST_NAME:
        raise InvalidParameter(f"the file name {name[:_LONGEST_NAME]!r}… is longer than {_LONGEST_NAME} bytes")


@frozen(kw_only=True)
class Artifact:
    """A file that a job made.

    Whoever says what it is may be a stranger, and its name becomes part of a path: what is no plain
    file name is refused here, wherever it comes from.

    Attributes
    ----------
    name
        File name within the job, e.g. ``mask.mrc``: without a folder, not hidden, at most 100 bytes.
    media_type
        MIME type.
    size
        In bytes, 0 or more.
    sha256
        Digest of the content, 64 hexadecimal digits in lower case.
    url, url_expires_at
        Where to fetch it and until when (UTC), where the transport has addresses.
    """

    name: str
    media_type: str
    size: int
    sha256: str
    url: str | None = None
    url_expires_at: datetime | None = None

    def __attrs_post_init__(self) -> None:
        require_plain_name(self.name)
        if self.size < 0 or not _DIGEST.fullmatch(self.sha256):
            raise InvalidParameter(f"the size or the SHA-256 of {self.name!r} is none")


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
    companions
        What the runner gave beside the labels.
    """

    job_id: str
    label: str
    source: SourceFile
    intensity: IntensityStatistics
    model: ModelInfo
    params: dict[str, Any]
    statistics: tuple[LabelStatistics, ...]
    companions: tuple[Companion, ...] = ()


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
        The most memory that the worker process held at any time, code and libraries included; with shards, what it and
        the worker of each shard held at their peaks, all together.
    shards
        Workers that shared the volume.
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
    shards: int = 1

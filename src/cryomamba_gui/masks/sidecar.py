"""What is written beside exported masks, so that a judgement and a correction do not get lost on the way."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from attrs import evolve, frozen

from cryomamba_core.durable import write_whole
from cryomamba_core.errors import InvalidParameter, OutputExists
from cryomamba_core.wire import dump_json, load_json
from cryomamba_gui.masks.review import Review

#: What the name of the file ends with.
SUFFIX = ".review.json"


@frozen(kw_only=True)
class ExportedFile:
    """A mask that was exported.

    Attributes
    ----------
    name
        File name, without a folder.
    sha256
        Hex digest of the file.
    edited
        Whether a voxel of it differs from what the job made.
    voxels_changed
        How many do.
    at
        When it was exported, UTC.
    """

    name: str
    sha256: str
    edited: bool
    voxels_changed: int
    at: datetime


@frozen(kw_only=True)
class Sidecar:
    """What is known of exported masks of one job that share a stem.

    Attributes
    ----------
    job_id
        The job.
    source
        Name of the tomogram that was segmented.
    original, original_sha256
        Name and digest of the mask that the job made; empty where they are not known.
    review
        What somebody thinks of it; None if nobody said.
    exports
        The files, by name.
    """

    job_id: str
    source: str
    original: str = ""
    original_sha256: str = ""
    review: Review | None = None
    exports: tuple[ExportedFile, ...] = ()


def sidecar_of(target: Path, suffix: str) -> Path:
    """The file beside an exported one, e.g. ``a.mask.review.json`` for ``a.mask.nii.gz``.

    Parameters
    ----------
    target
        The exported file.
    suffix
        What the names of its kind end with.
    """
    stem = target.name.removesuffix(suffix) or target.name
    return target.with_name(stem + SUFFIX)


def write_sidecar(path: Path, sidecar: Sidecar, *, overwrite: bool) -> None:
    """Write a sidecar; other files of the same job that an earlier one names, and that are there, stay in it.

    Raises
    ------
    OutputExists
        As `require_room`.
    """
    earlier = require_room(path, sidecar.job_id, overwrite=overwrite)
    exports = {each.name: each for each in (*earlier, *sidecar.exports) if (path.parent / each.name).exists()}
    whole = evolve(sidecar, exports=tuple(exports[name] for name in sorted(exports)))
    write_whole(path, dump_json(whole, indent=2).encode() + b"\n")


def require_room(path: Path, job_id: str, *, overwrite: bool) -> tuple[ExportedFile, ...]:
    """The files that the sidecar at `path` already names, none if there is no sidecar.

    Raises
    ------
    OutputExists
        If the file there is of another job, or none of ours, and is not to be overwritten.
    """
    try:
        earlier = load_json(path.read_bytes(), Sidecar)
    except FileNotFoundError:
        return ()
    except InvalidParameter:
        earlier = None
    if earlier is not None and earlier.job_id == job_id:
        return earlier.exports
    if not overwrite:
        raise OutputExists(f"{path} exists and is of something else", hint="choose another name, or overwrite it")
    return ()

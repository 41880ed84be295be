"""What a job made, brought into its folder on this computer: whole, checked, and not twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cryomamba_core.durable import sha256_of
from cryomamba_core.errors import UnknownObject

if TYPE_CHECKING:
    from cryomamba_core.artifacts import Artifact
    from cryomamba_core.interfaces import Session
    from cryomamba_core.interfaces.transports import OnProgress
    from cryomamba_core.plugins import PluginHost

#: What masks of every format are called, before the suffix.
MASK = "mask"
#: The format that is taken where there is a choice: it lies on an MRC file voxel by voxel.
PREFERRED = ".mrc"
#: What is fetched beside the mask, if the job made it.
BESIDE = ("stats.json", "manifest.json")
#: A name that can be that of a folder anywhere.
_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}", re.ASCII)


def folder_of(root: Path, url: str, job_id: str) -> Path:
    """Where a job's files are kept: below `root`, apart for each engine. What an engine calls a job may be anything."""
    name = job_id if _PLAIN.fullmatch(job_id) else hashlib.sha256(job_id.encode(errors="replace")).hexdigest()
    return root / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def volume_of(artifacts: Sequence[Artifact], host: PluginHost, *, stem: str = MASK) -> Artifact:
    """The mask among a job's artifacts that can be read here, or a companion of it.

    Parameters
    ----------
    artifacts
        All that the job made.
    host
        Has the readers.
    stem
        What its files are called, before the suffix: `MASK`, or the name of a companion.

    Raises
    ------
    UnknownObject
        If there is none.
    """
    suffixes = tuple(suffix for reader in host.readers for suffix in reader.suffixes)
    named = [each for each in artifacts if each.name.startswith(f"{stem}.") and each.name.lower().endswith(suffixes)]
    for volume in sorted(named, key=lambda each: each.name != stem + PREFERRED):
        return volume
    made = ", ".join(artifact.name for artifact in artifacts) or "nothing"
    raise UnknownObject(
        f"the job made no {stem} that can be read here; it made: {made}",
        hint=f"ask for {MASK}{PREFERRED}, or install a plugin that reads what the job made",
    )


def wanted_of(artifacts: Sequence[Artifact], host: PluginHost) -> tuple[Artifact, ...]:
    """What is fetched of a job at first, the mask before anything else."""
    return (volume_of(artifacts, host), *(artifact for artifact in artifacts if artifact.name in BESIDE))


async def missing_of(wanted: Sequence[Artifact], folder: Path) -> tuple[Artifact, ...]:
    """Those of `wanted` that are not in `folder` already; anything else under their names is removed."""
    missing = []
    for artifact in wanted:
        there = partial(_is_there, folder / artifact.name, artifact)
        if not await trio.to_thread.run_sync(there, abandon_on_cancel=True):
            missing.append(artifact)
    return tuple(missing)


async def fetch(
    session: Session,
    job_id: str,
    artifacts: Sequence[Artifact],
    folder: Path,
    *,
    known: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Fetch artifacts into `folder`; what an earlier call was fetching when it was cut off is continued.

    Parameters
    ----------
    session, job_id
        The engine, and the job.
    artifacts
        Those that are missing.
    folder
        It is made if it is not there.
    known
        Bytes of others that are there already, and count as done.
    on_progress
        Hears bytes of all that are here by now, and bytes in all.
    """
    await trio.to_thread.run_sync(partial(folder.mkdir, parents=True, exist_ok=True))
    done, total = known, known + sum(artifact.size for artifact in artifacts)
    for artifact in artifacts:
        report = partial(_report, on_progress, done, total)
        await session.download(job_id, artifact, folder / artifact.name, on_progress=report)
        done += artifact.size
        _report(on_progress, done, total, 0, 0)


def _report(on_progress: OnProgress | None, before: int, total: int, done: int, _: int) -> None:
    """Report bytes of one artifact as bytes of all."""
    if on_progress is not None:
        on_progress(before + done, total)


def _is_there(target: Path, artifact: Artifact) -> bool:
    if target.is_file() and target.stat().st_size == artifact.size and sha256_of(target) == artifact.sha256:
        return True
    target.unlink(missing_ok=True)
    return False

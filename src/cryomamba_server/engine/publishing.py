"""From a worker's files to artifacts that stay."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cryomamba_core.artifacts import Artifact, Manifest
from cryomamba_core.errors import CryoMambaError, StorageDamaged, UnknownObject
from cryomamba_core.events import Completed
from cryomamba_core.interfaces import Storage
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.wire import load_json
from cryomamba_server.engine.intake import MANIFEST
from cryomamba_server.engine.troubles import may_pass

log = logging.getLogger(__name__)


def artifact_key(job_id: str, name: str) -> str:
    """Where the storage has an artifact."""
    return f"artifacts/{job_id}/{name}"


def publish(storage: Storage, directory: JobDirectory, job_id: str, artifacts: Sequence[Artifact]) -> None:
    """Put a worker's files into the storage; they are durable when this returns.

    May be called again, after a crash and after a trouble that passes: a file that is gone from the job
    directory is fine if the storage has it. So nothing is taken back for such a trouble.

    Raises
    ------
    StorageDamaged
        If a file is missing or is not what the worker said. Nothing of the job is in the storage then.
    StorageFull
        If there is no room; nothing is left either.
    """
    try:
        for artifact in artifacts:
            _publish_one(storage, directory, job_id, artifact)
    except Exception as error:
        if not may_pass(error):
            withdraw(storage, job_id)
        raise


def whole_results(directory: JobDirectory) -> Completed | None:
    """The end of a worker whose files still lie in its directory, all of them; None if there is none."""
    end = next((event for event, _ in directory.events() if isinstance(event, Completed)), None)
    paths = [] if end is None else [(directory.artifacts_path / each.name, each.size) for each in end.artifacts]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in paths)
    return end if paths and whole else None


def withdraw(storage: Storage, job_id: str) -> None:
    """Remove all artifacts of a job from the storage."""
    for info in list(storage.list(artifact_key(job_id, ""))):
        storage.delete(info.key)


def manifest_versions(directory: JobDirectory) -> dict[str, str]:
    """The versions in a worker's manifest; empty if it is not there or is none."""
    try:
        return load_json((directory.artifacts_path / MANIFEST).read_bytes(), Manifest).versions
    except (OSError, CryoMambaError) as error:
        if may_pass(error):
            raise
        log.warning("the manifest in %s cannot be read: %s", directory.path, error)
        return {}


def _publish_one(storage: Storage, directory: JobDirectory, job_id: str, artifact: Artifact) -> None:
    key = artifact_key(job_id, artifact.name)
    path = directory.artifacts_path / artifact.name
    if path.parent != directory.artifacts_path or path.is_symlink():
        raise StorageDamaged(f"the worker named an artifact {artifact.name!r}, which is no plain file of the job")
    if path.exists():
        found = storage.publish(path, key)
    else:
        try:
            found = storage.stat(key)
        except UnknownObject as error:
            raise StorageDamaged(f"the worker left no artifact {artifact.name}", hint="retry the job") from error
    if (found.sha256, found.size) != (artifact.sha256, artifact.size):
        raise StorageDamaged(f"artifact {artifact.name} is not what the worker wrote", hint="retry the job")

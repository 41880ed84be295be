"""What only a worker needed of a job directory, and the order to stop."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import trio

from cryomamba_core.errors import StorageError
from cryomamba_core.job_directory import JobDirectory
from cryomamba_server.engine.ledger import Ledger

log = logging.getLogger(__name__)


def order_cancel(directory: JobDirectory) -> None:
    """Order the worker of a job to stop, if it has been given a directory by now."""
    try:
        directory.order_cancel()
    except FileNotFoundError:
        log.debug("%s is not there yet: the order is in the store", directory.path)


def clear(directory: JobDirectory, *, preview: bool = True) -> None:
    """Remove everything that only a worker needs, half-written files included.

    Parameters
    ----------
    directory
        The job's, without a worker.
    preview
        Whether the preview goes too.
    """
    directory.clear_labels()
    directory.clear_artifacts()
    for unfinished in (*directory.path.glob("*.partial"), *directory.path.glob(".*.partial")):
        unfinished.unlink(missing_ok=True)
    if preview:
        (directory.path / "preview.bin").unlink(missing_ok=True)


async def clear_ended(ledger: Ledger, directory: JobDirectory, job_id: str, *, preview: bool = False) -> None:
    """Remove what the worker of a job needed that has ended. What cannot be removed now is when the next engine begins.

    Parameters
    ----------
    ledger
        Where it is noted that there is something.
    directory, job_id
        Of the job.
    preview
        Whether the preview goes too.
    """
    try:
        await trio.to_thread.run_sync(partial(clear, directory, preview=preview))
        await ledger.call(ledger.store.cleared, job_id)
    except (StorageError, OSError) as error:
        log.warning("what the worker of job %s needed cannot be removed yet: %s", job_id, error)


async def clear_left(ledger: Ledger, jobs_dir: Path) -> None:
    """Remove what the workers of ended jobs needed, where an engine was killed before it did."""
    for job_id in await ledger.persist(ledger.store.uncleared):
        await clear_ended(ledger, JobDirectory(jobs_dir / job_id), job_id)

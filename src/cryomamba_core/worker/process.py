"""The life of a worker process: from the job directory to an exit status."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve

from cryomamba_core.errors import ErrorInfo
from cryomamba_core.guarded_files import named, opened_below
from cryomamba_core.interfaces import JobCanceled
from cryomamba_core.job_directory import EXIT_CANCELED, EXIT_FAILED, JobDirectory, JobSpec
from cryomamba_core.jobs import JobState
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings, load_settings
from cryomamba_core.worker.context import Preempted, StopOrders
from cryomamba_core.worker.keeping import Kept
from cryomamba_core.worker.reporting import EventLog, Heart
from cryomamba_core.worker.run import JobRun

#: The exit status of a worker that was ended by SIGTERM, as shells have it.
EXIT_PREEMPTED = 128 + signal.SIGTERM


def run_worker(path: Path, kept: Kept | None = None) -> int:
    """Run the job in a job directory.

    Parameters
    ----------
    path
        The job directory.
    kept
        What lasts beyond the job; None if the process ends with it.

    Returns
    -------
    status
        0 if the job is done, or the shard, `EXIT_CANCELED`, `EXIT_FAILED` (the last event says why), or
        `EXIT_PREEMPTED` if a signal ended it: then labels and checkpoint are kept.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = JobDirectory(path.absolute())
    orders = StopOrders(directory)
    log = EventLog(directory, attempt=1)
    with _signals(orders):
        try:
            spec = directory.spec()
            log = EventLog(directory, attempt=spec.attempt)
            if spec.shard is not None:
                orders.heed(JobDirectory(Path(spec.shard.job)))
            with Heart(directory, log):
                log.state(JobState.RUNNING)
                settings = load_settings()
                host = PluginHost.discover(settings)
                with _opened_source(directory, spec, settings) as opened:
                    run = JobRun(directory=directory, spec=opened, host=host, log=log, orders=orders, kept=kept)
                    artifacts = run.execute()
                log.completed(artifacts)
        except JobCanceled:
            directory.clear_labels()
            directory.clear_artifacts()
            log.state(JobState.CANCELED)
            return EXIT_CANCELED
        except Preempted:
            return EXIT_PREEMPTED
        except Exception as error:  # noqa: BLE001  # whatever a plugin raises becomes the job's error
            traceback.print_exception(error, file=sys.stderr)
            info = ErrorInfo.of(error)
            if not info.retryable or info.code == "storage/full":
                directory.clear_labels()
            directory.clear_artifacts()
            log.failed(info)
            return EXIT_FAILED
    if spec.shard is None:
        directory.clear_labels()
    return 0


@contextmanager
def _opened_source(directory: JobDirectory, spec: JobSpec, settings: Settings) -> Iterator[JobSpec]:
    """The specification with a source that stays the same file, whoever else can write to its folder."""
    if spec.source_root is None:
        yield spec
        return
    path = Path(spec.source)
    links = directory.path / "source"
    links.mkdir(exist_ok=True)
    with (
        opened_below(Path(spec.source_root), path, closed=[settings.data_dir]) as descriptor,
        named(descriptor, path, links) as steady,
    ):
        yield evolve(spec, source=str(steady))


@contextmanager
def _signals(orders: StopOrders) -> Iterator[None]:
    """Take SIGTERM and SIGINT as orders to stop at the next checkpoint."""
    before = {number: signal.signal(number, lambda *_: orders.signal()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The worker: one process that runs one job in its job directory, without server or network."""

from cryomamba_core.worker.process import run_worker

__all__ = ["run_worker"]

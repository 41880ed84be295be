"""Cleaning up while a server runs."""

from __future__ import annotations

import trio

from cryomamba_server.engine.retention import Retention, RetentionPolicy
from cryomamba_server.http.services import Services


async def keep_tidy(services: Services) -> None:
    """Clean up as the settings say, until the server is about to stop."""
    serving = services.serving
    policy = RetentionPolicy(
        upload_hours=serving.upload_hours,
        keep_jobs_days=serving.keep_jobs_days,
        keep_files_days=serving.keep_files_days,
    )
    retention = Retention(
        services.engine,
        jobs_dir=services.settings.jobs_dir,
        policy=policy,
        on_removed=services.metrics.removed,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        await services.stopping.wait()
        nursery.cancel_scope.cancel()

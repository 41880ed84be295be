"""``cryomamba worker``: what executors start."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("job_dir", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def worker(context: click.Context, job_dir: Path) -> None:
    """Run one job in its job directory (internal: executors start it)."""
    from cryomamba_core.worker import run_worker

    context.exit(run_worker(job_dir))

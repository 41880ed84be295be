"""Whether a server can take work."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import trio

from cryomamba_core.errors import ServerNotReady, StorageError
from cryomamba_server.engine.database import Database
from cryomamba_server.http.services import Services

#: A data directory with less room than this takes no job.
LEAST_BYTES = 1 << 20

#: Seconds that the job store and the disk have for an answer.
PATIENCE = 10.0


async def check_health(services: Services) -> None:
    """Raise `ServerNotReady` unless the job store and the disk can be used and there is a slot for jobs."""
    if not services.engine.devices:
        raise ServerNotReady("there is no device to run jobs on", hint="name one with CRYOMAMBA_DEVICES")
    try:
        with trio.fail_after(PATIENCE):
            await services.engine.ledger.call(_ask, services.engine.database)
            await trio.to_thread.run_sync(_write, services.settings.data_dir, abandon_on_cancel=True)
    except trio.TooSlowError:
        raise ServerNotReady(f"job store and disk have not answered for {PATIENCE:g} s", hint=_HINT) from None
    except StorageError as error:
        raise ServerNotReady(error.message, hint=error.hint) from error
    except OSError as error:
        raise ServerNotReady(f"the data directory cannot be written: {error.strerror}", hint=_HINT) from error


_HINT = "look at the server's disk"


def _ask(database: Database) -> None:
    with database.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar()


def _write(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < LEAST_BYTES:
        raise ServerNotReady(f"{free} bytes are free on the disk", hint="free some space")
    probe = folder / f".ready-{uuid.uuid4().hex}"
    try:
        probe.touch()
    finally:
        probe.unlink(missing_ok=True)

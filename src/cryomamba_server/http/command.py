"""``cryomamba serve``: the engine, reached over the network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from cryomamba_core.errors import PluginUnavailable

if TYPE_CHECKING:
    from cryomamba_core.cli.state import CliState

#: Packages that a server needs and the core does not.
NEEDED = ("alembic", "cryptography", "hypercorn", "jwt", "prometheus_client", "quart_trio", "sqlalchemy", "structlog")


@click.command()
@click.option("--host", help="Address to listen on, 127.0.0.1 by default; 0.0.0.0 or :: for all of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, 8765 by default; 0 takes a free one.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where jobs, models and inputs are kept (CRYOMAMBA_DATA_DIR).",
)
@click.option(
    "--allow-root",
    "allow_roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder whose files jobs may name by their path; can be given several times.",
)
@click.option(
    "--certificate", type=click.Path(dir_okay=False, path_type=Path), help="PEM file with the certificate for TLS."
)
@click.option("--private-key", type=click.Path(dir_okay=False, path_type=Path), help="PEM file with its private key.")
@click.option(
    "--tls-self-signed",
    "self_signed",
    is_flag=True,
    default=None,
    help="Make a certificate of its own and keep it; clients pin its fingerprint.",
)
@click.option(
    "--plain-http", is_flag=True, default=None, help="Speak plain HTTP also to other machines: behind a proxy only."
)
@click.option(
    "--graceful-seconds",
    type=click.FloatRange(min=0),
    help="How long requests in progress may take to end when it stops, 30 by default.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    help="How the log on standard error is worded; auto: for people on a terminal, else JSON.",
)
@click.pass_obj
def serve(state: CliState, /, *, data_dir: Path | None, **options: Any) -> None:
    """Let clients on the network use this machine.

    Prints its address, and a command and a token that connect a client; DATA_DIR/server.json says where it
    listens, DATA_DIR/first-token has the token. Ctrl-C or SIGTERM stops it once the requests in progress
    have ended, a second one at once. Jobs that run go on, and the next server takes them over.

    Every option but --data-dir is also a setting in the table [serve] of the settings file, and as
    CRYOMAMBA_SERVE_*; there are more of these than options.
    """
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise PluginUnavailable(
            f"serving needs {', '.join(missing)}", hint="install it with: pip install 'cryomamba[server]'"
        )
    from cryomamba_server.http.running import run_server

    run_server(state, data_dir=data_dir, options=options)

"""The extension points: pluggy project and entry-point group ``cryomamba``.

Each registering hook is called once, when the plugin host is made. It hands provider objects to
`register`; nothing is expected back. Hooks may take any subset of the arguments by name. A plugin
whose hook raises, or whose provider has a name that is taken, is left out as a whole and reported.

A plugin is a module (or any object) behind an entry point. It should state the version of these
interfaces that it was written for::

    cryomamba_api_version = 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from cryomamba_core.interfaces import Executor, Exporter, ModelRunner, Storage, Transport, VolumeReader
    from cryomamba_core.jobs import JobRecord
    from cryomamba_core.plugins import PluginHost
    from cryomamba_core.settings import Settings

#: Version of the hooks and interfaces; raised when a plugin that worked would stop working.
API_VERSION = 1

PROJECT = "cryomamba"

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker(PROJECT)
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker(PROJECT)


@hookspec
def cryomamba_register_readers(register: Callable[[VolumeReader], None], settings: Settings) -> None:
    """Register readers of file formats. Called once at start.

    Parameters
    ----------
    register
        Call it with each `VolumeReader`.
    settings
        The settings of this process.
    """


@hookspec
def cryomamba_register_runners(register: Callable[[ModelRunner], None], settings: Settings) -> None:
    """Register model runners. Called once at start; see `cryomamba_register_readers`."""


@hookspec
def cryomamba_register_storages(register: Callable[[Storage], None], settings: Settings) -> None:
    """Register places to keep uploads and artifacts. Called once at start; see `cryomamba_register_readers`."""


@hookspec
def cryomamba_register_exporters(register: Callable[[Exporter], None], settings: Settings) -> None:
    """Register writers of artifacts. Called once at start; see `cryomamba_register_readers`."""


@hookspec
def cryomamba_register_transports(register: Callable[[Transport], None], settings: Settings, host: PluginHost) -> None:
    """Register ways from a client to an engine. Called once at start; see `cryomamba_register_readers`.

    Parameters
    ----------
    register, settings
        As for the other hooks.
    host
        The host that is being filled; a transport whose engine runs in this process keeps it.
    """


@hookspec
def cryomamba_register_executors(register: Callable[[Executor], None], settings: Settings) -> None:
    """Register places where workers run. Called once at start; see `cryomamba_register_readers`."""


@hookspec
def cryomamba_register_commands(register: Callable[[click.Command], None]) -> None:
    """Register commands of ``cryomamba``. Called once at start.

    Parameters
    ----------
    register
        Call it with each `click.Command` or `click.Group`; its name must be free. Inside the
        command, ``click.get_current_context().obj`` is the `cryomamba_core.cli.state.CliState`.
    """


@hookspec
def cryomamba_job_changed(record: JobRecord) -> None:
    """Hear of a job that entered a new state. Called by the engine, after the record is durable.

    What it raises is logged and goes no further; it should return quickly.

    Parameters
    ----------
    record
        The job as it is now.
    """

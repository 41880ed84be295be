"""Commands of plugins, seen without loading every plugin: ``--help`` must not wait for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import rich_click as click

from cryomamba_core.plugin_record import InstalledPlugin, installed_plugins

log = logging.getLogger(__name__)

HOOK = "cryomamba_register_commands"


def glance() -> dict[str, click.Command]:
    """Commands of plugins by name, for listing only.

    A plugin whose module does not name the hook is not even imported; one that fails is passed
    over, and `cryomamba plugins` says why.
    """
    found: dict[str, click.Command] = {}
    for plugin in sorted(installed_plugins(), key=lambda plugin: plugin.name):
        try:
            for command in _commands(plugin):
                found.setdefault(str(command.name), command)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # an import may even call sys.exit
            log.debug("plugin %s has no commands to list: %s", plugin.name, error)
    return found


def _commands(plugin: InstalledPlugin) -> Iterator[click.Command]:
    if ":" not in plugin.value and not _may_have_commands(plugin.module):
        return
    loaded: Any = plugin.load()
    hook = getattr(loaded, HOOK, None)
    offered: list[Any] = []
    if hook is not None:
        hook(offered.append)
    yield from (command for command in offered if isinstance(command, click.Command))


def _may_have_commands(module: str) -> bool:
    """Whether the module's source names the hook; so, too, if the source cannot be read."""
    spec = util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return spec is not None
    return HOOK.encode() in Path(spec.origin).read_bytes()

"""Commands of plugins, seen without loading every plugin: ``--help`` must not wait for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

import rich_click as click

log = logging.getLogger(__name__)

GROUP = "cryomamba"
HOOK = "cryomamba_register_commands"


def glance() -> dict[str, click.Command]:
    """Commands of plugins by name, for listing only.

    A plugin whose module does not name the hook is not even imported; one that fails is passed
    over, and `cryomamba plugins` says why.
    """
    found: dict[str, click.Command] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            for command in _commands(entry):
                found.setdefault(str(command.name), command)
        except Exception as error:  # noqa: BLE001  # whatever a stranger raises must not take the help down
            log.debug("plugin %s has no commands to list: %s", entry.name, error)
    return found


def _commands(entry: metadata.EntryPoint) -> Iterator[click.Command]:
    if not entry.attr and not _may_have_commands(entry.module):
        return
    plugin: Any = entry.load() if entry.attr else import_module(entry.module)
    hook = getattr(plugin, HOOK, None)
    offered: list[click.Command] = []
    if hook is not None:
        hook(offered.append)
    yield from offered


def _may_have_commands(module: str) -> bool:
    """Whether the module's source names the hook; so, too, if the source cannot be read."""
    spec = util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return spec is not None
    return HOOK.encode() in Path(spec.origin).read_bytes()

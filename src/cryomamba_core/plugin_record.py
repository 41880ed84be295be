"""What is known of an installed plugin."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from attrs import field, frozen

from cryomamba_core.errors import PluginFault

#: Entry points of this group are plugins.
GROUP = "cryomamba"


@frozen(kw_only=True)
class PluginRecord:
    """One installed plugin, whether it works or not.

    Attributes
    ----------
    name
        Name of its entry point.
    distribution, version
        The package that it came with.
    provides
        Kind → names of what it registered; empty if it was left out.
    error
        Why it was left out; empty if it works.
    """

    name: str
    distribution: str
    version: str
    provides: dict[str, tuple[str, ...]] = field(factory=dict)
    error: str = ""


@frozen(kw_only=True)
class InstalledPlugin:
    """One plugin as its distribution names it, before anything of it is imported.

    Attributes
    ----------
    name
        Name of its entry point; ``?`` where the entry points cannot be read.
    distribution, version
        The package that it came with.
    value
        The module, and perhaps what of it is the plugin, e.g. ``package.module:plugin``.
    damage
        Why the entry points cannot be read; empty if they can.
    """

    name: str
    distribution: str
    version: str
    value: str = ""
    damage: str = ""

    @property
    def module(self) -> str:
        """The module alone; raises `PluginFault` if the entry points cannot be read."""
        return self._entry.module

    def load(self) -> object:
        """Import the plugin; raises `PluginFault` as `module`, and whatever the import raises."""
        return self._entry.load()

    @property
    def _entry(self) -> metadata.EntryPoint:
        if self.damage:
            raise PluginFault(f"its entry points cannot be read: {self.damage}")
        return metadata.EntryPoint(name=self.name, value=self.value, group=GROUP)


def installed_plugins(only: str | None = None) -> Iterator[InstalledPlugin]:
    """The plugins of every distribution; one whose metadata is damaged does not hide the others.

    Parameters
    ----------
    only
        Name of a distribution; None for all.
    """
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except (OSError, ValueError):
            continue
        if f"[{GROUP}]" not in text:
            continue
        name, version = _identity(distribution)
        if name in seen or only not in (None, name):
            continue
        seen.add(name)
        try:
            entries = [(entry.name, entry.value) for entry in distribution.entry_points.select(group=GROUP)]
        except Exception as error:  # noqa: BLE001  # the standard library raises whatever the damage leads to
            yield InstalledPlugin(name="?", distribution=name, version=version, damage=str(error))
            continue
        for entry_name, value in entries:
            yield InstalledPlugin(name=entry_name, distribution=name, version=version, value=value)


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    try:
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
    except Exception:  # noqa: BLE001  # as above
        name, version = None, None
    folder = Path(str(distribution.locate_file(getattr(distribution, "_path", "?"))))
    return name or folder.name.partition("-")[0], version or "?"

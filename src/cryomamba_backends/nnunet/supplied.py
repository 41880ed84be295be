"""What packages of others supply for nnU-Net models: functions behind entry points of the groups below.

They are looked up by name when a model needs one, and nothing of a package is imported before. A model's files only
name what they need: that a package is installed is its user's decision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from attrs import frozen

from cryomamba_core.errors import PluginFault, PluginUnavailable

#: Group of functions that build networks, each named after a trainer, or after the class that plans name.
NETWORKS = "cryomamba.nnunet.networks"

#: Group of functions that normalise voxels, each named as plans name it.
NORMALISATIONS = "cryomamba.nnunet.normalisations"

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Supplied:
    """What an installed package supplies.

    Attributes
    ----------
    name
        Of the entry point.
    package
        Name and version of the distribution.
    load
        Imports it.
    """

    name: str
    package: str
    load: Callable[[], Any]


def is_supplied(group: str, name: str) -> bool:
    """Whether an installed package supplies what is called `name`."""
    return any(True for _ in _all(group, name))


def find_supplied(group: str, name: str) -> Supplied:
    """What an installed package supplies under a name; it is not imported.

    Raises
    ------
    PluginUnavailable
        If none does.
    PluginFault
        If several do.
    """
    found = list(_all(group, name))
    if not found:
        raise PluginUnavailable(
            f"the model needs {name}, which a plugin supplied that is not installed any more",
            hint=f"install the package again that has {name!r} among its entry points of {group}",
        )
    if len(found) > 1:
        raise PluginFault(f"{' and '.join(sorted(each.package for each in found))} all supply {name}")
    return found[0]


def function_of(supplied: Supplied) -> Callable[..., Any]:
    """Import a function.

    Raises
    ------
    PluginFault
        If it cannot be imported, or is none.
    """
    try:
        function = supplied.load()
    except (Exception, SystemExit) as error:
        raise fault_of(supplied, "cannot be imported", error) from error
    if not callable(function):
        raise PluginFault(f"{supplied.name} of {supplied.package} is no function")
    return function  # type: ignore[no-any-return]  # what was loaded is of any type


def fault_of(supplied: Supplied, what: str, error: BaseException) -> PluginFault:
    """An error that names the package, and what of it failed."""
    text = " ".join(str(error).split())
    return PluginFault(f"{supplied.name} of {supplied.package} {what}: {type(error).__name__}: {text}")


def _all(group: str, name: str) -> Iterator[Supplied]:
    """One for each distribution; those whose metadata are damaged are left out."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            if f"[{group}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            package = distribution.metadata["Name"]
            entries = [] if package in seen else list(distribution.entry_points.select(group=group, name=name))
            version = distribution.version
        except Exception as error:  # noqa: BLE001  # the standard library raises whatever the damage leads to
            log.warning("the entry points of a package are left out: %s", error)
            continue
        seen.add(package)
        for entry in entries:
            yield Supplied(name=name, package=f"{package} {version}", load=entry.load)

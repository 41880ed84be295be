"""What is known of an installed plugin."""

from __future__ import annotations

from attrs import field, frozen


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

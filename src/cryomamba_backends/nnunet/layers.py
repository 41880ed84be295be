"""Replacing layers of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module


def replace_layers(network: Module, make: Callable[[Module], Module | None]) -> None:
    """Put others in the place of layers.

    Parameters
    ----------
    network
        Is changed.
    make
        Makes another layer of one; None where it is to stay. It is asked once for a layer that has several places.
    """
    made: dict[Module, Module | None] = {}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child not in made:
                made[child] = make(child)
            other = made[child]
            if other is not None:
                setattr(parent, name, other)

"""How much a network holds while it works, found without the memory for it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def working_bytes(network: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """What a network holds at its peak besides its weights, its input and output included.

    Parameters
    ----------
    network
        On the ``meta`` device, where nothing but shapes is computed; what of it is elsewhere goes there.
    shape
        Of its input.

    Returns
    -------
    bytes
        In single precision; 0 where some layer cannot compute shapes by themselves. What layers hold that PyTorch does
        not tell of, such as unfolded inputs, is not among it.
    """
    import torch

    network = network.to("meta")
    tile = torch.empty(shape, device="meta")
    live = _live_counter()
    try:
        with torch.inference_mode(), _without_attention_matrices(), live:
            live.add(tile)
            network(tile)
    except Exception:  # noqa: BLE001  # whatever the layers of a plugin raise where there are no numbers
        return 0
    return int(live.peak)


def _live_counter() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # no types for it
        """Adds up the storages that are alive, and remembers the most."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # no types for it
            self.now = self.peak = 0
            self._known: set[int] = set()

        def add(self, tensor: torch.Tensor) -> None:
            storage = tensor.untyped_storage()
            if id(storage) not in self._known:
                self._known.add(id(storage))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, id(storage), storage.nbytes())

        def _drop(self, known: int, size: int) -> None:
            self._known.discard(known)
            self.now -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for made in tree_leaves(result):
                if isinstance(made, torch.Tensor):
                    self.add(made)
            return result

    return LiveCounter()


def _without_attention_matrices() -> Any:
    """PyTorch makes attention piece by piece on the CPU and on a GPU, but not on ``meta``."""
    import torch
    from torch.overrides import TorchFunctionMode

    class InPieces(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.nn.functional.scaled_dot_product_attention:
                return torch.empty_like(args[0])
            return func(*args, **(kwargs or {}))

    return InPieces()

"""Lets torchvision be imported beside a PyTorch that its own operators are not built for."""

from __future__ import annotations

import warnings
from typing import Any

#: Operators that its Python code registers something for, whether it could load them or not.
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

#: What is declared ends with the library that declares it.
_libraries: list[Any] = []


def import_torchvision() -> None:
    """Import it, with operators that it misses declared, and leading nowhere.

    Stock nnU-Net needs it to find any trainer but the first ones that it looks at, and Primus to be built.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it and timm use PyTorch
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name, schema in SCHEMAS.items():
                if not hasattr(torch.ops.torchvision, name):
                    library.define(schema)
            _libraries.append(library)
        import timm  # noqa: F401

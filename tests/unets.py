"""Networks of nnU-Net's architectures, as plans describe them."""

from __future__ import annotations

from collections.abc import Sequence

from cryomamba_backends.nnunet.plans import NetworkRecipe


def unet(kind: str, features: Sequence[int], strides: Sequence[Sequence[int]]) -> NetworkRecipe:
    """A network with kernels of 3 × 3 × 3, and two convolutions or blocks a stage."""
    stages = len(features)
    return NetworkRecipe(
        class_name=f"dynamic_network_architectures.architectures.unet.{kind}",
        arguments={
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [list(stride) for stride in strides],
            "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    )

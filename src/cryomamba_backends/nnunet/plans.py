"""What is needed of an nnU-Net model's plans.json and dataset.json, checked: neither file is trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import frozen

from cryomamba_backends.nnunet.label_scheme import LabelScheme, parse_label_scheme
from cryomamba_backends.nnunet.resampling_plans import Resampling, parse_resampling
from cryomamba_backends.nnunet.supplied import NORMALISATIONS, is_supplied
from cryomamba_core.errors import UnsupportedModel, UnusableModel
from cryomamba_core.geometry import Index3, Vector3, to_index, to_vector
from cryomamba_core.volumes import MOST_CHANNELS

#: Patches of more voxels, or longer on an axis, are taken for a mistake or an attack.
MAX_PATCH_EDGE = 1024
MAX_PATCH_VOXELS = 1 << 28

#: Names of nnU-Net's own classes.
PREPROCESSOR, LABEL_MANAGER = "DefaultPreprocessor", "LabelManager"

SCHEMES = frozenset(
    {
        "CTNormalization",
        "NoNormalization",
        "RGBTo01Normalization",
        "RescaleTo01Normalization",
        "ZScoreNormalization",
    }
)


@frozen(kw_only=True)
class IntensityProperties:
    """Grey values of the training data, as the CT normalisation and those of plugins need them."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


@frozen(kw_only=True)
class ChannelRecipe:
    """How the voxels of a channel are normalised.

    Attributes
    ----------
    scheme
        Name of nnU-Net's, or of a plugin's.
    intensity
        What it knows of the training data; None where it needs nothing.
    masked
        Whether zeros that are open to the outside are left out, and stay zero.
    """

    scheme: str
    intensity: IntensityProperties | None = None
    masked: bool = False


@frozen(kw_only=True)
class NetworkRecipe:
    """How to build the network.

    Attributes
    ----------
    class_name
        Dotted name of its class, as the plans have it.
    arguments
        Keyword arguments; layers are still dotted names.
    """

    class_name: str
    arguments: dict[str, Any]

    @property
    def of_library(self) -> bool:
        """Whether its class is of the library that stock nnU-Net's networks are of."""
        return re.fullmatch(r"dynamic_network_architectures(\.\w+)+", self.class_name) is not None


@frozen(kw_only=True)
class BuiltNetworkRecipe(NetworkRecipe):
    """How to build a network that the class in the plans does not tell.

    Attributes
    ----------
    builder
        Who builds it: name of the trainer, or of a class that only a plugin knows.
    patch
        Extent of a tile in voxels, on two or three axes.
    """

    builder: str
    patch: tuple[int, ...]


@frozen(kw_only=True)
class ModelRecipe:
    """All of the plans that decides labels, in the axis order of the model.

    Attributes
    ----------
    patch
        Extent of a tile in voxels, in model axes.
    planar
        Whether the network takes sections across the first model axis, each by itself; a tile is one voxel thick.
    spacing
        Voxel size that the model was trained on, in model axes and in the unit of its training files.
        That of a planar model does not matter along the first axis.
    transpose
        Axis (z, y, x) of the volume that each model axis is.
    inputs
        The channels of volumes.
    resampling
        How volumes of another voxel size are treated.
    previous_stage
        Configuration whose labels the network takes as further channels; None but for cascades.
    network, labels
        How scores are made, and what they mean.
    """

    patch: Index3
    planar: bool
    spacing: Vector3
    transpose: Index3
    inputs: tuple[ChannelRecipe, ...]
    resampling: Resampling
    previous_stage: str | None
    network: NetworkRecipe
    labels: LabelScheme

    @property
    def channels(self) -> int:
        """How many channels the network takes, those of a stage before included."""
        return len(self.inputs) + (len(self.labels.foreground) if self.previous_stage else 0)

    @property
    def source_spacing(self) -> Vector3:
        """`spacing` in the axis order (z, y, x) of the volume."""
        ordered = [0.0, 0.0, 0.0]
        for axis, length in zip(self.transpose, self.spacing, strict=True):
            ordered[axis] = length
        return to_vector(ordered)


def parse_recipe(plans: Any, dataset: Any, configuration: str) -> ModelRecipe:
    """Read the plans of one configuration.

    Parameters
    ----------
    plans, dataset
        Content of ``plans.json`` and ``dataset.json``.
    configuration
        Name of the configuration that the weights were trained for.

    Raises
    ------
    UnusableModel
        If something is missing or cannot be.
    UnsupportedModel
        If the model needs something that this runner cannot do.
    """
    if not isinstance(plans, dict) or not isinstance(dataset, dict):
        raise UnusableModel("plans.json or dataset.json holds no JSON object")
    _refuse_other_label_manager(plans)
    chosen = _configuration(plans, configuration)
    preprocessor = chosen.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != PREPROCESSOR:
        raise UnsupportedModel(
            f"the model needs the preprocessor {preprocessor!r}, and only nnU-Net's own is known",
            hint=f"if it prepares volumes as nnU-Net's does, install with --option accept_preprocessor={preprocessor}",
        )
    patch = _patch(chosen)
    inputs = tuple(_inputs(plans, chosen, channel_names(dataset)))
    return ModelRecipe(
        patch=patch,
        planar=len(chosen["patch_size"]) == 2,
        spacing=_spacing(plans, chosen),
        transpose=_transpose(plans),
        inputs=inputs,
        resampling=parse_resampling(chosen),
        previous_stage=_previous_stage(chosen),
        network=_network(chosen, dimensions=len(chosen["patch_size"])),
        labels=parse_label_scheme(dataset),
    )


def _refuse_other_label_manager(plans: dict[str, Any]) -> None:
    manager = plans.get("label_manager", LABEL_MANAGER)
    if manager != LABEL_MANAGER:
        raise UnsupportedModel(
            f"the model needs the label manager {manager!r}, and only nnU-Net's own is known",
            hint=f"if it decides labels as nnU-Net's does, install with --option accept_label_manager={manager}",
        )


def with_stock_classes(plans: dict[str, Any], *, preprocessor: str | None, label_manager: str | None) -> dict[str, Any]:
    """Plans in which classes that the user vouches for are nnU-Net's own.

    Parameters
    ----------
    plans
        Content of ``plans.json``; it stays as it is.
    preprocessor, label_manager
        Names of classes that do what nnU-Net's own do where volumes are segmented; None for none.
    """
    configurations = plans.get("configurations")
    if preprocessor is not None and isinstance(configurations, dict):
        changed = {
            name: {**each, "preprocessor_name": PREPROCESSOR}
            if isinstance(each, dict) and each.get("preprocessor_name") == preprocessor
            else each
            for name, each in configurations.items()
        }
        plans = {**plans, "configurations": changed}
    if label_manager is not None and plans.get("label_manager") == label_manager:
        plans = {**plans, "label_manager": LABEL_MANAGER}
    return plans


def channel_names(dataset: dict[str, Any]) -> tuple[str, ...]:
    """What a ``dataset.json`` calls the channels of volumes, in their order.

    Raises
    ------
    UnusableModel
        If it does not say.
    UnsupportedModel
        If there are more than `MOST_CHANNELS`.
    """
    channels = dataset.get("modality", dataset.get("channel_names"))
    if not isinstance(channels, dict) or not channels:
        raise UnusableModel("dataset.json does not say which channels the model takes")
    if set(channels) != {str(number) for number in range(len(channels))}:
        raise UnusableModel(f"dataset.json numbers the channels {', '.join(map(str, channels))}, not from 0 on")
    if len(channels) > MOST_CHANNELS:
        raise UnsupportedModel(
            f"the model takes {len(channels)} channels", hint=f"at most {MOST_CHANNELS} are possible"
        )
    return tuple(str(channels[str(number)]) for number in range(len(channels)))


def _configuration(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        raise UnusableModel("plans.json has no configurations")
    chain: list[dict[str, Any]] = []
    visited: set[str] = set()
    wanted: object = name
    while wanted is not None:
        if not isinstance(wanted, str) or wanted in visited or not isinstance(configurations.get(wanted), dict):
            raise UnusableModel(f"plans.json has no usable configuration {wanted!r}")
        visited.add(wanted)
        chain.append(configurations[wanted])
        wanted = chain[-1].get("inherits_from")
    merged: dict[str, Any] = {}
    for part in reversed(chain):
        merged.update(part)
    return merged


def _numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(part) in (int, float) and math.isfinite(part) and part > 0 for part in value)
    )


def _patch(chosen: dict[str, Any]) -> Index3:
    patch = chosen.get("patch_size")
    if not isinstance(patch, list) or not any(_numbers(patch, count) for count in (2, 3)) or any(p % 1 for p in patch):
        raise UnusableModel(f"plans.json has the patch size {patch!r}, which is not two or three positive numbers")
    if max(patch) > MAX_PATCH_EDGE or math.prod(patch) > MAX_PATCH_VOXELS:
        raise UnsupportedModel(f"a patch of {patch} voxels is too large")
    return to_index([1] * (3 - len(patch)) + patch)


def _spacing(plans: dict[str, Any], chosen: dict[str, Any]) -> Vector3:
    spacing, count = chosen.get("spacing"), len(chosen["patch_size"])
    if not isinstance(spacing, list) or not _numbers(spacing, count):
        raise UnusableModel(f"plans.json has the spacing {spacing!r}, which is not {count} lengths")
    if count == 3:
        return to_vector(spacing)
    trained = plans.get("original_median_spacing_after_transp")
    between = trained[0] if isinstance(trained, list) and _numbers(trained, 3) else min(spacing)
    return to_vector([between, *spacing])


def _transpose(plans: dict[str, Any]) -> Index3:
    forward = plans.get("transpose_forward", [0, 1, 2])
    if not isinstance(forward, list) or sorted(map(str, forward)) != ["0", "1", "2"]:
        raise UnusableModel(f"plans.json has the axis order {forward!r}, which is no order of three axes")
    return to_index(forward)


def _inputs(plans: dict[str, Any], chosen: dict[str, Any], names: Sequence[str]) -> Iterator[ChannelRecipe]:
    schemes, masked = chosen.get("normalization_schemes"), chosen.get("use_mask_for_norm")
    if not isinstance(schemes, list) or len(schemes) != len(names):
        raise UnusableModel(f"plans.json has the normalisation {schemes!r} for the channels {', '.join(names)}")
    if masked is None:
        masked = [None] * len(names)
    if not isinstance(masked, list) or len(masked) != len(names) or not {*map(type, masked)} <= {bool, type(None)}:
        raise UnusableModel(f"plans.json has use_mask_for_norm {masked!r} for the channels {', '.join(names)}")
    for number, (scheme, flag) in enumerate(zip(map(str, schemes), masked, strict=True)):
        if scheme not in SCHEMES:
            _require_supplied(scheme, masked=flag is True)
        yield ChannelRecipe(
            scheme=scheme,
            intensity=_intensity(plans, number) if scheme == "CTNormalization" or scheme not in SCHEMES else None,
            masked=scheme == "ZScoreNormalization" and flag is True,
        )


def _require_supplied(scheme: str, *, masked: bool) -> None:
    """Refuse a normalisation that is not nnU-Net's, unless a plugin has it."""
    if not is_supplied(NORMALISATIONS, scheme):
        raise UnsupportedModel(
            f"the model needs the normalisation {scheme!r}, which no installed plugin supplies",
            hint=f"known without a plugin: {', '.join(sorted(SCHEMES))}",
        )
    if masked:
        raise UnsupportedModel(f"the normalisation {scheme!r} of a plugin does not know the mask of use_mask_for_norm")


def _previous_stage(chosen: dict[str, Any]) -> str | None:
    previous = chosen.get("previous_stage") or None
    if previous is not None and (not isinstance(previous, str) or len(chosen["patch_size"]) == 2):
        raise UnusableModel(f"plans.json has {previous!r} as the stage before this one")
    return previous


def _intensity(plans: dict[str, Any], channel: int) -> IntensityProperties:
    every = plans.get(
        "foreground_intensity_properties_per_channel", plans.get("foreground_intensity_properties_by_modality")
    )
    known = every.get(str(channel)) if isinstance(every, dict) else None
    names = ("mean", "std", "percentile_00_5", "percentile_99_5")
    if not isinstance(known, dict) or not all(type(known.get(name)) in (int, float) for name in names):
        raise UnusableModel(f"plans.json has no intensity properties for the normalisation of channel {channel}")
    return IntensityProperties(**{name: float(known[name]) for name in names})


def _network(chosen: dict[str, Any], *, dimensions: int) -> NetworkRecipe:
    architecture = chosen.get("architecture")
    if architecture is None and "UNet_class_name" in chosen:
        architecture = _architecture_before_2_4(chosen, dimensions=dimensions)
    arguments = architecture.get("arch_kwargs") if isinstance(architecture, dict) else None
    if not isinstance(architecture, dict) or not isinstance(arguments, dict):
        raise UnusableModel("plans.json does not describe a network")
    for key, value in arguments.items():
        if key.endswith("_op") and str(value).endswith(f"{5 - dimensions}d"):
            raise UnusableModel(f"plans.json gives the network the {key} {value!r}, but patches of {dimensions} axes")
    return NetworkRecipe(class_name=str(architecture.get("network_class_name")), arguments=arguments)


def _architecture_before_2_4(chosen: dict[str, Any], *, dimensions: int) -> dict[str, Any]:
    """The network as plans described it before nnU-Net 2.4."""
    name = chosen["UNet_class_name"]
    depth_of = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
    try:
        stages = len(chosen["n_conv_per_stage_encoder"])
        base, highest = chosen["UNet_base_num_features"], chosen["unet_max_num_features"]
        arguments = {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**stage, highest) for stage in range(min(stages, 32))],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": chosen["conv_kernel_sizes"],
            "strides": chosen["pool_op_kernel_sizes"],
            depth_of[name]: chosen["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": chosen["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except (KeyError, TypeError) as error:
        raise UnusableModel(f"plans.json of the old format does not describe a known network: {error}") from error
    return {"network_class_name": f"dynamic_network_architectures.architectures.unet.{name}", "arch_kwargs": arguments}

"""Convolutions with half the products against PyTorch's in double precision; `test_fast_mode` has labels made so."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from cryomamba_backends.nnunet import winograd
from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.network import build_network
from cryomamba_backends.nnunet.plans import NetworkRecipe
from cryomamba_backends.nnunet.preparing import prepared
from cryomamba_backends.nnunet.winograd import halve_products, sums_convolve
from cryomamba_backends.nnunet.winograd import winograd as made

torch = pytest.importorskip("torch")

if not torch.backends.mkldnn.is_available():
    pytest.skip("this PyTorch has no oneDNN, whose convolutions the sums go through", allow_module_level=True)

#: Errors as a share of what is usual among the outputs: sums of numbers with 2²⁴ steps, some of them multiplied by 8.
TOLERANCE = 2e-5


def convolution(inputs, outputs, *, bias=True):
    """One with weights as a network has them, and maps for it."""
    random = torch.Generator().manual_seed(0)
    plain = torch.nn.Conv3d(inputs, outputs, 3, padding=1, bias=bias)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    plain.requires_grad_(requires_grad=False)
    return plain, lambda *shape: torch.randn(shape, generator=random)


def in_double(plain, maps):
    return copy.deepcopy(plain).double()(maps.double())


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE * expected.std()


def test_this_pytorch_convolves_sums():
    assert sums_convolve()


@pytest.mark.parametrize("band", [1, 5000, 1 << 17], ids=["line by line", "in bands", "whole"])
@pytest.mark.parametrize("size", [(8, 9, 10), (1, 6, 5), (2, 1, 1), (5, 13, 8), (11, 2, 3)], ids=str)
@torch.inference_mode()
def test_outputs_are_those_of_pytorch_for_any_extent(size, band, monkeypatch):
    monkeypatch.setattr(winograd, "BAND_NUMBERS", band)
    plain, random = convolution(12, 7)
    maps = random(2, 12, *size)
    assert_close(made(plain)(maps), in_double(plain, maps))


@pytest.mark.parametrize("channels", [(8, 8), (3, 13), (16,), (1, 2, 13)], ids=str)
@torch.inference_mode()
def test_maps_in_parts_are_convolved_as_if_joined_and_let_go(channels):
    plain, random = convolution(16, 9, bias=False)
    parts = [random(1, count, 6, 7, 5) for count in channels]
    expected = in_double(plain, torch.cat(parts, 1))
    found = made(plain)(parts)
    assert_close(found, expected)
    assert not parts, "what is convolved is held while the next layers compute"


@torch.inference_mode()
def test_maps_in_any_order_of_memory_are_convolved_and_not_changed():
    plain, random = convolution(16, 8)
    maps = random(1, 16, 6, 7, 5)
    for laid in (maps, maps.contiguous(memory_format=torch.channels_last_3d), maps.flip(2).flip(2)):
        found = made(plain)(laid)
        assert_close(found, in_double(plain, maps))
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(maps, laid)


@torch.inference_mode()
def test_an_extreme_number_costs_digits_near_it_alone():
    plain, random = convolution(8, 8)
    maps = random(1, 8, 24, 9, 9)
    usual = made(plain)(maps)
    maps[0, 2, 12, 4, 4] = 1e6
    found, expected = made(plain)(maps), in_double(plain, maps)
    near = torch.zeros(found.shape, dtype=torch.bool)
    near[:, :, 7:18, 3:6, 3:6] = True
    assert torch.equal(found[~near], usual[~near])
    assert (found - expected).abs().max() < TOLERANCE * 1e6


@torch.inference_mode()
def test_numbers_that_are_not_finite_stay_so():
    plain, _ = convolution(8, 8)
    for value in (np.inf, -np.inf, np.nan):
        maps = torch.ones((1, 8, 4, 4, 4))
        maps[0, 0, 1, 1, 1] = value
        assert not made(plain)(maps).isfinite().all()


def test_only_convolutions_that_are_worth_it_are_changed():
    def changed(*layers):
        network = torch.nn.Sequential(*layers)
        halve_products(network)
        return [type(layer).__name__ == "Winograd" for layer in network]

    conv = torch.nn.Conv3d
    assert changed(conv(8, 8, 3, padding=1), conv(512, 256, 3, padding=1)) == [True, True]
    others = [
        conv(7, 8, 3, padding=1),
        conv(8, 7, 3, padding=1),
        conv(320, 320, 3, padding=1),
        conv(8, 8, 3, padding=1, stride=2),
        conv(8, 8, 3, padding=1, stride=(1, 2, 2)),
        conv(8, 8, 3, padding=2, dilation=2),
        conv(8, 8, 3),
        conv(8, 8, (1, 3, 3), padding=(0, 1, 1)),
        conv(8, 8, 3, padding=1, groups=2),
        conv(8, 8, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(8, 8, 3, padding=1),
    ]
    assert changed(*others) == [False] * len(others)


@pytest.mark.parametrize("features", [[8, 16, 32], [8, 16, 320, 320]], ids=["all in parts", "some joined"])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"])
@torch.inference_mode()
def test_scores_of_every_architecture_stay_what_they_were(kind, features):
    stages = len(features)
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": "torch.nn.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        blocks: [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = f"dynamic_network_architectures.architectures.unet.{kind}"
    network = build_network(NetworkRecipe(class_name=name, arguments=arguments), channels=1, heads=3)
    torch.manual_seed(0)
    network = network.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.1 if parameter.ndim > 1 else 1))
    tile = torch.randn((1, 1, 16, 24, 16))
    expected = copy.deepcopy(network).double()(tile.double())
    plain = network(tile)
    network = prepared(network, Course(mode="fast", device="cpu", precision="single", order=(0, 1, 2), axes=(0, 1, 2)))
    assert sum(type(layer).__name__ == "Winograd" for layer in network.modules()) >= stages
    error = (network(tile) - expected).std()
    # Of a network in single precision: scores differ from double precision anyway.
    assert error < 5 * (plain - expected).std() + 1e-6 * expected.std()
    assert torch.equal(network(tile), network(tile)), "a tile leaves something behind"

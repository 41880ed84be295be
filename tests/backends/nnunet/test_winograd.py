"""Convolutions with half the products against PyTorch's in double precision; `test_fast_mode` has labels made so."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
from unets import unet

from cryomamba_backends.nnunet import winograd
from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.network import build_network
from cryomamba_backends.nnunet.preparing import prepared
from cryomamba_backends.nnunet.winograd import is_worth_it, sums_convolve
from cryomamba_backends.nnunet.winograd import winograd as made

torch = pytest.importorskip("torch")

if not torch.backends.mkldnn.is_available():
    pytest.skip("this PyTorch has no oneDNN, whose convolutions the sums go through", allow_module_level=True)

AXES = (0, 1, 2)

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
    assert_close(made(plain)([maps]), in_double(plain, maps))


@pytest.mark.parametrize("channels", [(8, 8), (3, 13), (16,), (1, 2, 13)], ids=str)
@torch.inference_mode()
def test_maps_in_parts_are_convolved_as_if_joined(channels):
    plain, random = convolution(16, 9, bias=False)
    parts = [random(1, count, 6, 7, 5) for count in channels]
    assert_close(made(plain)(parts), in_double(plain, torch.cat(parts, 1)))


@pytest.mark.parametrize(("channels", "edge"), [(16, 48), (64, 24), (24, 33)], ids=str)
@torch.inference_mode()
def test_outputs_are_the_same_for_any_count_of_threads(channels, edge, with_threads):
    plain, random = convolution(channels, channels)
    maps = random(1, channels, edge, edge, edge)
    one, *others = with_threads(lambda: made(plain)([maps]), 1, 2, 3, 5)
    assert all(torch.equal(one, other) for other in others)


@torch.inference_mode()
def test_maps_in_any_order_of_memory_are_convolved_and_not_changed():
    plain, random = convolution(16, 8)
    maps = random(1, 16, 6, 7, 5)
    for laid in (maps, maps.contiguous(memory_format=torch.channels_last_3d), maps.flip(2).flip(2)):
        found = made(plain)([laid])
        assert_close(found, in_double(plain, maps))
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(maps, laid)


@torch.inference_mode()
def test_an_extreme_number_costs_digits_near_it_alone():
    plain, random = convolution(8, 8)
    maps = random(1, 8, 24, 9, 9)
    usual = made(plain)([maps])
    maps[0, 2, 12, 4, 4] = 1e6
    found, expected = made(plain)([maps]), in_double(plain, maps)
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
        assert not made(plain)([maps]).isfinite().all()


def test_only_convolutions_that_are_worth_it_are_changed():
    conv, area = torch.nn.Conv3d, 128 * 128
    assert is_worth_it(conv(8, 8, 3, padding=1), area)
    assert is_worth_it(conv(512, 256, 3, padding=1), 64)
    others = [
        conv(7, 8, 3, padding=1),  # too little to do
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
    assert not any(is_worth_it(layer, area) for layer in others)


PATCH = (16, 24, 32)


def network_of(kind, features):
    """A network with random weights, for tiles of `PATCH`."""
    recipe = unet(kind, features, [(1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * (len(features) - 2)])
    network = build_network(recipe, channels=1, heads=3)
    network = network.to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random) * (0.1 if parameter.ndim > 1 else 1))
    return network


def in_single(network):
    return prepared(network, Course(mode="fast", device="cpu", precision="single", order=AXES, axes=AXES), PATCH)


@pytest.mark.parametrize("features", [[32, 32, 64], [32, 64, 320, 320]], ids=["all in parts", "some joined"])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"])
@torch.inference_mode()
def test_scores_of_every_architecture_stay_what_they_were(kind, features, monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 1)
    network = network_of(kind, features)
    tile = torch.randn((1, 1, *PATCH), generator=torch.Generator().manual_seed(1))
    expected = copy.deepcopy(network).double()(tile.double())
    plain = network(tile)
    network = in_single(network)
    assert sum(type(layer).__name__ == "Winograd" for layer in network.modules()) >= len(features)
    error = (network(tile) - expected).std()
    # Scores in single precision differ from those in double anyway.
    assert error < 5 * (plain - expected).std() + 1e-6 * expected.std()
    assert torch.equal(network(tile), network(tile)), "a tile leaves something behind"


@torch.inference_mode()
def test_layers_change_where_a_row_of_their_maps_has_enough_to_do(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 24 * 32 * 16 * 16)  # as a row of 16 channels has at full size

    def changed(stages):
        return [
            [type(block.conv).__name__ == "Winograd" for block in stage.convs]
            for stage in (stage[0] if isinstance(stage, torch.nn.Sequential) else stage for stage in stages)
        ]

    network = in_single(network_of("PlainConvUNet", [16, 16, 32]))
    # The first has one input, and the first of later stages goes in strides; below, rows have a quarter of the voxels.
    assert changed(network.encoder.stages) == [[False, True], [False, False], [False, False]]
    assert changed(network.decoder.stages) == [[False, False], [True, True]]


@torch.inference_mode()
def test_nothing_holds_what_a_decoder_convolved(monkeypatch):
    """Maps in parts and skips are gone when the next layer computes: at full size they are the most that there is."""
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 1)
    network = in_single(network_of("PlainConvUNet", [16, 16, 32]))
    held = []
    *_, last = network.decoder.transpconvs
    last.register_forward_hook(lambda _, given, made: held.append(weakref.ref(made)))
    first, second = (block.conv for block in network.decoder.stages[-1].convs)
    network.encoder.stages[0].register_forward_hook(lambda _, given, made: held.append(weakref.ref(made)))
    alive = {}
    first.register_forward_pre_hook(lambda *_: alive.update(first=[ref() is not None for ref in held]))
    second.register_forward_pre_hook(lambda *_: alive.update(second=[ref() is not None for ref in held]))
    network(torch.randn((1, 1, *PATCH)))
    assert alive == {"first": [True, True], "second": [False, False]}

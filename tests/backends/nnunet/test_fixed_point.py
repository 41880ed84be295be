"""Convolutions in fixed point against PyTorch's in double precision; `test_fast_mode` has labels made with them."""

from __future__ import annotations

import numpy as np
import pytest

from cryomamba_backends.nnunet import fixed_point
from cryomamba_backends.nnunet.fixed_point import bytes_convolve, force_fixed_point
from cryomamba_backends.nnunet.fixed_point import fixed_point as made

torch = pytest.importorskip("torch")

if not bytes_convolve():
    pytest.skip("PyTorch convolves bytes inexactly on this CPU", allow_module_level=True)


def in_double(plain, maps):
    return torch.nn.functional.conv3d(
        maps.double(), plain.weight.double(), plain.bias.double(), plain.stride, plain.padding, plain.dilation
    )


@pytest.mark.parametrize("slab", [1, 400, 1 << 21])
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "stride": (1, 2, 2)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2},
    ],
    ids=str,
)
@torch.inference_mode()
def test_a_convolution_is_far_closer_to_double_precision_than_in_bfloat16(geometry, slab, monkeypatch):
    monkeypatch.setattr(fixed_point, "SLAB_NUMBERS", slab)
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Conv3d(5, 7, **geometry)
    for tensor in (plain.weight, plain.bias):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    maps = 3 * torch.randn((2, 5, 9, 10, 11), generator=generator)
    expected = in_double(plain, maps)
    error = (made(plain)(maps) - expected).std()
    plain.to(torch.bfloat16)
    assert error < (plain(maps.to(torch.bfloat16)) - expected).std() / 25  # about a thirty-fifth


@torch.inference_mode()
def test_extreme_numbers_of_the_range_do_not_wrap_around():
    plain = torch.nn.Conv3d(2, 2, 3, padding=1)
    plain.weight[0], plain.weight[1], plain.bias[:] = 1, -1, 0
    for value in (1.0, -1.0, 1e-30, 1e30, 0.0):
        maps = torch.full((1, 2, 4, 4, 4), value)
        # Half a step of 32,600 for an input, of 32,639 for a weight, and 2¹⁴ of 2³⁰ for the product that is left out.
        torch.testing.assert_close(made(plain)(maps).double(), in_double(plain, maps), rtol=4e-5, atol=0)


@torch.inference_mode()
def test_numbers_whose_steps_have_no_reciprocal_are_zero():
    plain = torch.nn.Conv3d(2, 2, 3, padding=1)
    for value in (1e-34, -1e-38, 1e-42):
        found = made(plain)(torch.full((1, 2, 4, 4, 4), value))
        torch.testing.assert_close(found, plain.bias[:, None, None, None].expand(found.shape))


@torch.inference_mode()
def test_a_few_extreme_numbers_do_not_make_the_others_coarse():
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Conv3d(5, 7, 3, padding=1)
    maps = torch.randn((1, 5, 20, 20, 20), generator=generator)
    usual = (made(plain)(maps) - in_double(plain, maps)).std()
    maps[0, :, 8, 8, 8], maps[0, 2, 3, 19, 0] = 1e3, -1e5
    expected = in_double(plain, maps)
    error = (made(plain)(maps) - expected).abs()
    untouched = torch.nn.functional.max_pool3d(maps.abs().amax(1, keepdim=True), 3, 1, 1) < 10
    # Steps are 32 times the usual numbers then, whose largest are 4 times them.
    assert error.mul(untouched).max() < 8 * 6 * usual
    assert error.max() < 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_an_image_is_computed_the_same_beside_any_other():
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Conv3d(5, 7, 3, padding=1)
    maps = torch.randn((2, 5, 9, 10, 11), generator=generator)
    maps[1, 0, 4, 4, 4] = 1e4
    both = made(plain)(maps)
    for image in range(2):
        assert torch.equal(both[image : image + 1], made(plain)(maps[image : image + 1]))


@torch.inference_mode()
def test_numbers_that_are_not_finite_stay_so():
    maps = torch.ones((1, 2, 4, 4, 4))
    for value in (np.inf, -np.inf, np.nan):
        maps[0, 0, 1, 1, 1] = value
        assert not made(torch.nn.Conv3d(2, 1, 3, padding=1))(maps).isfinite().all()


def test_only_convolutions_that_are_worth_it_are_changed():
    def kinds(*layers):
        network = torch.nn.Sequential(*layers)
        force_fixed_point(network)
        return [type(layer).__name__ for layer in network]

    conv = torch.nn.Conv3d
    assert kinds(conv(32, 4, 3), conv(31, 4, 3), conv(64, 4, 1), conv(64, 64, 3, groups=2)) == [
        "FixedPoint",
        "Conv3d",
        "Conv3d",
        "Conv3d",
    ]
    assert kinds(conv(32, 4, 3, padding=1, padding_mode="reflect"), conv(2500, 4, 3), torch.nn.Conv2d(32, 4, 3)) == [
        "Conv3d",
        "Conv3d",  # its sums could leave 32 bits
        "Conv2d",
    ]

"""Instance normalisation of channels side by side: the judges are PyTorch's in double precision, and stock networks."""

from __future__ import annotations

import numpy as np
import pytest

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.fixed_point import bytes_convolve
from cryomamba_backends.nnunet.instance_norm import normalise_side_by_side
from cryomamba_backends.nnunet.preparing import prepared

torch = pytest.importorskip("torch")


def side_by_side(plain):
    network = torch.nn.Sequential(plain)
    normalise_side_by_side(network)
    assert type(network[0]) is not type(plain)
    return network


SHAPES = [(32, 24, 40, 40), (64, 7, 9, 11), (37, 33, 31, 29), (1, 20, 40, 50), (3, 2, 1, 1), (33, 150, 211)]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_channels_of_little_spread_are_normalised_as_in_double_precision(shape, affine, with_threads):
    channels, *size = shape
    random = torch.Generator().manual_seed(0)
    plain = {3: torch.nn.InstanceNorm3d, 2: torch.nn.InstanceNorm2d}[len(size)](channels, affine=affine)
    for parameter in plain.parameters():
        parameter.copy_(torch.randn(channels, generator=random))
    maps = -2 + 0.01 * torch.randn((2, *shape), generator=random)
    maps += torch.linspace(0, 0.05, size[0]).view(-1, *[1] * (len(size) - 1))  # and a slope over pieces
    maps = maps.contiguous(memory_format={3: torch.channels_last_3d, 2: torch.channels_last}[len(size)])
    found = with_threads(lambda: side_by_side(plain)(maps.clone()), 1, 2, 3, 5)  # they are written to
    expected = plain.double()(maps.double())
    # The mean is 200 times the spread, and single precision has steps of 6e-8 of it.
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-4)
    assert all(torch.equal(scores, found[0]) for scores in found), "threads change the result"


@torch.inference_mode()
def test_maps_in_bfloat16_stay_so():
    maps = torch.randn((1, 32, 8, 9, 10), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    plain = torch.nn.InstanceNorm3d(32)
    found = side_by_side(plain)(maps.clone())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), plain(maps.double()), rtol=2**-8, atol=0)


@pytest.fixture
def network_of(runner, tiny_tomo_model):
    """A network of tiny-tomo, prepared for a precision; of stock's if there is none."""
    installed = runner._find(runner.install(tiny_tomo_model, name="tiny"))

    def make(precision=None):
        plain = installed.network(installed.record.folds[0], installed.recipe())
        if precision is None:
            return plain
        course = Course(mode="fast", device="cpu", precision=precision, order=(0, 1, 2), axes=(0, 1, 2))
        return prepared(plain, course, installed.recipe().patch)

    return make


PRECISIONS = [
    "single",
    pytest.param(
        "fixed", marks=pytest.mark.skipif(not bytes_convolve(), reason="PyTorch convolves bytes inexactly on this CPU")
    ),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_a_tile_of_little_contrast_has_the_labels_of_the_stock_network(precision, network_of, vesicles):
    array = vesicles((64, 64, 64))
    tile = torch.from_numpy((array - array.mean()) / array.std())[None, None] * 0.01 - 2
    expected, found = (network(tile).argmax(1) for network in (network_of(), network_of(precision)))
    assert np.mean((found != expected).numpy()) <= 1e-4  # what fast mode promises; 1e-2 with squares of whole numbers


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_scores_are_the_same_for_any_count_of_threads(precision, network_of, vesicles, with_threads):
    array = vesicles((64, 64, 64))
    tile = torch.from_numpy((array - array.mean()) / array.std())[None, None]
    network = network_of(precision)
    one, *others = with_threads(lambda: network(tile), 1, 2, 3)
    assert all(torch.equal(one, scores) for scores in others)

import numpy as np
import pytest

from cryomamba_core import volumes
from cryomamba_core.errors import UnusableVolume
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.volumes import measure_intensity


@pytest.fixture(params=[1, 10**9], ids=["a section at a time", "all at once"])
def slabs(request, monkeypatch):
    monkeypatch.setattr(volumes, "slab_depth", lambda shape: max(1, min(shape[0], request.param)))


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_grey_values_are_summarised_as_numpy_would_in_float64(offset):
    array = (np.random.default_rng(1).normal(size=(7, 8, 9)) + offset).astype(np.float32)
    found, exact = measure_intensity(ArrayVolume(array)), array.astype(np.float64)
    assert (found.minimum, found.maximum) == (exact.min(), exact.max())
    assert found.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert found.standard_deviation == pytest.approx(exact.std(), rel=1e-9)  # float64, after a large offset


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted_and_refused(value):
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    array[1, 2, 3] = value
    with pytest.raises(UnusableVolume, match="1 voxels between sections") as caught:
        measure_intensity(ArrayVolume(array))
    assert caught.value.hint


@pytest.mark.usefixtures("slabs")
def test_a_volume_without_contrast_is_refused():
    with pytest.raises(UnusableVolume, match="all voxels have the value 5"):
        measure_intensity(ArrayVolume(np.full((3, 4, 5), 5, np.int8)))

import numpy as np
import pytest
from tomograms import spread

from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_gui.volumes.planes import PlaneStore

ARRAY = spread((6, 7, 8))
KEYS = [
    3,
    -1,
    np.int64(2),
    slice(None),
    Ellipsis,
    (slice(None), 3),
    (slice(None), slice(None), 5),
    (Ellipsis, 5),
    (2, Ellipsis),
    (1, 2, 3),
    (np.intp(1), -2, np.uint8(3)),
    (1, 2),
    (1, 2, slice(2, 5)),
    (slice(2, 3), slice(None), slice(None)),
    (slice(None), slice(2, 3), slice(1, 7, 2)),
    (slice(1, 4), slice(None), slice(6, 7)),
    (slice(1, 2), slice(2, 3), slice(None)),
    (slice(1, 2), 4, slice(None)),
    (slice(1, 5, 2), slice(None, None, 3), slice(1, -1)),
    (slice(None, None, -1), 3, slice(None, None, -2)),
    (slice(5, 1, -2), slice(None, None, -3), slice(6, 0, -1)),
    (3, slice(4, 4), slice(None)),
    (slice(3, 1), slice(None), slice(None)),
    (slice(-100, 100), 0, slice(-3, None)),
]


@pytest.fixture
def store(patient):
    store = PlaneStore(ArrayVolume(ARRAY))
    yield store
    store.close()


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_an_index_selects_what_it_does_of_an_array(store, key):
    found, expected = store[key], ARRAY[key]
    assert np.shape(found) == np.shape(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 7, 8), (6, 1, 8), (6, 7, 1), (1, 1, 8), (1, 1, 1)], ids=str)
def test_a_thin_volume_has_planes_across_every_axis(patient, shape):
    array = spread(shape)
    store = PlaneStore(ArrayVolume(array))
    for axis in range(3):
        for index in range(shape[axis]):
            key = tuple(index if other == axis else slice(None) for other in range(3))
            np.testing.assert_array_equal(store[key], array[key])
    np.testing.assert_array_equal(store[...], array)
    store.close()


@pytest.mark.parametrize("key", [6, -7, (0, 7), (0, 0, 8), (0, 0, 0, 0), (Ellipsis, Ellipsis)], ids=str)
def test_an_index_that_leads_outside_is_refused_as_by_an_array(store, key):
    with pytest.raises(IndexError):
        ARRAY[key]
    with pytest.raises(IndexError):
        store[key]


@pytest.mark.parametrize("key", [None, True, [1, 2], np.array([1]), np.ones(6, bool), 1.5, "a"], ids=repr)
def test_an_index_that_is_not_basic_is_refused(store, key):
    with pytest.raises(IndexError, match="only numbers, slices and an ellipsis"):
        store[key]

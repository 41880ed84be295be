import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomamba_core.errors import StorageDamaged
from cryomamba_core.geometry import Region
from cryomamba_core.label_file import LabelFile

SHAPE = (4, 5, 6)


def bounds(size):
    return st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted)


@settings(max_examples=60)
@given(st.tuples(*[bounds(size) for size in SHAPE]), st.sampled_from([np.uint8, np.uint16]))
def test_every_region_is_written_and_read_as_numpy_would(tmp_path_factory, region, dtype):
    path = tmp_path_factory.mktemp("labels") / "labels.raw"
    expected = np.zeros(SHAPE, dtype)
    (z0, z1), (y0, y1), (x0, x1) = region
    place = Region(start=(z0, y0, x0), stop=(z1, y1, x1))
    piece = np.arange(1, place.size + 1).reshape(place.shape).astype(dtype)
    expected[place.slices] = piece
    with LabelFile(path, SHAPE, np.dtype(dtype), create=True) as labels:
        labels.write(place, piece)
        assert np.array_equal(labels[place.slices], piece)
        assert np.array_equal(labels[:], expected)
        assert np.array_equal(labels[:, y0:y1], expected[:, y0:y1])
    assert np.array_equal(np.fromfile(path, np.dtype(dtype).newbyteorder("<")).reshape(SHAPE), expected)


def test_a_file_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "labels.raw").write_bytes(b"1")
    with pytest.raises(StorageDamaged):
        LabelFile(tmp_path / "labels.raw", SHAPE, np.dtype(np.uint8))


def test_a_file_that_is_shared_is_written_to_as_it_is(tmp_path, monkeypatch):
    path, dtype = tmp_path / "labels.raw", np.dtype(np.uint8)
    with pytest.raises(FileNotFoundError):
        LabelFile(path, SHAPE, dtype, update=True)
    LabelFile(path, SHAPE, dtype, create=True).close()
    monkeypatch.setattr(LabelFile, "_reserve", None)  # it would write beneath others
    with LabelFile(path, SHAPE, dtype, update=True) as labels:
        labels.write(Region(start=(1, 0, 0), stop=(2, 5, 6)), np.ones((1, 5, 6), np.uint8))
    assert np.array_equal(np.fromfile(path, np.uint8).reshape(SHAPE)[1:3, 0, 0], [1, 0])
    os.truncate(path, 119)
    with pytest.raises(StorageDamaged):
        LabelFile(path, SHAPE, dtype, update=True)


def test_steps_are_refused(tmp_path):
    with (
        LabelFile(tmp_path / "labels.raw", SHAPE, np.dtype(np.uint8), create=True) as labels,
        pytest.raises(IndexError),
    ):
        labels[::2]


def test_taking_an_existing_file_keeps_what_is_in_it(tmp_path):
    whole = Region.of_shape(SHAPE)
    for _ in range(2):
        with LabelFile(tmp_path / "labels.raw", SHAPE, np.dtype(np.uint8), create=True) as labels:
            before = labels[:]
            labels.write(whole, np.full(SHAPE, 7, np.uint8))
    assert (before == 7).all()

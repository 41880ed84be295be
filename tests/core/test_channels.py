"""Volumes that become channels: their type, their place, and what is said when one cannot be read."""

import numpy as np
import pytest

from cryomamba_core.channels import Channel, holding_type
from cryomamba_core.errors import PluginFault, TruncatedFile
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.interfaces import Exporter
from cryomamba_core.testing.volumes import ArrayVolume

EVERY = ("int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32", "int64", "uint64", "float64")
MRC = ("int8", "int16", "uint16", "float16", "float32")
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
PART = Region(start=(0, 1, 1), stop=(2, 3, 2))


@pytest.mark.parametrize("name", EVERY)
def test_a_type_that_is_offered_is_kept(name):
    assert holding_type([np.dtype(name), np.dtype(name).newbyteorder(">")], EVERY) == np.dtype(name)


@pytest.mark.parametrize(
    ("names", "offered", "found"),
    [
        (("int8", "uint8"), EVERY, "int16"),
        (("uint8",), MRC, "int16"),
        (("int16", "uint16"), EVERY, "int32"),
        (("int16", "uint16"), MRC, "float32"),
        (("uint8", "float16"), MRC, "float16"),
        (("int16", "float16"), MRC, "float32"),
        (("int32", "float32"), EVERY, "float64"),
        (("uint32",), MRC, None),
        (("int64", "float32"), EVERY, None),  # numpy takes float64, which has 53 digits for 63
        (("int64", "uint64"), EVERY, None),
        (("float64",), MRC, None),
        (("complex64",), EVERY, None),
        (("int8",), (), None),
    ],
)
def test_the_smallest_type_is_taken_that_holds_every_number(names, offered, found):
    assert holding_type(map(np.dtype, names), offered) == (None if found is None else np.dtype(found))


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16", "float16"])
def test_what_is_held_survives_the_way_there_and_back(name):
    dtype = np.dtype(name)
    every = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    for other in EVERY:
        if holding_type([dtype], [other]) is not None:
            np.testing.assert_array_equal(every.astype(other).astype(dtype), every)


def test_a_channel_is_its_volume_in_another_type_and_counts_what_is_read():
    counted = []
    volume = ArrayVolume(VOXELS, voxel_size=(3, 4, 5))
    channel = Channel(volume, name="a", dtype=np.dtype(np.float32), on_read=counted.append)
    assert channel.dtype == channel.read(PART).dtype == np.float32
    np.testing.assert_array_equal(channel.read(PART), VOXELS[PART.slices])
    assert counted == [4, 4]
    assert (channel.grid, channel.channels, channel.warnings) == (volume.grid, (channel,), ())
    channel.close()
    assert not volume.closed


def test_a_channel_may_lie_where_another_does():
    placed = ArrayVolume(VOXELS, grid=VoxelGrid(shape=(2, 3, 4), voxel_size=(9, 9, 9), origin=(1, 2, 3)))
    stored = VoxelGrid(shape=(2, 3, 4), voxel_size=(1, 1, 1), stored_axes=(1, 0, 2))
    channel = Channel(ArrayVolume(-VOXELS, grid=stored), name="a", placed_as=placed)
    assert channel.grid == placed.grid
    assert channel.source_axes == (1, 0, 2)
    np.testing.assert_array_equal(channel.read(channel.grid.whole), -VOXELS)


def test_an_error_says_in_which_channel_it_was_met():
    class Cut(ArrayVolume):
        def read(self, region):
            raise TruncatedFile("the file ends early", hint="copy it again")

    with pytest.raises(TruncatedFile, match=r"^b\.mrc: the file ends early$") as caught:
        Channel(Cut(VOXELS), name="b.mrc").read(PART)
    assert caught.value.message == str(caught.value)
    assert caught.value.hint == "copy it again"


def test_an_exporter_that_says_it_writes_channels_and_does_not_is_at_fault(tmp_path):
    class Boasting(Exporter):
        name, artifact, suffix, media_type = "boasting", "mask.b", ".b", "x/b"
        channel_suffixes, channel_types = (".b",), ("int8",)

        def write(self, labels, grid, info, path):
            return ()

    with pytest.raises(PluginFault, match="boasting says that it writes channels"):
        Boasting().write_channels([Channel(ArrayVolume(VOXELS), name="a")], tmp_path / "a.b")

"""Volumes beside the labels: their names, who writes them, and their bins. See test_worker for a job that has one."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cryomamba_core import companions
from cryomamba_core.companions import BinnedArray, Companion, CompanionFiles, companion_artifacts
from cryomamba_core.errors import InvalidParameter, PluginFault
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.interfaces import Exporter
from cryomamba_core.labels import LabelBlock


@pytest.mark.parametrize("values", [np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 2), np.uint16)])
def test_a_companion_lies_on_its_labels_and_is_bytes(values):
    with pytest.raises(PluginFault, match="doubt of"):
        LabelBlock(
            region=Region.of_shape((1, 2, 2)), labels=np.zeros((1, 2, 2), np.uint8), companions={"doubt": values}
        )


@pytest.mark.parametrize("name", ["labels", "mask", "Doubt", "a/b", "", "../a", "9a", "a" * 41])
def test_a_companion_has_a_name_that_files_can_have(name):
    with pytest.raises(PluginFault, match="no name"):
        Companion(name=name, meaning="")


@pytest.mark.parametrize("binning", [0, 65])
def test_binning_has_bounds(binning):
    with pytest.raises(PluginFault, match="binned by"):
        Companion(name="doubt", meaning="", binning=binning)


def test_a_companion_speaks_of_a_label_that_can_be():
    assert Companion(name="doubt", meaning="").label is None
    with pytest.raises(PluginFault, match="speaks of a label -1"):
        Companion(name="doubt", meaning="", label=-1)


def exporter(suffix, *, writes=True, stem="mask"):
    return SimpleNamespace(
        artifact=stem + suffix, writes_companions=writes, companion_artifact=lambda companion: companion.name + suffix
    )


def test_an_exporter_that_says_it_writes_companions_and_does_not_is_at_fault(tmp_path):
    class Boasting(Exporter):
        name, artifact, suffix, media_type = "boasting", "mask.b", ".b", "x/b"
        writes_companions = True

        def write(self, labels, grid, info, path):
            return ()

    values, grid = np.zeros((1, 2, 2), np.uint8), VoxelGrid(shape=(1, 2, 2), voxel_size=(1, 1, 1))
    with pytest.raises(PluginFault, match="boasting says that it writes companions"):
        Boasting().write_companion(values, grid, Companion(name="doubt", meaning=""), None, tmp_path / "doubt.b")


def test_each_exporter_that_can_writes_each_companion():
    doubt, trust = (Companion(name=name, meaning="") for name in ("doubt", "trust"))
    exporters = [exporter(".a"), exporter(".b", writes=False), exporter(".c")]
    made = companion_artifacts([doubt, trust], exporters)
    assert [name for *_, name in made] == ["doubt.a", "doubt.c", "trust.a", "trust.c"]
    assert companion_artifacts([], exporters[1:2]) == ()


def test_a_companion_that_no_file_can_hold_is_refused_with_a_hint():
    with pytest.raises(InvalidParameter, match=r"can hold the doubt: mask\.b") as caught:
        companion_artifacts([Companion(name="doubt", meaning="")], [exporter(".b", writes=False)])
    assert "mask.mrc" in caught.value.hint


@pytest.mark.parametrize("other", [exporter(".a"), exporter(".a", stem="doubt", writes=False)])
def test_two_files_of_one_name_are_a_fault(other):
    with pytest.raises(PluginFault, match=r"'(doubt|mask)\.a'"):
        companion_artifacts([Companion(name="doubt", meaning="")], [exporter(".a"), other])


@pytest.mark.parametrize("binning", [1, 2, 3, 7, 64])
def test_any_region_of_a_binned_volume_can_be_read(binning, monkeypatch):
    monkeypatch.setattr(companions, "PIECE_VOXELS", 100)
    fine = np.random.default_rng(4).integers(0, 256, (7, 11, 13), dtype=np.uint8)
    binned = BinnedArray(fine, binning)
    shape = tuple(-(-size // binning) for size in fine.shape)
    padded = np.full([size * binning for size in shape], np.nan)
    padded[tuple(map(slice, fine.shape))] = fine
    blocks = padded.reshape(shape[0], binning, shape[1], binning, shape[2], binning)
    whole = np.floor(np.nanmean(blocks, axis=(1, 3, 5)) + 0.5)
    assert (binned.shape, binned.dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(binned[:], whole)
    for index in (np.s_[1:], np.s_[:2, 1:3], np.s_[:, :, 2:5], np.s_[1:1], np.s_[2:, :1, 1:]):
        np.testing.assert_array_equal(binned[index], whole[index])


def test_files_of_one_name_are_a_fault(tmp_path: Path):
    with pytest.raises(PluginFault, match="same name"):
        CompanionFiles(tmp_path.joinpath, [Companion(name="a", meaning=""), Companion(name="a", meaning="")], (1, 1, 1))

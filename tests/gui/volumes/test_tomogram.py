import gzip
import os
import threading
from pathlib import Path

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
from tomograms import DEADLINE, spread, write_mrc

from cryomamba_core.errors import InputError, MissingFile, TruncatedFile
from cryomamba_gui.volumes import surveying
from cryomamba_gui.volumes.describing import describe, describe_overview
from cryomamba_gui.volumes.overview_cache import OverviewCache
from cryomamba_gui.volumes.tomogram import Tomogram


def quietly(tomogram):
    return tomogram.survey(lambda done, sections: None, lambda: False)


def write_nifti(path, array):
    image = nibabel.Nifti1Image(array.T, np.diag([1e-6, 1e-6, 1e-6, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def write_nrrd(path, array):
    nrrd.write(str(path), array.T, {"spacings": [10.0, 10.0, 10.0]})
    return path


@pytest.fixture
def opened(host, cache):
    """Opens tomograms and closes them at the end."""
    tomograms = []

    def open_one(path, **values):
        tomograms.append(Tomogram.open(host, path, cache=cache, **values))
        return tomograms[-1]

    yield open_one
    for tomogram in tomograms:
        tomogram.close()


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.mrc", write_mrc), ("a.nii", write_nifti), ("a.nii.gz", write_nifti), ("a.nrrd", write_nrrd)],
)
def test_every_format_is_shown(opened, patient, tmp_path, name, write):
    array = spread((12, 13, 14), np.int16)
    tomogram = opened(write(tmp_path / name, array))
    assert tomogram.reader == {"mrc": "mrc", "nii": "nifti", "gz": "nifti", "nrrd": "nrrd"}[name.rsplit(".")[-1]]
    assert (tomogram.grid.shape, tomogram.dtype) == (array.shape, np.int16)
    assert (tomogram.planes.shape, tomogram.planes.dtype) == (array.shape, np.int16)
    assert tomogram.contrast == pytest.approx(np.percentile(array, (0.5, 99.5)), abs=60)
    for axis in range(3):
        key = tuple(7 if other == axis else slice(None) for other in range(3))
        np.testing.assert_array_equal(tomogram.planes[key], array[key])
    overview = quietly(tomogram)
    np.testing.assert_array_equal(overview.voxels, array)
    assert overview.statistics.mean == pytest.approx(array.mean())


def test_a_file_in_another_axis_order_is_shown_as_zyx(opened, patient, tmp_path):
    stored = spread((12, 13, 14))
    with mrcfile.new(tmp_path / "a.mrc", stored) as file:
        file.voxel_size = 10
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1
    tomogram = opened(tmp_path / "a.mrc")
    assert tomogram.grid.stored_axes == (2, 1, 0)
    for axis in range(3):
        key = tuple(5 if other == axis else slice(None) for other in range(3))
        np.testing.assert_array_equal(tomogram.planes[key], stored.transpose(2, 1, 0)[key])
    np.testing.assert_array_equal(quietly(tomogram).voxels, stored.transpose(2, 1, 0))
    assert ("Stored axes", "x, y, z (slowest first)") in describe(tomogram)


def test_the_middle_section_is_there_at_once(opened, tomogram_file):
    path, array = tomogram_file
    tomogram = opened(path)
    before = tomogram.planes.bytes_read
    np.testing.assert_array_equal(tomogram.planes[9], array[9])
    assert tomogram.planes.bytes_read == before


def test_a_voxel_size_can_be_given(opened, tmp_path):
    path = write_mrc(tmp_path / "a.mrc", spread((4, 5, 6)), voxel_size=0)
    with pytest.raises(InputError):
        opened(path)
    tomogram = opened(path, voxel_size=(7.5, 7.5, 8.5))
    assert tomogram.grid.voxel_size == (7.5, 7.5, 8.5)


def test_what_looks_wrong_in_the_header_is_said(opened, tmp_path):
    tomogram = opened(write_mrc(tmp_path / "a.mrc", spread((4, 5, 6)), voxel_size=1))
    assert [warning.code for warning in tomogram.warnings] == ["header/voxel-size-one"]
    assert "mrc" in tomogram.metadata


@pytest.mark.parametrize("keep", [0, 500, 1024 + 100])
def test_a_file_that_cannot_be_right_is_refused(opened, tomogram_file, keep):
    path, _ = tomogram_file
    os.truncate(path, keep)
    with pytest.raises(InputError):
        opened(path)
    with pytest.raises(MissingFile):
        opened(path.with_name("none.mrc"))


def test_an_overview_is_made_once(host, opened, tomogram_file, monkeypatch):
    path, array = tomogram_file
    tomogram, told, heard = opened(path), [], []
    tomogram.surveyed.connect(heard.append)
    assert tomogram.overview is None
    made = tomogram.survey(lambda done, sections: told.append((done, sections)), lambda: False)
    assert tomogram.overview is made
    assert heard == [made]
    assert told[-1] == (20, 20)
    np.testing.assert_array_equal(made.voxels, array)

    def refuse(*_, **__):
        raise AssertionError("it was read again")

    monkeypatch.setattr("cryomamba_gui.volumes.tomogram.survey", refuse)
    again = quietly(opened(path, voxel_size=(1, 2, 3)))
    np.testing.assert_array_equal(again.voxels, made.voxels)
    assert again.statistics == made.statistics
    assert again.grid.voxel_size == (1, 2, 3)


def test_a_file_that_was_written_again_is_surveyed_again(opened, tomogram_file):
    path, array = tomogram_file
    quietly(opened(path))
    with mrcfile.mmap(path, "r+") as file:
        file.data[...] = array + 1
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(quietly(opened(path)).voxels, array + 1)


def test_what_was_surveyed_stands_in_for_planes_that_are_late(opened, tomogram_file):
    path, array = tomogram_file
    tomogram = opened(path)
    quietly(tomogram)
    tomogram.planes.close()
    np.testing.assert_array_equal(tomogram.planes[:, 3], array[:, 3])


def test_a_cancelled_survey_leaves_no_overview(opened, tomogram_file, tmp_path, monkeypatch):
    monkeypatch.setattr(surveying, "TILE_VOXELS", 1)
    path, array = tomogram_file
    tomogram, told = opened(path), []
    assert tomogram.survey(lambda done, _: told.append(done), lambda: told[-1:] == [10]) is None
    assert tomogram.overview is None
    assert not (tmp_path / "overviews").exists()
    tomogram.planes.close()
    np.testing.assert_array_equal(tomogram.planes[4], array[4])
    assert (tomogram.planes[15] == tomogram.planes[16]).all()


def test_closing_ends_a_survey(opened, tomogram_file, monkeypatch):
    monkeypatch.setattr(surveying, "TILE_VOXELS", 1)
    tomogram, begun, go_on, results = opened(tomogram_file[0]), threading.Event(), threading.Event(), []

    def on_progress(done, sections):
        begun.set()
        assert go_on.wait(DEADLINE)

    thread = threading.Thread(target=lambda: results.append(tomogram.survey(on_progress, lambda: False)))
    thread.start()
    assert begun.wait(DEADLINE)
    tomogram.close()
    go_on.set()
    thread.join(DEADLINE)
    assert results == [None]


NAMELESS = "(deleted)"


def open_files():
    """Names of what this process has open; that of a file without a name is `NAMELESS`."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            name = str(entry.readlink())
        except OSError:  # the folder's own
            continue
        names.append(NAMELESS if name.endswith(NAMELESS) else name)
    return names


def test_closing_gives_everything_back(host, cache, tomogram_file):
    path, _ = tomogram_file
    tomogram = Tomogram.open(host, path, cache=cache)
    quietly(tomogram)
    tomogram.planes[3]
    tomogram.close()
    tomogram.close()
    assert str(path) not in open_files()
    assert not [thread for thread in threading.enumerate() if thread.name == "cryomamba-planes"]


def test_a_compressed_file_is_unpacked_once(opened, patient, tmp_path):
    array = np.random.default_rng(1).normal(size=(20, 30, 40)).astype(np.float32)
    path = write_nifti(tmp_path / "a.nii.gz", array)
    before, during = open_files().count(NAMELESS), []
    tomogram = opened(path)
    tomogram.survey(lambda *_: during.append(open_files().count(NAMELESS)), lambda: False)
    assert set(during) == {before + 1}
    np.testing.assert_array_equal(tomogram.planes[3], array[3])


def test_a_file_that_is_cut_short_while_it_is_open_is_shown_as_far_as_it_is_known(opened, patient, tomogram_file):
    path, array = tomogram_file
    tomogram, failed = opened(path), []
    tomogram.planes.failed.connect(failed.append)
    os.truncate(path, 1024 + 10 * 30 * 40 * 4)
    np.testing.assert_array_equal(tomogram.planes[3], array[3])
    assert (tomogram.planes[15] == tomogram.planes[15][0, 0]).all()
    assert (tomogram.planes[:, 3] == tomogram.planes[15][0, 0]).all()
    tomogram.planes.close()
    assert {info.code for info in failed} == {"input/truncated-file", "input/changed"}
    assert len(failed) == 2
    with pytest.raises(TruncatedFile):
        quietly(tomogram)


def test_a_file_that_is_written_to_while_it_is_open_is_said_once(opened, patient, tomogram_file, tmp_path):
    path, array = tomogram_file
    tomogram, failed = opened(path), []
    tomogram.planes.failed.connect(failed.append)
    with mrcfile.mmap(path, "r+") as file:
        file.data[3] = 99
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(tomogram.planes[3], np.full((30, 40), 99, np.float32))
    np.testing.assert_array_equal(tomogram.planes[4], array[4])
    assert quietly(tomogram) is not None
    assert not (tmp_path / "overviews").exists()
    tomogram.planes.close()
    assert [info.code for info in failed] == ["input/changed"]


def test_a_file_that_was_removed_is_still_shown(opened, patient, tomogram_file):
    path, array = tomogram_file
    tomogram, failed = opened(path), []
    tomogram.planes.failed.connect(failed.append)
    path.unlink()
    np.testing.assert_array_equal(tomogram.planes[3], array[3])
    tomogram.planes.close()
    assert failed == []
    with pytest.raises(MissingFile):
        quietly(tomogram)


def test_a_tomogram_is_described_as_people_in_the_field_do(opened, tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path, spread((4, 5, 6), np.int16)) as file:
        file.voxel_size = (8, 9, 10)
        file.header.origin = (1, 2, 3)
    assert describe(opened(path)) == [
        ("File", "a.mrc"),
        ("Folder", str(tmp_path)),
        ("Format", "MRC"),
        ("Size", "6 × 5 × 4 voxels (x × y × z)"),
        ("Voxel size", "8 × 9 × 10 Å"),
        ("Extent", "4.8 × 4.5 × 4 nm"),
        ("Origin", "1, 2, 3 Å (x, y, z)"),
        ("Voxel type", "int16 (mode 1)"),
        ("File size", "1.3 kB"),
    ]


def test_an_overview_is_described(opened, tmp_path):
    array = spread((4, 5, 6))
    array[0, 0, 0] = np.nan
    rows = dict(describe_overview(quietly(opened(write_nifti(tmp_path / "a.nii", array)))))
    assert rows["Maximum"] == f"{np.nanmax(array):.6g}"
    assert rows["Standard deviation"] == f"{np.nanstd(array.astype(np.float64)):.6g}"
    assert rows["Not a number"] == "1 voxel"


def test_overviews_are_kept_in_the_users_own_folder(host, tomogram_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tomogram = Tomogram.open(host, tomogram_file[0])
    quietly(tomogram)
    tomogram.close()
    assert len(list((tmp_path / "cache" / "cryomamba" / "overviews").glob("*.npz"))) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(host, tomogram_file, tmp_path):
    (tmp_path / "file").write_bytes(gzip.compress(b""))
    tomogram = Tomogram.open(host, tomogram_file[0], cache=OverviewCache(tmp_path / "file" / "overviews"))
    assert quietly(tomogram) is not None
    tomogram.close()

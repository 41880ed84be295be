"""What is exported is what was edited, at the place where the job put it; gemmi, SimpleITK and others judge."""

import hashlib
import json
from pathlib import Path

import gemmi
import mrcfile
import nrrd
import numpy as np
import pytest
import SimpleITK

from cryomamba_core.errors import (
    InvalidParameter,
    MissingFile,
    OutputExists,
    SourceChanged,
    StorageDamaged,
    StorageError,
)
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_gui.masks.exporting import export_mask, take_home
from cryomamba_gui.masks.mask import EditedMask
from cryomamba_gui.masks.opening import open_mask, read_manifest
from cryomamba_gui.masks.review import Review, Verdict

#: Of the threshold runner's foreground, and of a label that no model knows.
FOREGROUND, PAINTED = 1, 7


class Stop(BaseException):
    """What a cancel raises."""


@pytest.fixture
def info(job):
    return read_manifest(job).run


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def edited(jobs_mask):
    """The mask of a job with a block of a new label, and a block erased."""
    jobs_mask.array[3:9, 4:20, 5:11] = PAINTED
    jobs_mask.array[14:, :8] = 0
    jobs_mask.touched()
    return jobs_mask


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_mask_of_a_job_is_that_of_its_files_on_its_grid_with_its_labels(job, jobs_mask):
    manifest = read_manifest(job)
    assert jobs_mask.grid == manifest.grid
    assert jobs_mask.labels == manifest.run.model.labels
    assert jobs_mask.record.artifact.sha256 == sha256(job / "mask.mrc")
    np.testing.assert_array_equal(jobs_mask.array, as_zyx(job / "mask.mrc"))
    assert 0 < np.count_nonzero(jobs_mask.array) < jobs_mask.array.size


@pytest.mark.parametrize("artifact", ["mask.nii.gz", "mask.nrrd"])
def test_it_may_as_well_be_taken_from_another_format(host, job, artifact):
    with open_mask(host, job / artifact) as mask:
        np.testing.assert_array_equal(mask.array, as_zyx(job / "mask.mrc"))
        assert mask.grid == read_manifest(job).grid


def test_a_mask_that_was_opened_before_is_opened_as_it_was_left(host, job, edited):
    expected = edited.array.copy()
    edited.close()
    with open_mask(host, job / "mask.mrc") as again:
        np.testing.assert_array_equal(again.array, expected)


def as_zyx(path):
    """What gemmi makes of an MRC file, brought to ZYX."""
    ccp4 = gemmi.read_ccp4_mask(str(path))
    ccp4.setup(0, gemmi.MapSetup.ReorderOnly)
    return np.array(ccp4.grid.array, copy=True).transpose(2, 1, 0)


def test_an_edited_mask_as_mrc_is_what_was_edited_where_the_original_was(host, job, edited, info, out):
    target = out / "a.mask.mrc"
    take_home(host, "mask.mrc", edited, info, target)
    np.testing.assert_array_equal(as_zyx(target), edited.array)
    assert mrcfile.validate(target)
    with mrcfile.open(target) as mine, mrcfile.open(job / "mask.mrc") as original:
        for field in ("mode", "nx", "ny", "nz", "mx", "my", "mz", "mapc", "mapr", "maps", "nxstart", "cella", "cellb"):
            assert mine.header[field] == original.header[field]
        assert mine.header.origin == original.header.origin
        assert mine.header.dmax == PAINTED


@pytest.mark.parametrize("artifact", ["mask.nii.gz", "mask.nrrd"])
def test_an_edited_mask_in_another_format_is_what_was_edited_where_the_original_was(
    host, job, edited, info, out, artifact
):
    target = out / f"a.{artifact}"
    take_home(host, artifact, edited, info, target)
    mine, original = SimpleITK.ReadImage(str(target)), SimpleITK.ReadImage(str(job / artifact))
    for fact in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
        assert getattr(mine, fact)() == getattr(original, fact)()
    before, after = SimpleITK.GetArrayFromImage(original), SimpleITK.GetArrayFromImage(mine)
    axes = stored_axes(before, edited.original[:])
    np.testing.assert_array_equal(after, edited.array.transpose(axes))


def stored_axes(stored, zyx):
    """The order in which a file has the axes of an array, found by comparing."""
    import itertools

    (axes,) = [
        axes
        for axes in itertools.permutations(range(3))
        if zyx.transpose(axes).shape == stored.shape and np.array_equal(zyx.transpose(axes), stored)
    ]
    return axes


def test_a_new_label_stands_in_the_header_and_in_the_statistics(host, edited, info, out):
    take_home(host, "mask.nrrd", edited, info, out / "a.mask.nrrd")
    header = nrrd.read_header(str(out / "a.mask.nrrd"))
    assert (header["Segment1_Name"], header["Segment1_LabelValue"]) == ("label 7", "7")
    take_home(host, "stats.json", edited, info, out / "a.stats.json")
    labels = json.loads((out / "a.stats.json").read_text())["labels"]
    assert [(each["value"], each["voxels"]) for each in labels] == [
        (value, int((edited.array == value).sum())) for value in (FOREGROUND, PAINTED)
    ]
    assert labels[1]["components"] == 1


def test_the_original_can_be_exported_after_any_edit_and_is_the_same_file(host, job, edited, info, out):
    for artifact in ("mask.mrc", "mask.nii.gz", "mask.nrrd", "stats.json"):
        exported = take_home(host, artifact, edited, info, out / artifact, original=True)
        assert (out / artifact).read_bytes() == (job / artifact).read_bytes()
        assert (exported.sidecar, exported.voxels_changed) == (None, 0)
    assert len(list(out.iterdir())) == 4


def test_the_file_beside_it_tells_verdict_edits_and_digests(host, job, edited, info, out):
    review = Review.now(Verdict.NEEDS_WORK, "the rim", reviewer="Ada")
    exported = take_home(host, "mask.nii.gz", edited, info, out / "a.mask.nii.gz", review=review)
    changed = int((edited.array != edited.original[:]).sum())
    assert exported.sidecar == out / "a.mask.review.json"
    assert exported.voxels_changed == changed
    assert any("edited by hand" in note for note in exported.notes)
    told = json.loads(exported.sidecar.read_text())
    assert (told["review"]["verdict"], told["review"]["note"], told["review"]["reviewer"]) == (
        "needs-work",
        "the rim",
        "Ada",
    )
    assert (told["job_id"], told["source"]) == (info.job_id, "tomogram.mrc")
    assert (told["original"], told["original_sha256"]) == ("mask.mrc", sha256(job / "mask.mrc"))
    (file,) = told["exports"]
    assert (file["name"], file["sha256"]) == ("a.mask.nii.gz", sha256(exported.path))
    assert (file["edited"], file["voxels_changed"]) == (True, changed)


def test_a_second_export_of_the_same_stem_is_told_in_the_same_file(host, edited, info, out):
    take_home(host, "mask.mrc", edited, info, out / "a.mask.mrc")
    take_home(host, "mask.nrrd", edited, info, out / "a.mask.nrrd")
    review = Review.now(Verdict.ACCEPTED)
    told = take_home(host, "mask.mrc", edited, info, out / "a.mask.mrc", original=True, review=review, overwrite=True)
    exports = json.loads(told.sidecar.read_text())["exports"]
    assert [(each["name"], each["edited"]) for each in exports] == [("a.mask.mrc", False), ("a.mask.nrrd", True)]


def test_edits_that_were_undone_are_no_edits(host, jobs_mask, info, out):
    jobs_mask.touched()
    exported = take_home(host, "mask.mrc", jobs_mask, info, out / "a.mrc")
    assert (exported.sidecar, exported.voxels_changed) == (None, 0)


def test_a_file_that_exists_is_replaced_only_if_that_is_wanted(host, edited, info, out):
    target = out / "a.mask.mrc"
    target.write_text("precious")
    with pytest.raises(OutputExists):
        take_home(host, "mask.mrc", edited, info, target)
    assert target.read_text() == "precious"
    take_home(host, "mask.mrc", edited, info, target, overwrite=True)
    assert mrcfile.validate(target)


@pytest.mark.parametrize("text", ["precious", '{"job_id": "another", "source": "b.mrc"}'])
def test_a_file_beside_it_that_is_of_something_else_is_replaced_only_if_that_is_wanted(host, edited, info, out, text):
    beside = out / "a.mask.review.json"
    beside.write_text(text)
    with pytest.raises(OutputExists):
        take_home(host, "mask.mrc", edited, info, out / "a.mask.mrc")
    assert [path.name for path in out.iterdir()] == [beside.name]
    take_home(host, "mask.mrc", edited, info, out / "a.mask.mrc", overwrite=True)
    assert json.loads(beside.read_text())["job_id"] == info.job_id


def test_the_tomogram_and_the_files_of_the_job_are_never_replaced(host, job, edited, info):
    tomogram = job / "tomogram.mrc"
    before = {path: path.read_bytes() for path in job.iterdir()}
    for target in (tomogram, job / "mask.mrc", job / "mask.raw", job / "original.raw", job / "manifest.json"):
        with pytest.raises(InvalidParameter, match="still needed"):
            take_home(host, "mask.mrc", edited, info, target, overwrite=True, spared=[tomogram])
    assert {path: path.read_bytes() for path in job.iterdir()} == before


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_done(host, edited, info, out):
    with pytest.raises(StorageError, match="cannot be written to"):
        take_home(host, "mask.mrc", edited, info, out / "none" / "a.mrc", pytest.fail)


@pytest.mark.parametrize("artifact", ["mask.mrc", "mask.nii.gz", "mask.nrrd"])
def test_how_far_it_is_is_told_and_a_cancel_at_any_moment_leaves_nothing(host, edited, info, out, artifact):
    told = []
    take_home(host, artifact, edited, info, out / "whole", lambda *at: told.append(at))
    dones = [done for done, _ in told]
    assert dones == sorted(dones)
    assert {total for _, total in told} == {4 * edited.grid.shape[0]}
    assert told[-1][0] == told[-1][1]
    before = {path: path.read_bytes() for path in out.iterdir()}
    for moment in range(len(told)):
        calls = iter(range(len(told)))

        def cancel(done, total, moment=moment, calls=calls):
            if next(calls) == moment:
                raise Stop

        with pytest.raises(Stop):
            take_home(host, artifact, edited, info, out / "whole", cancel, overwrite=True)
        assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_stroke_during_the_export_refuses_it(host, edited, info, out):
    def paint(done, total):
        if done > total // 2:
            edited.array[0] = 1
            edited.touched()

    with pytest.raises(SourceChanged, match="edited while"):
        take_home(host, "mask.mrc", edited, info, out / "a.mrc", paint)
    assert not list(out.iterdir())


def test_any_labels_can_be_exported_and_are_measured_for_it(host, info, out):
    from cryomamba_core.geometry import VoxelGrid

    labels = np.zeros((6, 7, 8), np.uint8)
    labels[2:4, 1:3] = 1
    grid = VoxelGrid(shape=labels.shape, voxel_size=(10, 10, 10))
    notes = export_mask(host, "stats", labels, grid, info, out / "s.json")
    assert notes == ()
    (told,) = json.loads((out / "s.json").read_text())["labels"]
    (measured,) = measure_labels(labels, grid, info.model.labels)
    assert (told["voxels"], told["surface_area_nm2"]) == (32, measured.surface_area_nm2)
    with pytest.raises(OutputExists):
        export_mask(host, "stats", labels, grid, info, out / "s.json")


@pytest.mark.parametrize("text", [None, "{", "[" * 100_000])
def test_a_job_without_a_manifest_that_can_be_read_is_refused_with_what_to_do(host, job, text):
    manifest: Path = job / "manifest.json"
    manifest.unlink()
    if text is not None:
        manifest.write_text(text)
    with pytest.raises(MissingFile if text is None else StorageDamaged) as refused:
        open_mask(host, job / "mask.mrc")
    assert "again" in refused.value.hint
    assert not EditedMask.is_in(job)

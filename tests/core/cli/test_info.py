"""``cryomamba info``."""

import numpy as np
import pytest


def test_a_header_is_shown_in_words(cryomamba, tomogram):
    answer = cryomamba("info", tomogram(shape=(12, 20, 30), voxel_size=13.48))
    assert answer.code == 0
    for word in ("12 × 20 × 30 voxels", "13.48 Å", "16.176 × 26.96 × 40.44 nm", "float32", "z, y, x", "mean"):
        assert word in answer.out


def test_json_of_one_file_is_one_object(cryomamba, tomogram):
    facts = cryomamba("info", tomogram(shape=(12, 20, 30)), "--json").json
    assert facts["shape"] == [12, 20, 30]
    assert facts["voxel_size"] == pytest.approx([10, 10, 10])
    assert facts["extent_nm"] == pytest.approx([12, 20, 30])
    assert facts["dtype"] == "float32"
    assert facts["stored_axes"] == [0, 1, 2]
    assert facts["statistics"]["maximum"] > 15
    assert facts["error"] is None


def test_json_of_several_files_is_a_list_of_them(cryomamba, tomogram):
    files = cryomamba("info", tomogram("a.mrc"), tomogram("b.mrc"), "--json").json["files"]
    assert [file["path"] for file in files] == ["a.mrc", "b.mrc"]


def test_the_real_map_shows_its_stored_axes_and_three_voxel_sizes(cryomamba, shared_data):
    facts = cryomamba("info", shared_data / "EMD-3001.map", "--json").json
    assert facts["shape"] == [73, 25, 43]
    assert facts["stored_axes"] == [1, 2, 0]
    assert len(set(facts["voxel_size"])) == 3


def test_a_voxel_size_of_one_is_questioned(cryomamba, tomogram):
    answer = cryomamba("info", tomogram(voxel_size=1.0))
    assert answer.code == 0
    assert "warning: the voxel size is exactly 1 Å" in answer.out
    assert "--voxel-size" in answer.out


def test_a_voxel_size_of_zero_is_refused_and_can_be_overridden(cryomamba, tomogram):
    path = tomogram(voxel_size=0.0)
    answer = cryomamba("info", path)
    assert answer.code == 3
    assert "[input/voxel-size]" in answer.err
    assert "--voxel-size" in answer.err
    facts = cryomamba("info", path, "--voxel-size", "10,11,12", "--json").json
    assert facts["voxel_size"] == [10, 11, 12]


@pytest.mark.filterwarnings("ignore:Data array contains NaN values")
def test_the_voxels_are_left_alone_when_asked(cryomamba, tomogram):
    facts = cryomamba("info", tomogram(fill=np.nan), "--no-statistics", "--json").json
    assert facts["statistics"] is None
    assert facts["error"] is None


@pytest.mark.filterwarnings("ignore:Data array contains NaN values")
def test_voxels_that_are_no_numbers_are_named_after_the_header(cryomamba, tomogram):
    answer = cryomamba("info", tomogram(fill=np.nan))
    assert answer.code == 3
    assert "12 × 20 × 20 voxels" in answer.out
    assert "[input/unusable-volume]" in answer.err


def test_a_bad_file_among_good_ones_is_named_and_the_rest_is_shown(cryomamba, tomogram, tmp_path):
    (tmp_path / "bad.mrc").write_bytes(b"no tomogram" * 200)
    answer = cryomamba("info", "bad.mrc", tomogram("good.mrc"))
    assert answer.code == 8
    assert "good.mrc" in answer.out
    assert "bad.mrc" in answer.err


def test_a_missing_file_is_an_input_error(cryomamba):
    answer = cryomamba("info", "nowhere.mrc", "--json")
    assert answer.code == 3
    assert answer.json["error"]["code"] == "input/missing-file"

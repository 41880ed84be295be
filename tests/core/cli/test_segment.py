"""``cryomamba segment``: what it writes, and what it refuses."""

import csv
import json
import re
import shlex

import engines
import numpy as np
import pytest

ALL = ["a.manifest.json", "a.mask.mrc", "a.mask.nii.gz", "a.mask.npy", "a.mask.nrrd", "a.stats.json"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_artifact_is_written_beside_the_others(cryomamba, tomogram, tmp_path):
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT")
    assert answer.code == 0
    assert names_in(tmp_path / "OUT") == ALL
    manifest = json.loads((tmp_path / "OUT" / "a.manifest.json").read_text())
    assert manifest["run"]["source"]["name"] == "a.mrc"
    assert "foreground" in answer.out
    assert "OUT/a.mask.mrc" in answer.out


def test_progress_for_a_pipe_has_no_control_characters(cryomamba, tomogram):
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT")
    assert "\x1b" not in answer.out + answer.err
    assert "\r" not in answer.out + answer.err
    assert re.search(r"^a\.mrc: queued as job [0-9a-f-]{36}$", answer.err, re.MULTILINE)
    assert re.search(r"^a\.mrc: preview \d+: 100 % of the volume$", answer.err, re.MULTILINE)
    assert re.search(r"^a\.mrc: completed in ", answer.err, re.MULTILINE)


def test_only_named_artifacts_are_written_by_artifact_or_exporter(cryomamba, tomogram, tmp_path):
    names = ["--artifact", "mask.mrc", "--artifact", "stats"]
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", *names)
    assert answer.code == 0
    assert names_in(tmp_path / "OUT") == ["a.mask.mrc", "a.stats.json"]
    assert "foreground" in answer.out


def test_companions_come_in_the_formats_of_the_masks_that_are_named(cryomamba, tomogram, tmp_path):
    words = ["--runner", "steps", "--param", "doubt=2", "--out", "OUT"]
    path = tomogram()
    answer = cryomamba("segment", path, *words, "--artifact", "mask.mrc", "--artifact", "npy")
    assert answer.code == 0, answer.err
    assert names_in(tmp_path / "OUT") == ["a.doubt.mrc", "a.doubt.npy", "a.mask.mrc", "a.mask.npy"]
    refused = cryomamba("segment", path, *words, "--artifact", "stats.json")
    assert refused.code == 3
    assert "can hold the doubt: stats.json" in refused.err
    assert "ask for a mask too" in refused.err


def test_shards_write_the_same_files_as_one_worker(cryomamba, tomogram, tmp_path):
    path, masks, doubts = tomogram(), [], []
    for shards in (1, 3):
        out = tmp_path / f"OUT{shards}"
        words = ["--param", "doubt=2", "--param", "axis=1", "--artifact", "npy", "--artifact", "manifest"]
        answer = cryomamba("segment", path, "--runner", "steps", "--shards", shards, *words, "--out", out)
        assert answer.code == 0, answer.err
        masks.append(np.load(out / "a.mask.npy"))
        doubts.append(np.load(out / "a.doubt.npy"))
        assert json.loads((out / "a.manifest.json").read_text())["shards"] == shards
        assert re.search(r"^a\.mrc: preview \d+: 100 % of the volume$", answer.err, re.MULTILINE)
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(*doubts)
    assert masks[0].any()
    assert doubts[0].any()


def test_the_manifest_alone_can_be_asked_for(cryomamba, tomogram, tmp_path):
    words = ["--runner", "threshold", "--out", "OUT", "--artifact", "manifest.json"]
    assert cryomamba("segment", tomogram(), *words).code == 0
    assert names_in(tmp_path / "OUT") == ["a.manifest.json"]


def test_json_is_one_document_with_digests_and_measures(cryomamba, tomogram, tmp_path):
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", "--json")
    (result,) = answer.json["results"]
    assert result["state"] == "completed"
    assert result["error"] is None
    assert {entry["name"] for entry in result["artifacts"]} >= {"mask.mrc", "manifest.json"}
    assert all(
        (tmp_path / "OUT" / f"a.{entry['name']}").stat().st_size == entry["size"] for entry in result["artifacts"]
    )
    assert result["labels"][0]["voxels"] > 0


def test_parameters_reach_the_runner(cryomamba, tomogram):
    words = ["--runner", "threshold", "--out", "OUT", "--json", "--param", "value=15"]
    labels = cryomamba("segment", tomogram(), *words).json["results"][0]["labels"]
    assert labels[0]["voxels"] == pytest.approx(4 * 8 * 8, abs=3)


def test_a_voxel_size_that_is_given_counts(cryomamba, tomogram):
    words = ["--runner", "threshold", "--out", "OUT", "--json", "--param", "value=15", "--voxel-size", "20"]
    labels = cryomamba("segment", tomogram(voxel_size=0), *words).json["results"][0]["labels"]
    assert labels[0]["volume_nm3"] == pytest.approx(labels[0]["voxels"] * 8)


def test_a_result_that_exists_is_refused_before_any_work_and_replaced_when_asked(cryomamba, tomogram, tmp_path):
    path = tomogram()
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "a.mask.mrc").write_text("mine")
    words = ["segment", path, "--runner", "threshold", "--out", "OUT"]
    answer = cryomamba(*words)
    assert answer.code == 6
    assert "[storage/output-exists]" in answer.err
    assert "--overwrite" in answer.err
    assert names_in(tmp_path / "OUT") == ["a.mask.mrc"]
    assert cryomamba("jobs", "list", "--json").json == {"jobs": []}
    assert cryomamba(*words, "--overwrite").code == 0
    assert (tmp_path / "OUT" / "a.mask.mrc").stat().st_size > 1024


def test_a_companion_that_exists_is_kept_and_replaced_by_the_command_that_the_hint_names(cryomamba, tomogram, tmp_path):
    out = tmp_path / "the results"
    out.mkdir()
    (out / "a.doubt.mrc").write_text("mine")
    words = ["segment", tomogram(), "--runner", "steps", "--param", "doubt=2", "--artifact", "mask.mrc", "--out", out]
    answer = cryomamba(*words)
    assert answer.code == 6
    assert f"the result {out}/a.doubt.mrc exists  [storage/output-exists]" in answer.err
    assert names_in(out) == ["a.doubt.mrc"]
    [job] = cryomamba("jobs", "list", "--json").json["jobs"]
    command = f"cryomamba jobs fetch {job['id']} --overwrite --out '{out}'"
    assert command in answer.err
    assert cryomamba(*shlex.split(command)[1:]).code == 0
    assert names_in(out) == ["a.doubt.mrc", "a.manifest.json", "a.mask.mrc"]
    assert (out / "a.doubt.mrc").stat().st_size > 1024
    assert len(cryomamba("jobs", "list", "--json").json["jobs"]) == 1


def test_two_files_with_results_of_the_same_name_are_refused(cryomamba, tomogram):
    answer = cryomamba("segment", tomogram("x/a.mrc"), tomogram("y/a.mrc"), "--runner", "threshold", "--out", "OUT")
    assert answer.code == 3
    assert "the same names" in answer.err
    assert "--out" in answer.err


def test_a_file_given_twice_is_refused(cryomamba, tomogram):
    path = tomogram()
    assert "given twice" in cryomamba("segment", path, path, "--runner", "threshold", "--out", "OUT").err


def test_a_mask_among_the_inputs_is_never_overwritten(cryomamba, tomogram, tmp_path):
    words = [tomogram("a.mrc"), tomogram("a.mask.mrc"), "--runner", "threshold", "--overwrite"]
    before = (tmp_path / "a.mask.mrc").read_bytes()
    answer = cryomamba("segment", *words)
    assert answer.code == 3
    assert "also a result" in answer.err
    assert (tmp_path / "a.mask.mrc").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "nobody"], 4, "[model/unknown]"),
        (["--runner", "nobody"], 5, "[plugin/unknown]"),
        (["--runner", "threshold", "--param", "valu=1"], 3, "did you mean value?"),
        (["--runner", "threshold", "--param", "dark=perhaps"], 3, "true or false"),
        (["--runner", "threshold", "--artifact", "mask.mcr"], 3, "did you mean mask.mrc?"),
        (["--model", "./nowhere"], 3, "there is no folder"),
        (["--model", "empty"], 4, "no runner recognises"),
        ([], 2, "--model"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(cryomamba, tomogram, tmp_path, words, code, said):
    (tmp_path / "empty").mkdir()
    answer = cryomamba("segment", tomogram(), "--out", "OUT", *words)
    assert answer.code == code
    assert said in answer.err
    assert not (tmp_path / "OUT").exists()
    assert cryomamba("jobs", "list", "--json").json == {"jobs": []}


def test_a_folder_that_cannot_be_made_is_a_storage_error(cryomamba, tomogram, tmp_path):
    (tmp_path / "OUT").write_text("a file")
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT/deeper")
    assert answer.code == 6
    assert "cannot be made" in answer.err


def test_a_job_that_fails_ends_with_its_error_and_leaves_no_folder(cryomamba, tomogram, tmp_path):
    answer = cryomamba("segment", tomogram(fill=3), "--runner", "threshold", "--out", "OUT", "--json")
    assert answer.code == 3
    assert answer.json["error"]["code"] == "input/unusable-volume"
    assert not (tmp_path / "OUT").exists()


def test_a_stranger_that_raises_is_a_plugin_fault(cryomamba, tmp_path):
    engines.make_tomogram(tmp_path / "a.npy")
    answer = cryomamba("segment", "a.npy", "--runner", "steps", "--param", "fault=raises", "--out", "OUT")
    assert answer.code in (1, 5, 7)
    assert "the stranger cannot go on" in answer.err


def test_a_plan_is_said_and_nothing_is_done(cryomamba, tomogram, tmp_path):
    path = tomogram()
    answer = cryomamba("segment", path, "--runner", "threshold", "--out", "OUT", "--plan")
    assert answer.code == 0
    assert "tiles" in answer.out
    assert "disk" in answer.out
    plan = cryomamba("segment", path, "--runner", "threshold", "--plan", "--json").json["plans"][0]
    assert plan["plan"]["run"]["ram_bytes"] > 0
    assert plan["plan"]["disk_bytes"] > 0
    shared = cryomamba("segment", path, "--runner", "threshold", "--plan", "--json", "--shards", "2").json["plans"][0]
    assert shared["plan"]["run"]["shards"] == 2
    assert shared["plan"]["run"]["ram_bytes"] == plan["plan"]["run"]["ram_bytes"]
    assert not (tmp_path / "OUT").exists()
    assert cryomamba("jobs", "list", "--json").json == {"jobs": []}


def test_a_cohort_goes_on_past_bad_files_and_ends_with_a_summary(cryomamba, tomogram, tmp_path):
    (tmp_path / "bad.mrc").write_bytes(b"no tomogram" * 200)
    files = [tomogram("a.mrc"), "bad.mrc", tomogram("flat.mrc", fill=1), "missing.mrc", tomogram("b.mrc")]
    answer = cryomamba("segment", *files, "--runner", "threshold", "--artifact", "mask.mrc", "--out", "OUT")
    assert answer.code == 8
    assert names_in(tmp_path / "OUT") == ["a.mask.mrc", "b.mask.mrc", "summary.csv"]
    with (tmp_path / "OUT" / "summary.csv").open() as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert {file: row["state"] for file, row in rows.items()} == {
        "a.mrc": "completed",
        "bad.mrc": "refused",
        "flat.mrc": "failed",
        "missing.mrc": "refused",
        "b.mrc": "completed",
    }
    assert rows["bad.mrc"]["error_code"] == "input/corrupt-file"
    assert rows["flat.mrc"]["error_code"] == "input/unusable-volume"
    assert rows["missing.mrc"]["error_code"] == "input/missing-file"
    assert int(rows["a.mrc"]["foreground_voxels"]) > 0
    assert float(rows["a.mrc"]["foreground_volume_nm3"]) == pytest.approx(int(rows["a.mrc"]["foreground_voxels"]))
    assert float(rows["a.mrc"]["seconds"]) > 0
    assert "2 of 5 files completed" in answer.out
    assert "bad.mrc: " in answer.err


def test_the_summary_of_an_earlier_cohort_is_not_overwritten(cryomamba, tomogram, tmp_path):
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "summary.csv").write_text("mine")
    answer = cryomamba("segment", tomogram("a.mrc"), tomogram("b.mrc"), "--runner", "threshold", "--out", "OUT")
    assert answer.code == 6
    assert (tmp_path / "OUT" / "summary.csv").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:Data array contains NaN values")
def test_json_of_a_cohort_has_an_error_for_each_bad_file(cryomamba, tomogram):
    files = [tomogram("a.mrc"), tomogram("nan.mrc", fill=np.nan)]
    answer = cryomamba("segment", *files, "--runner", "threshold", "--out", "OUT", "--json")
    assert answer.code == 8
    good, bad = answer.json["results"]
    assert (good["state"], good["error"]) == ("completed", None)
    assert (bad["state"], bad["error"]["code"]) == ("failed", "input/unusable-volume")
    assert answer.json["summary"].endswith("summary.csv")

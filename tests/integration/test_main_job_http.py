"""The main job on a server, by our command: sent, watched, fetched; and the answer is that of this computer."""

import hashlib
import json

import mrcfile
import numpy as np
import pytest

MASKS = ("mask.mrc", "mask.nii.gz", "mask.nrrd")


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "cell.mrc"
    voxels = np.random.default_rng(5).normal(size=(48, 200, 180)).astype(np.float32)
    with mrcfile.new(path) as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = 10.0
        mrc.header.origin.x = 120.0
    return path


def finish(process):
    out, err = process.communicate()
    return process.returncode, out, err


def test_a_server_gives_the_same_answer_as_this_computer_to_the_byte(cryomamba, at_server, server, tomogram, tmp_path):
    options = ["segment", tomogram, "--runner", "threshold"]
    here = finish(cryomamba(*options, "--out", tmp_path / "here"))
    assert here[0] == 0, here[2]
    code, out, err = finish(cryomamba(*options, "--out", tmp_path / "there", "--json", **at_server))
    assert code == 0, err
    with mrcfile.open(tmp_path / "there" / "cell.mask.mrc") as mask:
        assert mask.data.any()
    for name in MASKS:
        assert (tmp_path / "there" / f"cell.{name}").read_bytes() == (tmp_path / "here" / f"cell.{name}").read_bytes()
    by_both = [json.loads((tmp_path / where / "cell.stats.json").read_text())["labels"] for where in ("here", "there")]
    assert by_both[0] == by_both[1]
    manifest = json.loads((tmp_path / "there" / "cell.manifest.json").read_text())
    assert manifest["run"]["source"]["sha256"] == hashlib.sha256(tomogram.read_bytes()).hexdigest()
    assert manifest["run"]["source"]["name"] == "cell.mrc"
    assert json.loads(out)


def test_the_jobs_of_a_server_are_listed_shown_and_canceled_by_its_client(cryomamba, at_server, tomogram, tmp_path):
    code, _, err = finish(
        cryomamba("segment", tomogram, "--runner", "threshold", "--out", tmp_path / "out", **at_server)
    )
    assert code == 0, err
    code, out, err = finish(cryomamba("jobs", "list", "--json", **at_server))
    assert code == 0, err
    [job] = json.loads(out)["jobs"]
    assert job["state"] == "completed"
    assert finish(cryomamba("jobs", "cancel", job["id"], **at_server))[0] == 0
    assert finish(cryomamba("jobs", "show", job["id"], **{**at_server, "CRYOMAMBA_TOKEN": ""}))[0] == 10


def test_a_file_that_is_sent_twice_is_stored_once(cryomamba, at_server, server, tomogram, tmp_path):
    for number in (1, 2):
        code, _, err = finish(
            cryomamba("segment", tomogram, "--runner", "threshold", "--out", tmp_path / f"{number}", **at_server)
        )
        assert code == 0, err
    kept = [path for path in (server.data_dir / "raw").rglob("*") if path.is_file() and path.suffix != ".json"]
    assert [path.stat().st_size for path in kept] == [tomogram.stat().st_size]

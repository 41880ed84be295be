"""The demo as its user runs it; the judge of the picture is an image library, of the masks mrcfile."""

import io
import json
import os
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

pytest.importorskip("torch", reason="the demo segments with nnU-Net")

from cryomamba_backends.demo.demonstration import dice_by_label
from cryomamba_core.labels import name_labels

ARTIFACTS = ["mask.mrc", "mask.nii.gz", "mask.nrrd", "stats.json", "manifest.json"]

#: One process runs them all, so that the demo runs once.
pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, "CRYOMAMBA_DATA_DIR": str(folder / "data")}
    environment.pop("CRYOMAMBA_SERVER", None)
    result = subprocess.run(
        [sys.executable, "-m", "cryomamba_core.cli.main", "demo", "--out", str(folder / "out"), "--json"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return folder / "out", result


def test_it_leaves_the_files_that_it_promises(demo):
    out, _ = demo
    made = {"tomogram.mrc", "truth.mrc", "picture.png", "summary.json", "server.log"}
    expected = made | {f"tomogram.{name}" for name in ARTIFACTS}
    assert {path.name for path in out.iterdir()} == expected


def test_the_mean_dice_is_at_least_four_fifths(demo):
    out, _ = demo
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["dice"]) == {"membrane", "microtubule", "ribosome"}
    assert np.mean(list(summary["dice"].values())) >= 0.8
    assert set(summary) >= {"dice", "seconds", "peak_rss_mb"}


def test_the_summary_is_what_the_files_say(demo):
    out, result = demo
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(result.stdout) == summary
    truth, mask = mrcfile.read(out / "truth.mrc"), mrcfile.read(out / "tomogram.mask.mrc")
    for value, name in enumerate(("membrane", "microtubule", "ribosome"), 1):
        together = (truth == value).sum() + (mask == value).sum()
        assert summary["dice"][name] == pytest.approx(2 * ((truth == value) & (mask == value)).sum() / together)


def test_previews_arrived_while_it_ran(demo):
    summary = json.loads((demo[0] / "summary.json").read_text())
    assert summary["previews"] >= 2
    assert summary["seconds"]["first_preview"] < summary["seconds"]["segment"]


def test_the_volumes_are_valid_mrc_and_the_picture_is_a_picture(demo):
    from matplotlib import image

    out, _ = demo
    for name in ("tomogram.mrc", "truth.mrc", "tomogram.mask.mrc"):
        assert mrcfile.validate(out / name, print_file=io.StringIO())
    picture = image.imread(out / "picture.png")
    assert picture.shape[0] > 1000
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 1000


def test_it_says_where_its_job_is_kept(demo):
    out, result = demo
    data_dir = out.parent / "data"
    assert f"its job is kept in {data_dir}: cryomamba jobs list" in result.stderr
    assert len(list((data_dir / "jobs").iterdir())) == 1


def test_without_a_terminal_it_prints_no_control_characters(demo):
    _, result = demo
    assert "\x1b" not in result.stdout + result.stderr
    assert "\r" not in result.stderr


def test_dice_is_one_for_equal_masks_and_zero_for_masks_apart():
    labels = name_labels({1: "one", 2: "two", 3: "three"})
    truth = np.array([[[1, 1, 2, 0]]], np.uint8)
    answer = np.array([[[1, 1, 0, 2]]], np.uint8)
    assert dice_by_label(truth, answer, labels) == {"one": 1.0, "two": 0.0, "three": 1.0}

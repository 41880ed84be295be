"""``cryomamba segment`` with several files: whatever is wrong with one of them stays with it."""

import csv
import os
import sys

import engines
import numpy as np
import pytest

#: A reader that stumbles over some files, and a runner that stumbles over some volumes.
STUMBLING = """
import numpy as np
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import VolumeReader
from cryomamba_core.labels import name_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.testing.volumes import ArrayVolume
from strangers import StepRunner


class RawReader(VolumeReader):
    name = "raw"
    suffixes = (".raw",)

    def can_read(self, path, first_bytes):
        return path.name.endswith(".raw")

    def validate(self, first_bytes, size):
        pass

    def open(self, path, *, voxel_size=None):
        edge = {4000: 10, 2048: 8}[path.stat().st_size]
        voxels = np.fromfile(path, np.float32).reshape(-1, edge, edge)
        return ArrayVolume(voxels, grid=VoxelGrid(shape=voxels.shape, voxel_size=(10.0, 10.0, 10.0)))


class CubesOnly(StepRunner):
    name = "cubes"

    def models(self):
        return [ModelInfo(name="cubes", runner="cubes", labels=name_labels({1: "positive"}))]

    def check_volume(self, model, volume):
        if len(set(volume.grid.shape)) > 1:
            raise ValueError("this is no cube")


@hookimpl
def cryomamba_register_readers(register):
    register(RawReader())


@hookimpl
def cryomamba_register_runners(register):
    register(CubesOnly())
"""


@pytest.fixture
def stumbling(data_dir, tmp_path, monkeypatch):
    """The plugin is installed, here and for workers."""
    info = tmp_path / "site" / "stumbling-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stumbling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nstumbling = stumbling\n")
    (tmp_path / "site" / "stumbling.py").write_text(STUMBLING)
    monkeypatch.delitem(sys.modules, "stumbling", raising=False)


def write(path, *shape):
    np.random.default_rng(3).normal(size=shape).astype(np.float32).tofile(path)
    return path.name


def summary(folder):
    with (folder / "summary.csv").open() as stream:
        return {row["file"]: (row["state"], row["error_code"]) for row in csv.DictReader(stream)}


def test_a_name_that_is_not_in_utf_8_is_refused_and_the_others_go_on(cryomamba, tomogram, tmp_path):
    files = [tomogram("a.mrc"), tomogram(os.fsdecode(b"Probe_\xe4.mrc")), tomogram("b.mrc")]
    words = ["segment", *files, "--runner", "threshold", "--out", "OUT", "--artifact", "mask.mrc"]
    answer = cryomamba(*words)
    assert answer.code == 8
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == ["a.mask.mrc", "b.mask.mrc", "summary.csv"]
    assert summary(tmp_path / "OUT") == {
        "a.mrc": ("completed", ""),
        "Probe_?.mrc": ("refused", "input/invalid-parameter"),
        "b.mrc": ("completed", ""),
    }
    assert r"the name Probe_\udce4.mrc is not in UTF-8" in answer.err
    assert "hint:  rename the file" in answer.err
    first, bad, last = cryomamba(*words, "--plan", "--json").json["plans"]
    assert (first["error"], last["error"]) == (None, None)
    assert (bad["plan"], bad["error"]["code"]) == (None, "input/invalid-parameter")


def test_a_folder_s_name_that_is_not_in_utf_8_is_refused_too(cryomamba, tomogram):
    path = tomogram(os.fsdecode(b"Proben_\xe4/a.mrc"))
    answer = cryomamba("segment", path, "--runner", "threshold", "--out", "OUT")
    assert answer.code == 3
    assert r"the name Proben_\udce4 is not in UTF-8" in answer.err


def test_a_reader_that_raises_on_one_file_spoils_that_file_only(cryomamba, stumbling, tmp_path):
    files = [write(tmp_path / "a.raw", 10, 10, 10), write(tmp_path / "bad.raw", 3), write(tmp_path / "b.raw", 8, 8, 8)]
    answer = cryomamba("segment", *files, "--runner", "steps", "--out", "OUT")
    assert answer.code == 8
    assert summary(tmp_path / "OUT") == {
        "a.raw": ("completed", ""),
        "bad.raw": ("refused", "internal/fault"),
        "b.raw": ("completed", ""),
    }
    assert "bad.raw: KeyError: 12" in answer.err
    assert "canceled" not in answer.err


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_a_runner_that_raises_on_one_volume_spoils_that_file_only(cryomamba, stumbling, tmp_path, plan):
    for name, shape in (("a.npy", (5, 5, 5)), ("flat.npy", (5, 5, 4)), ("b.npy", (6, 6, 6))):
        engines.make_tomogram(tmp_path / name, shape)
    answer = cryomamba("segment", "a.npy", "flat.npy", "b.npy", "--runner", "cubes", "--out", "OUT", "--json", *plan)
    assert answer.code == 8
    errors = [entry["error"] for entry in answer.json["plans" if plan else "results"]]
    assert (errors[0], errors[2]) == (None, None)
    assert errors[1]["code"] == "internal/fault"
    assert errors[1]["message"] == "ValueError: this is no cube"
    if not plan:
        assert [entry["state"] for entry in answer.json["results"]] == ["completed", "refused", "completed"]

"""Tomograms on the server's disk: named by their path, and neither sent nor read here."""

import pytest
from servers import ServerProcess

ALL = ["a.manifest.json", "a.mask.mrc", "a.mask.nii.gz", "a.mask.npy", "a.mask.nrrd", "a.stats.json"]


@pytest.fixture
def shelf(tmp_path):
    """A folder that the server opens."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path, data_dir, monkeypatch, shelf):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with ServerProcess(tmp_path / "server", "--allow-root", shelf) as server:
        monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token(scopes=("jobs:read", "jobs:write", "artifacts:read")))
        yield server


@pytest.fixture
def segment(cryomamba, server):
    """Segment files of the server."""

    def call(*words):
        words = ["--on-server", *words, "--runner", "threshold", "--out", "OUT"]
        return cryomamba("--server", server.url, "segment", *words)

    return call


def test_a_file_on_the_server_is_segmented_where_it_is(segment, server, shelf, tomogram, tmp_path, monkeypatch):
    monkeypatch.setattr("cryomamba_core.plugins.PluginHost.reader_for", lambda *_: pytest.fail("it is read here"))
    (tmp_path / tomogram("a.mrc")).rename(shelf / "a.mrc")
    answer = segment(shelf / "a.mrc")
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == ALL
    assert "uploading" not in answer.err
    assert not list((server.data_dir / "raw").glob("*"))


def test_a_cohort_on_the_server_goes_on_without_a_file_that_is_not_there(segment, shelf, tomogram, tmp_path):
    (tmp_path / tomogram("a.mrc")).rename(shelf / "a.mrc")
    answer = segment(shelf / "a.mrc", shelf / "b.mrc", "--json")
    assert answer.code == 8
    states = {
        result["file"]: (result["state"], (result["error"] or {}).get("code")) for result in answer.json["results"]
    }
    assert states == {
        str(shelf / "a.mrc"): ("completed", None),
        str(shelf / "b.mrc"): ("refused", "input/missing-file"),
    }


def test_a_plan_reads_nothing_here_either(segment, shelf, tomogram, tmp_path):
    (tmp_path / tomogram("a.mrc")).rename(shelf / "a.mrc")
    answer = segment(shelf / "a.mrc", "--plan", "--json")
    assert answer.json["plans"][0]["plan"]["run"]["tiles"] > 0


def test_a_file_that_the_server_does_not_open_is_refused_with_what_helps(segment, tomogram, tmp_path):
    answer = segment(tmp_path / tomogram("a.mrc"))
    assert answer.code == 10
    assert "does not lie below a folder that this server opens" in answer.err
    assert "send the file" in answer.err
    assert "--allow-root" in answer.err


def test_a_path_that_is_not_whole_is_refused_before_the_server_is_asked(segment, server, tomogram):
    server.kill()
    answer = segment(tomogram("a.mrc"))
    assert answer.code == 3
    assert "a.mrc is no whole path" in answer.err
    assert "/data/tomograms/a.mrc" in answer.err


def test_the_engine_here_has_no_other_disk(cryomamba, tomogram, tmp_path):
    answer = cryomamba("segment", "--on-server", tmp_path / tomogram("a.mrc"), "--runner", "threshold")
    assert answer.code == 3
    assert "opens the files of this computer" in answer.err
    assert "--server" in answer.err

"""``cryomamba gui`` as a program: what it leaves and finds, what a large file takes, and how a small window looks."""

import json
import os
import subprocess
import sys

import engines
import mrcfile
import numpy as np
import psutil
import pytest
import servers
from qtpy import API_NAME

#: Words of Qt and napari that are not about what we do.
NOISE = ("QStandardPaths", "napari support for the PyQt5 backend", "get_system_theme", "System theme detection")

#: Of a file of 4 GB, and of one of its sections.
LARGE = (1000, 1024, 1024)
SECTION = 1024 * 1024 * 4
#: For what takes long and is about our own part of the window.
once = pytest.mark.skipif(API_NAME == "PyQt5", reason="the tests with Qt 6 have this one")


@pytest.fixture
def environment(tmp_path):
    """Of a user who has nothing yet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CRYOMAMBA_", "XDG_"))}
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(runtime),
        "NAPARI_CONFIG": "",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "PYTHONPATH": engines.install_strangers(tmp_path / "site"),
    }


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "tomo.mrc"
    with mrcfile.new(path, data=np.random.default_rng(1).normal(size=(12, 40, 50)).astype(np.float32)) as file:
        file.voxel_size = 8.0
    return path


@pytest.fixture
def gate(tmp_path):
    gate = tmp_path / "gate"
    gate.mkdir()
    return gate


def drive(deed, tmp_path, tomogram, url, gate, environment, token=""):
    """Run the desktop; what it printed, and what it said on standard error that is not noise."""
    ended = subprocess.run(
        [sys.executable, str(engines.TESTS / "driven_desktop.py"), deed, tmp_path / "desktop", tomogram, url, gate],
        env={**environment, **({"CRYOMAMBA_TOKEN": token} if token else {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return _without_noise(ended.stdout), _without_noise(ended.stderr)


def _without_noise(text):
    return [line for line in text.splitlines() if line and not any(word in line for word in NOISE)]


def test_a_window_that_is_closed_leaves_nothing(tmp_path, tomogram, gate, environment):
    before = {process.pid for process in psutil.process_iter()}
    printed, said = drive("open_and_leave", tmp_path, tomogram, "local:", gate, environment)
    assert (printed, said) == (["open"], [])
    mine = [process for process in psutil.process_iter(["cmdline"]) if process.pid not in before]
    assert not [process for process in mine if str(tmp_path) in " ".join(process.info["cmdline"] or ())]


def test_a_napari_of_its_own_command_opens_tomograms_and_has_the_panel(tmp_path, tomogram, gate, environment):
    printed, said = drive("open_and_leave", tmp_path, tomogram, "napari", gate, environment)
    assert (printed, said) == (["open"], [])


def test_a_job_on_a_server_goes_on_without_the_window_and_is_there_in_the_next(tmp_path, tomogram, gate, environment):
    with servers.ServerProcess(tmp_path / "server", environment=environment) as server:
        token = server.token()
        printed, said = drive("submit_and_leave", tmp_path, tomogram, server.url, gate, environment, token)
        assert (printed, said) == (["active"], [])
        assert engines.workers_of(server.data_dir), "it goes on"
        printed, said = drive("come_back", tmp_path, tomogram, server.url, gate, environment, token)
        assert (printed, said) == (["active", "mask"], [])


def test_a_job_on_this_computer_is_there_in_the_next_window(tmp_path, tomogram, gate, environment):
    printed, said = drive("submit_and_leave", tmp_path, tomogram, "local:", gate, environment)
    assert (printed, said) == (["active"], [])
    printed, said = drive("come_back", tmp_path, tomogram, "local:", gate, environment)
    assert (printed, said) == (["active", "mask"], [])
    assert not engines.workers_of(tmp_path / "desktop")


@once
def test_a_file_of_4_gb_is_looked_at_from_all_sides_in_less_than_1_gb(tmp_path, gate, environment):
    path = tmp_path / "large.mrc"
    with mrcfile.new_mmap(path, LARGE, mrc_mode=2) as file:  # sparse, but for the sections that are looked at
        file.voxel_size = 10
        file.data[496:512] = np.random.default_rng(4).normal(size=(16, *LARGE[1:]))
    printed, said = drive("look_through", tmp_path, path, "local:", gate, environment)
    assert said == []
    told = {each.pop("what"): each for each in map(json.loads, printed)}
    assert told["volume"]["peak"] < 1e9, told  # software OpenGL, which holds the textures, is in it
    assert told["slider"]["file"] < 2 * SECTION, "a section, wherever it is"
    assert told["z"]["file"] < (8 + 2) * SECTION, "a section a step, and one ahead"
    assert told["y"]["file"] < (8 + 2 * 4) * SECTION, "as much, in blocks of four, and one ahead"
    assert told["x"]["file"] < 1.1 * LARGE[0] * SECTION, "one pass over the file for 16 neighbours"
    assert told["volume"]["file"] < SECTION, "nothing of the tomogram"


@once
def test_in_a_narrow_window_nothing_is_cut_and_the_keys_reach_all(tmp_path, tomogram, gate, environment):
    scaled = {**environment, "QT_SCALE_FACTOR": "1.5"}
    printed, said = drive("look_over", tmp_path, tomogram, "local:", gate, scaled)
    assert said == []
    told = [json.loads(line) for line in printed]
    assert [each["what"] for each in told] == ["Tomogram", "Segment", "Jobs", "Mask", "Debug", "away"]
    assert {each["what"]: each["found"] for each in told if each["found"]} == {}

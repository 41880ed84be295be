"""nnU-Net on a server, sent for by our command: the labels of this computer, whoever is killed meanwhile."""

import json
import os
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

pytest.importorskip("torch", reason="the main job segments with nnU-Net")

from engines import workers_of

from cryomamba_core.events import PreviewReady
from cryomamba_core.job_directory import JobDirectory

#: In single precision, so that there is time to kill somebody before it is done.
PARAMS = ["mirroring=false", "spacing=voxels", "precision=single"]
JOB = ["--model", "cryomamba-demo", *(word for value in PARAMS for word in ("--param", value))]
WANTED = ["--artifact", "mask.mrc", "--artifact", "manifest.json"]


#: One process runs them all, so that the expected mask is made once.
pytestmark = pytest.mark.xdist_group("remote nnU-Net")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def tomogram(folder):
    """Noise long enough, along Y, for several sweep steps."""
    path = folder / "noise.mrc"
    voxels = np.random.default_rng(8).normal(size=(70, 200, 80)).astype(np.float32)
    with mrcfile.new(path) as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = 10.0
    return path


@pytest.fixture(scope="module")
def expected(folder, tomogram):
    """The mask that this computer makes without a server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRYOMAMBA_")}
    command = [sys.executable, "-m", "cryomamba_core.cli.main", "segment", str(tomogram), *JOB, *WANTED]
    subprocess.run(
        [*command, "--out", str(folder / "out")],
        env={**kept, "CRYOMAMBA_DATA_DIR": str(folder / "data")},
        check=True,
    )
    return (folder / "out" / "noise.mask.mrc").read_bytes()


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def wait_for_preview(data_dir, command):
    """Wait until the only job's worker has shown a preview; fails if the command ends before."""
    while command.poll() is None:
        for path in (data_dir / "jobs").glob("*"):
            if any(isinstance(event, PreviewReady) for event, _ in JobDirectory(path).events()):
                return
    pytest.fail(f"the command ended: {command.communicate()}")


def manifest_of(folder):
    return json.loads((folder / "noise.manifest.json").read_text())


def test_the_labels_are_the_same_to_the_byte_over_http_and_https(cryomamba, at_server, tomogram, expected, tmp_path):
    finish(cryomamba("segment", tomogram, *JOB, *WANTED, "--out", tmp_path / "out", **at_server))
    assert (tmp_path / "out" / "noise.mask.mrc").read_bytes() == expected
    assert manifest_of(tmp_path / "out")["attempt"] == 1


@pytest.mark.parametrize("server", ["http"], indirect=True)
@pytest.mark.parametrize(("lost", "attempt"), [("server", 1), ("worker", 2), ("server and worker", 2)])
def test_whoever_is_killed_mid_inference_the_command_ends_with_the_same_labels(
    cryomamba, at_server, server, tomogram, expected, tmp_path, lost, attempt
):
    command = cryomamba("segment", tomogram, *JOB, *WANTED, "--out", tmp_path / "out", **at_server)
    wait_for_preview(server.data_dir, command)
    [worker] = workers_of(server.data_dir)
    if "server" in lost:
        server.kill()
    assert worker.is_running()
    if "worker" in lost:
        worker.kill()
    if "server" in lost:
        server.restart()
    finish(command)
    assert (tmp_path / "out" / "noise.mask.mrc").read_bytes() == expected
    assert manifest_of(tmp_path / "out")["attempt"] == attempt
    shown = json.loads(finish(cryomamba("jobs", "list", "--json", **at_server)))
    assert [(job["state"], job["attempt"]) for job in shown["jobs"]] == [("completed", attempt)]

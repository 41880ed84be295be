"""The main job as its user runs it: nnU-Net from the command line, in a worker process of its own."""

import json
import os
import signal
import subprocess
import sys

import gemmi
import mrcfile
import nibabel
import nrrd
import numpy as np
import psutil
import pytest
import SimpleITK

pytest.importorskip("torch", reason="the main job segments with nnU-Net")

from cryomamba_core.events import PreviewReady, Progress
from cryomamba_core.job_directory import JobDirectory

MODEL = ["--model", "cryomamba-demo", "--param", "mirroring=false"]

#: Lengths of NIfTI and NRRD are in mm; float32 keeps seven digits of them.
ANGSTROM_PER_MM = 1e7
TOLERANCE = 1e-2


@pytest.fixture
def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRYOMAMBA_")}
    return {**kept, "CRYOMAMBA_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def cryomamba(environment):
    """Starts the command; whatever is left of it is killed at the end."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "cryomamba_core.cli.main", *map(str, arguments)]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def tomogram(tmp_path):
    """Noise deep enough for several sweep steps."""
    path = tmp_path / "noise.mrc"
    voxels = np.random.default_rng(8).normal(size=(160, 80, 70)).astype(np.float32)
    with mrcfile.new(path) as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = 10.0
    return path


def finish(process):
    out, err = process.communicate()
    return process.returncode, out, err


def workers(data_dir):
    """Worker processes on a data directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "cryomamba_core.worker" in words and any(str(data_dir) in word for word in words):
            found.append(process)
    return found


def wait_for_event(data_dir, kind, process):
    """The only job's directory, once its worker has said something; fails if the command ends before."""
    while process.poll() is None:
        for path in (data_dir / "jobs").glob("*"):
            directory = JobDirectory(path)
            if any(isinstance(event, kind) for event, _ in directory.events()):
                return directory
    pytest.fail(f"the command ended: {process.communicate()}")


def test_probabilities_lie_beside_the_mask_in_files_that_others_open(cryomamba, tomogram, tmp_path):
    names, out = ("membrane", "microtubule", "ribosome"), tmp_path / "out"
    code, _, err = finish(cryomamba("segment", tomogram, *MODEL, "--param", "probabilities=all", "--out", out))
    assert code == 0, err
    mask = mrcfile.read(out / "noise.mask.mrc")
    read = {}
    for name in names:
        path = f"{out / 'noise'}.probability-{name}"
        assert mrcfile.validate(f"{path}.mrc", print_file=sys.stderr)
        with mrcfile.open(f"{path}.mrc") as file:
            read[name], said = file.data.copy(), b" ".join(file.header.label).decode()
            assert file.voxel_size.x == pytest.approx(10)
        assert f"probability of the label {name}" in " ".join(said.split())
        assert np.array_equal(nrrd.read(f"{path}.nrrd")[0].T, read[name])
        assert np.array_equal(np.asarray(nibabel.load(f"{path}.nii.gz").dataobj).T, read[name])
    values = np.stack([read[name] for name in names]).astype(int)
    assert values.shape == (3, *mask.shape)
    assert values.sum(0).max() <= 255 + len(names) / 2, "nothing is more than certain"
    background = 255 - values.sum(0)
    for value, probability in enumerate((background, *values)):
        others = np.delete(np.stack([background, *values]), value, axis=0).max(0)
        assert (probability >= others - 3)[mask == value].all(), "the mask has the most probable label"
    manifest = json.loads((out / "noise.manifest.json").read_text())
    assert [each["name"] for each in manifest["run"]["companions"]] == [f"probability-{name}" for name in names]


def test_a_label_that_the_model_does_not_have_is_refused_at_once(cryomamba, tomogram, tmp_path):
    words = ["--param", "probabilities=membrane,vesicle", "--out", tmp_path / "out"]
    code, _, err = finish(cryomamba("segment", tomogram, *MODEL, *words))
    assert code == 3
    assert "'vesicle'" in err
    assert "it has: membrane, microtubule, ribosome" in err


@pytest.mark.parametrize("name", ["13pf_MT.mrc", "EMD-3001.map"])
def test_the_masks_of_a_real_file_agree_in_space(cryomamba, shared_data, tmp_path, name):
    options = ["--param", "spacing=voxels", "--out", tmp_path / "out"]
    code, _, err = finish(cryomamba("segment", shared_data / name, *MODEL, *options))
    assert code == 0, err
    stem = tmp_path / "out" / name.rsplit(".", 1)[0]
    assert mrcfile.validate(f"{stem}.mask.mrc", print_file=sys.stderr)
    source, mask = gemmi.read_ccp4_map(str(shared_data / name)), gemmi.read_ccp4_map(f"{stem}.mask.mrc")
    assert [mask.header_i32(word) for word in (*range(1, 4), *range(5, 11), *range(17, 20))] == [
        source.header_i32(word) for word in (*range(1, 4), *range(5, 11), *range(17, 20))
    ]
    mask.setup(0, gemmi.MapSetup.ReorderOnly)
    by_gemmi = np.asarray(mask.grid)
    nifti = nibabel.load(f"{stem}.mask.nii.gz")
    by_pynrrd, header = nrrd.read(f"{stem}.mask.nrrd")
    assert by_gemmi.any()
    assert np.array_equal(np.asarray(nifti.dataobj), by_gemmi)
    assert np.array_equal(by_pynrrd, by_gemmi)
    start = [mask.header_i32(word) for word in (5, 6, 7)]
    origin = np.array([mask.header_float(word) for word in (50, 51, 52)])
    cell = np.array([mask.grid.unit_cell.a, mask.grid.unit_cell.b, mask.grid.unit_cell.c])
    step = cell / [mask.header_i32(word) for word in (8, 9, 10)]
    corner = np.array(by_gemmi.shape) - 1
    expected = corner * step + (origin if origin.any() else start * step)
    by_nibabel = nibabel.affines.apply_affine(nifti.affine, corner) * ANGSTROM_PER_MM
    by_header = (corner @ header["space directions"] + header["space origin"]) * ANGSTROM_PER_MM
    assert by_nibabel == pytest.approx(expected, abs=TOLERANCE)
    assert by_header == pytest.approx(expected, abs=TOLERANCE)
    for path in (f"{stem}.mask.nii.gz", f"{stem}.mask.nrrd"):
        image = SimpleITK.ReadImage(path)
        point = np.array(image.TransformIndexToPhysicalPoint([int(i) for i in corner])) * (-1, -1, 1)
        assert point * ANGSTROM_PER_MM == pytest.approx(expected, abs=TOLERANCE)  # ITK turns x and y about


def test_the_demo_model_takes_the_real_microtubule_without_any_option(cryomamba, shared_data, tmp_path):
    code, out, err = finish(
        cryomamba("segment", shared_data / "13pf_MT.mrc", "--model", "cryomamba-demo", "--out", tmp_path, "--json")
    )
    assert code == 0, err
    assert json.loads(out)
    statistics = json.loads((tmp_path / "13pf_MT.stats.json").read_text())
    assert [label["name"] for label in statistics["labels"]] == ["membrane", "microtubule", "ribosome"]


def test_canceling_from_another_terminal_leaves_no_process_and_no_temporary_file(cryomamba, tomogram, tmp_path):
    segmenting = cryomamba("segment", tomogram, *MODEL, "--param", "spacing=voxels", "--out", tmp_path / "out")
    directory = wait_for_event(tmp_path / "data", Progress, segmenting)
    assert workers(tmp_path / "data")
    code, _, err = finish(cryomamba("jobs", "cancel", directory.path.name))
    assert code == 0, err
    assert not workers(tmp_path / "data")
    assert finish(segmenting)[0] == 7
    kept = {path.name for path in directory.path.rglob("*") if path.is_file()}
    assert kept <= {"job.json", "events.jsonl", "heartbeat", "cancel", "worker.log"}
    assert not list((tmp_path / "out").glob("*mask*"))


def test_a_killed_worker_is_replaced_and_the_mask_is_the_same_to_the_byte(cryomamba, tomogram, tmp_path):
    options = [*MODEL, "--param", "spacing=voxels", "--artifact", "mask.mrc", "--artifact", "manifest.json"]
    code, _, err = finish(cryomamba("segment", tomogram, *options, "--out", tmp_path / "undisturbed"))
    assert code == 0, err
    before = {path.name for path in (tmp_path / "data" / "jobs").iterdir()}
    disturbed = cryomamba("segment", tomogram, *options, "--out", tmp_path / "disturbed")
    while not (fresh := {path.name for path in (tmp_path / "data" / "jobs").iterdir()} - before):
        assert disturbed.poll() is None
    directory = JobDirectory(tmp_path / "data" / "jobs" / fresh.pop())
    while not any(isinstance(event, PreviewReady) for event, _ in directory.events()):
        assert disturbed.poll() is None
    for worker in workers(tmp_path / "data"):
        worker.send_signal(signal.SIGKILL)
    code, _, err = finish(disturbed)
    assert code == 0, err
    manifest = json.loads((tmp_path / "disturbed" / "noise.manifest.json").read_text())
    assert manifest["attempt"] == 2
    one, two = (mrcfile.read(tmp_path / run / "noise.mask.mrc") for run in ("undisturbed", "disturbed"))
    assert np.array_equal(one, two)

"""``cryomamba join``: whole files of the same voxels at the same place, or none."""

import gzip
import re
import signal
import subprocess
import sys

import engines
import mrcfile
import nibabel
import numpy as np
import pytest
from terminals import Terminal, wait_for_line

from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

SHAPE = (5, 7, 11)
RAW, CLEAN, THIRD = np.random.default_rng(4).integers(-120, 120, (3, *SHAPE)).astype(np.int16)


@pytest.fixture
def save(tmp_path):
    """Write an MRC file."""

    def write(name, voxels=RAW, voxel_size=10.0, **fields):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with mrcfile.new(tmp_path / name) as mrc:
            mrc.set_data(voxels)
            if voxels.ndim == 3:
                mrc.set_volume()
            mrc.voxel_size = voxel_size
            for field, value in fields.items():
                mrc.header[field] = value
        return name

    return write


@pytest.fixture
def pair(save):
    return save("raw.mrc"), save("clean.mrc", CLEAN)


@pytest.fixture
def channels_of(tmp_path):
    """What our readers find in a file: grid, and the voxels of each channel."""
    host = PluginHost.discover(Settings(data_dir=tmp_path / "other"), only="cryomamba")

    def read(name):
        with host.reader_for(tmp_path / name).open(tmp_path / name) as volume:
            return volume.grid, [channel.read(volume.grid.whole) for channel in volume.channels]

    return read


@pytest.fixture
def refused(cryomamba, tmp_path):
    """Call the command, which fails and changes nothing; what it says."""

    def call(*words, code=3, kind="input/invalid"):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        error = cryomamba("join", *words, "--json").json["error"]
        assert error["code"] == kind
        answer = cryomamba("join", *words)
        assert answer.code == code
        assert answer.out == ""
        assert error["message"] in answer.err
        assert error["hint"]
        assert error["hint"] in answer.err
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.parts[-2] != "data"} == before
        return error["message"], error["hint"]

    return call


@pytest.mark.parametrize(
    "name", ["both.mrc", "both.rec", "both.nii", "both.nii.gz", "both.NRRD", "new folder/both.mrc"]
)
def test_each_file_is_a_channel_in_the_order_in_which_it_was_given(cryomamba, pair, channels_of, tmp_path, name):
    answer = cryomamba("join", *pair, "--out", name)
    assert (answer.code, answer.err) == (0, "")
    for word in (name, "5 × 7 × 11 voxels", "10 Å", "int16", "channel 0   raw.mrc", "channel 1   clean.mrc"):
        assert word in answer.out
    grid, channels = channels_of(name)
    for path, channel in zip(pair, channels, strict=True):
        alone, (voxels,) = channels_of(path)
        assert alone.differences(grid) == ()
        assert channel.dtype == voxels.dtype
        np.testing.assert_array_equal(channel, voxels)
    assert [path for path in (tmp_path / name).parent.iterdir() if path.name.startswith(".")] == []


def test_json_says_what_was_written(cryomamba, pair, save, tmp_path):
    save("third.mrc", THIRD.astype(np.float32), voxel_size=10.00001)
    answer = cryomamba("join", *pair, "third.mrc", "--out", "all.nii.gz", "--json").json
    assert answer.pop("path") == str(tmp_path / "all.nii.gz")
    assert answer.pop("size") == (tmp_path / "all.nii.gz").stat().st_size
    assert answer.pop("voxel_size") == pytest.approx([10, 10, 10])
    widened, lengths = answer.pop("notes")
    assert widened == "voxels are written as float32, which holds those of int16 as they are"
    assert "1e-7 mm" in lengths
    assert answer == {
        "format": "nifti",
        "shape": [5, 7, 11],
        "origin": [0, 0, 0],
        "stored_axes": [0, 1, 2],
        "dtype": "float32",
        "channels": [
            {"path": "raw.mrc", "channel": 0, "dtype": "int16"},
            {"path": "clean.mrc", "channel": 0, "dtype": "int16"},
            {"path": "third.mrc", "channel": 0, "dtype": "float32"},
        ],
        "warnings": [],
    }


def test_a_file_of_several_channels_gives_them_all(cryomamba, save, channels_of):
    save("both.mrc", np.stack([RAW, CLEAN]))
    save("more/third.mrc", THIRD)
    answer = cryomamba("join", "more/third.mrc", "both.mrc", "--out", "all.nrrd")
    assert answer.code == 0
    for line in ("channel 0   third.mrc", "channel 1   both.mrc, channel 0", "channel 2   both.mrc, channel 1"):
        assert line in answer.out
    assert "warning" not in answer.out
    np.testing.assert_array_equal(channels_of("all.nrrd")[1], [THIRD, RAW, CLEAN])


def test_files_of_other_formats_and_compressed_ones_are_joined(cryomamba, save, channels_of, tmp_path):
    save("raw.mrc")
    image = nibabel.Nifti1Image(CLEAN.T, np.diag([10e-7, 10e-7, 10e-7, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "case_0001.nii.gz")
    assert cryomamba("join", "case_0001.nii.gz", "raw.mrc", "--out", "both.mrc").code == 0
    assert mrcfile.validate(tmp_path / "both.mrc")
    np.testing.assert_array_equal(channels_of("both.mrc")[1], [CLEAN, RAW])


@pytest.mark.parametrize("name", ["both.mrc", "both.nii", "both.nrrd"])
def test_what_is_wrong_with_another_grid_is_said_of_the_file_that_has_it(save, refused, name):
    save("raw.mrc")
    save("small.mrc", CLEAN[:4])
    save("coarse.mrc", CLEAN, voxel_size=10.5)
    save("moved.mrc", CLEAN, origin=(1, 2, 300))
    message, hint = refused("raw.mrc", "small.mrc", "--out", name)
    assert message == "small.mrc does not lie on raw.mrc: it has 4 × 7 × 11 voxels (z, y, x) instead of 5 × 7 × 11"
    assert "crop" in hint
    message, hint = refused("raw.mrc", "coarse.mrc", "--out", name)
    assert "coarse.mrc does not lie on raw.mrc: it has a voxel size of (10.5, 10.5, 10.5) Å" in message
    assert "--voxel-size" in hint
    message, hint = refused("raw.mrc", "moved.mrc", "--out", name)
    assert "its origin at (300, 2, 1) Å instead of (0, 0, 0) Å" in message
    assert "place of raw.mrc for all with --grid-of-first" in hint


def test_the_first_file_can_say_where_all_are(cryomamba, save, channels_of):
    save("raw.mrc", nxstart=4)
    save("moved.mrc", CLEAN, voxel_size=0.0, origin=(1, 2, 300))
    answer = cryomamba("join", "raw.mrc", "moved.mrc", "--grid-of-first", "--out", "both.mrc")
    assert answer.code == 0
    assert "note: voxel size and place are those of raw.mrc, whatever the other headers say" in answer.out
    grid, channels = channels_of("both.mrc")
    assert grid == channels_of("raw.mrc")[0]
    assert grid.origin == (0, 0, 40)
    np.testing.assert_array_equal(channels, [RAW, CLEAN])


def test_the_first_file_says_nothing_of_how_many_voxels_others_have(save, refused):
    save("raw.mrc")
    save("small.mrc", CLEAN[:4])
    assert "4 × 7 × 11 voxels" in refused("raw.mrc", "small.mrc", "--grid-of-first", "--out", "both.mrc")[0]


def test_a_voxel_size_can_be_given_for_all(cryomamba, save, channels_of):
    save("raw.mrc", voxel_size=0.0)
    save("clean.mrc", CLEAN, voxel_size=1.0)
    assert cryomamba("join", "raw.mrc", "clean.mrc", "--out", "both.mrc").code == 3
    answer = cryomamba("join", "raw.mrc", "clean.mrc", "--out", "both.mrc", "--voxel-size", "7.84")
    assert "warning" not in answer.out
    assert channels_of("both.mrc")[0].voxel_size == (7.84, 7.84, 7.84)


def test_what_looks_wrong_in_a_header_is_said_of_its_file(cryomamba, save):
    save("raw.mrc", voxel_size=1.0)
    save("clean.mrc", CLEAN, voxel_size=1.0)
    answer = cryomamba("join", "raw.mrc", "clean.mrc", "--out", "both.mrc")
    assert "warning: clean.mrc: the voxel size is exactly 1 Å" in answer.out
    warning, _ = cryomamba("join", "raw.mrc", "clean.mrc", "--out", "two.mrc", "--json").json["warnings"]
    assert (warning["path"], warning["code"]) == ("raw.mrc", "header/voxel-size-one")


@pytest.mark.parametrize(
    ("types", "name", "written"),
    [
        (("i1", "i1"), "both.mrc", "int8"),
        (("i1", "u2"), "both.mrc", "float32"),
        (("i1", "i2"), "both.nii", "int16"),
        (("i2", "u2"), "both.nrrd", "int32"),
        (("f2", "f2"), "both.mrc", "float16"),
        (("f2", "f2"), "both.nii.gz", "float32"),
        (("f2", "i2"), "both.mrc", "float32"),
    ],
)
def test_no_voxel_changes_its_value_for_its_type(cryomamba, save, channels_of, types, name, written):
    given = [np.abs(voxels).astype(dtype) for voxels, dtype in zip((RAW, CLEAN), types, strict=True)]
    files = [save(f"{index}.mrc", voxels) for index, voxels in enumerate(given)]
    answer = cryomamba("join", *files, "--out", name, "--json").json
    assert answer["dtype"] == written
    others = {np.dtype(each).name for each in types} - {written}
    assert ["voxels are written as" in note for note in answer["notes"]].count(True) == bool(others)
    for voxels, channel in zip(given, channels_of(name)[1], strict=True):
        assert channel.dtype == written
        np.testing.assert_array_equal(channel, voxels)


def test_types_that_the_format_does_not_hold_are_refused_with_those_that_do(cryomamba, save, refused, tmp_path):
    save("raw.mrc", RAW.astype(np.float32))
    image = nibabel.Nifti1Image(CLEAN.T.astype(np.int32), np.diag([10e-7, 10e-7, 10e-7, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "labels.nii")
    message, hint = refused("raw.mrc", "labels.nii", "--out", "both.mrc")
    assert message == "no type of voxels in .mrc files holds float32 and int32 without loss"
    assert hint == "let the joined file be one of: .nii.gz, .nii, .nrrd"
    assert cryomamba("join", "raw.mrc", "labels.nii", "--out", "both.nii").code == 0
    image = nibabel.Nifti1Image(CLEAN.T.astype(np.int64), image.affine, image.header, dtype=np.int64)
    nibabel.save(image, tmp_path / "labels.nii")
    assert "convert the voxels to one type" in refused("raw.mrc", "labels.nii", "--out", "two.nrrd")[1]


def test_names_that_cannot_be_meant_are_refused(pair, refused, save, tmp_path):
    parameter = {"kind": "input/invalid-parameter"}
    assert "nothing to join it with" in refused("raw.mrc", "--out", "both.mrc", **parameter)[0]
    assert "is given twice" in refused("raw.mrc", "./raw.mrc", "--out", "both.mrc", **parameter)[0]
    message, hint = refused(*pair, "--out", "both.tif", **parameter)
    assert message == "nothing writes channels to a file called both.tif"
    assert ".nii.gz" in hint
    (tmp_path / "link.mrc").symlink_to("clean.mrc")
    for target in ("clean.mrc", "./raw.mrc", "link.mrc"):
        assert "one of the files" in refused(*pair, "--out", target, "--overwrite", **parameter)[0]
    many = [save(f"many {index}.mrc", np.zeros((64, 1, 1, 1), np.int8)) for index in range(2)]
    assert "128 volumes" in refused(*many, "--out", "both.mrc", **parameter)[0]
    assert "nowhere.mrc" in refused("raw.mrc", "nowhere.mrc", "--out", "both.mrc", kind="input/missing-file")[0]


def test_a_file_that_exists_is_replaced_only_if_that_is_asked_for(cryomamba, pair, refused, channels_of, tmp_path):
    (tmp_path / "both.mrc").write_bytes(b"precious")
    message, hint = refused(*pair, "--out", "both.mrc", code=6, kind="storage/output-exists")
    assert message == "both.mrc exists"
    assert "--overwrite" in hint
    assert cryomamba("join", *pair, "--out", "both.mrc", "--overwrite").code == 0
    assert len(channels_of("both.mrc")[1]) == 2


def test_a_file_that_is_found_damaged_while_it_is_read_leaves_nothing(pair, refused, tmp_path):
    image = nibabel.Nifti1Image(CLEAN.T, np.diag([10e-7, 10e-7, 10e-7, 1]))
    image.header.set_xyzt_units("mm")
    content = bytearray(gzip.compress(image.to_bytes()))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "damaged.nii.gz").write_bytes(content)
    message, _ = refused("raw.mrc", "damaged.nii.gz", "--out", "new folder/both.mrc", kind="input/corrupt-file")
    assert message.startswith("damaged.nii.gz: ")
    assert not (tmp_path / "new folder").exists()


def test_an_exporter_that_writes_something_else_is_found_out(pair, cryomamba, tmp_path, monkeypatch):
    from cryomamba_backends.formats.nrrd import exporter

    monkeypatch.setattr(exporter, "_vector", lambda numbers: f"({','.join(str(2 * number) for number in numbers)})")
    answer = cryomamba("join", *pair, "--out", "both.nrrd")
    assert answer.code == 5
    assert "both.nrrd would have a voxel size of (20, 20, 20) Å instead of (10, 10, 10) Å" in answer.err
    assert sorted(path.name for path in tmp_path.glob("*both*")) == []


@pytest.fixture
def large(save, tmp_path):
    """Two files of 2 GB each, which take no room on the disk."""
    return sparse_files(save, tmp_path, 2048)


def sparse_files(save, folder, sections):
    names = [save(name, np.zeros((1, 1, 1), np.int8)) for name in ("large 0.mrc", "large 1.mrc")]
    for name in names:
        with mrcfile.open(folder / name, "r+", header_only=True) as mrc:
            for field in ("nx", "ny", "mx", "my"):
                mrc.header[field] = 1024
            mrc.header.nz = mrc.header.mz = sections
            mrc.header.cella = (10240, 10240, 10 * sections)
        with (folder / name).open("r+b") as file:
            file.truncate(1024 + sections * 1024 * 1024)
    return names


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(process, large, tmp_path, signum, code):
    running = process("join", *large, "--out", "new folder/both.nii.gz")
    wait_for_line(running.stderr, "both.nii.gz: joining")
    assert list((tmp_path / "new folder").glob(".*/both.nii.gz"))
    running.send_signal(signum)
    out, err = running.communicate(timeout=engines.DEADLINE)
    assert (running.returncode, out) == (code, "")
    assert f"interrupted by {signum.name}" in err
    assert not (tmp_path / "new folder").exists()


def test_what_a_killed_process_leaves_has_another_name_and_goes_with_the_next_try(
    process, large, pair, cryomamba, tmp_path
):
    running = process("join", *large, "--out", "both.nii.gz")
    wait_for_line(running.stderr, "both.nii.gz: joining")
    running.kill()
    running.communicate(timeout=engines.DEADLINE)
    assert not (tmp_path / "both.nii.gz").exists()
    assert list(tmp_path.glob(".cryomamba-*"))
    assert cryomamba("join", *pair, "--out", "both.nii.gz").code == 0
    assert list(tmp_path.glob(".cryomamba-*")) == []


def test_a_terminal_shows_how_far_it_is(process, large):
    terminal = Terminal()
    running = process("join", *large, "--out", "both.nii.gz", stderr=terminal.writing)
    terminal.wait_for("MB/s")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=engines.DEADLINE)
    assert re.search(r"both\.nii\.gz.*joining", terminal.close())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how much memory a process held is read from /proc")
@pytest.mark.usefixtures("data_dir")
def test_memory_does_not_grow_with_the_volume(save, tmp_path):
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom cryomamba_core.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print('peak', re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for sections in (16, 512):
        files = sparse_files(save, tmp_path, sections)
        call = [sys.executable, "-c", code, "join", *files, "--out", f"{sections}.mrc"]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) << 10)
        for path in tmp_path.glob("*.mrc"):
            path.unlink()
    assert peaks[1] - peaks[0] < 16 << 20


def test_files_are_completed_for_both_kinds_of_names(cryomamba, data_dir, monkeypatch):
    for words in ("cryomamba join ra", "cryomamba join raw.mrc --out bo"):
        monkeypatch.setenv("_CRYOMAMBA_COMPLETE", "zsh_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert cryomamba().out.splitlines()[0] == "file"

"""Where results go: names that come from labels, and files that are never replaced."""

import os
from pathlib import Path

import pytest

from cryomamba_core.cli.outputs import LONGEST_STEM, OutputFolder, distinct_stems, plain_name, stem_of, target_of
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings


@pytest.fixture
def host(data_dir):
    return PluginHost.discover(Settings(data_dir=data_dir))


@pytest.mark.parametrize(
    ("label", "stem"),
    [
        ("a.mrc", "a"),
        ("Tomogramm ö (7).nii.gz", "Tomogramm ö (7)"),
        ("../home/pwned.mrc", "_home_pwned"),
        ("/etc/cron.d/job", "_etc_cron.d_job"),
        ("..", "_"),
        (".mrc", "mrc"),
        (".hidden.mrc", "hidden"),
        ("-rf.mrc", "rf"),
        ("--checkpoint=1 x", "checkpoint=1 x"),
        ("a\\b\0c\nd\x1b[2Je\x9bf\u202eg.mrc", "a_b_c_d_[2Je_f_g"),
        ("a\ud800b", "a_b"),
        ("", "_"),
    ],
)
def test_a_label_becomes_one_plain_file_name(host, label, stem):
    assert stem_of(label, host) == stem
    assert target_of(Path("OUT"), stem, "mask.mrc").parent == Path("OUT")


@pytest.mark.parametrize("letter", ["x", "ö", "膜", "🧊"])
def test_a_long_label_is_cut_between_letters_and_leaves_room_for_the_artifact(letter, tmp_path):
    stem = plain_name(letter * 300)
    assert LONGEST_STEM - 4 < len(os.fsencode(stem)) <= LONGEST_STEM
    assert set(stem) == {letter}
    target_of(tmp_path, stem, "y" * 100).touch()


@pytest.mark.parametrize(
    ("first", "second"), [("a\nb.mrc", "a\tb.mrc"), (".a.mrc", "a.mrc"), ("x" * 160 + ".mrc", "x" * 161 + ".mrc")]
)
def test_names_that_become_the_same_are_refused(host, first, second):
    with pytest.raises(InvalidParameter, match="the same names"):
        distinct_stems([Path(first), Path(second)], host)


@pytest.mark.parametrize("job_id", ["../victim", "x/../../victim", "", ".."])
def test_the_hidden_folder_of_a_job_stays_inside_whatever_its_id(tmp_path, job_id):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    with OutputFolder(tmp_path / "OUT", overwrite=True) as folder:
        with folder.stage(job_id) as stage:
            assert stage.parent == folder.path
            assert stage.name.startswith(".cryomamba-")
        assert list(folder.path.iterdir()) == []
    assert (victim / "precious").exists()


@pytest.mark.parametrize("spared", [True, False])
def test_a_tomogram_is_not_replaced_by_an_artifact_that_an_engine_calls_like_it(tmp_path, spared):
    tomogram, other, staged = tmp_path / "a.mrc", tmp_path / "a.mask.mrc", tmp_path / "staged"
    for file in (tomogram, other, staged):
        file.write_text(file.name)
    folder = OutputFolder(tmp_path, overwrite=True, spared=[tomogram, tmp_path / "missing"] if spared else [])
    if not spared:
        folder.publish({staged: tomogram})
        assert tomogram.read_text() == "staged"
        return
    with pytest.raises(InvalidParameter, match="would replace a tomogram"):
        folder.publish({staged: other, tmp_path / "more": tomogram})
    assert (tomogram.read_text(), other.read_text()) == ("a.mrc", "a.mask.mrc")
    folder.publish({staged: other})
    assert other.read_text() == "staged"

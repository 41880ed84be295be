"""What is asked for, as a command that asks for the same."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cryomamba_backends.threshold import ThresholdParams
from cryomamba_core.cli.segment import segment
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.parameters import parse_assignments
from cryomamba_core.settings import default_data_dir
from cryomamba_gui.desk.orders import command_line

ELSEWHERE = Path("/my data")
URL = "https://tomo.example:8443/cryo"
SOURCE = Source(file_id="f")


def words_of(config, **options):
    return shlex.split(
        command_line(config, **{"path": Path("/data/a.mrc"), "url": URL, "data_dir": ELSEWHERE, **options})
    )


def read_back(words):
    """What the command line understands of the words behind ``segment``."""
    return segment.make_context("segment", words[words.index("segment") + 1 :]).params


def test_everything_that_is_asked_for_stands_in_the_command():
    params = {"value": 0.1 + 0.2, "dark": True}
    config = JobConfig(
        source=SOURCE,
        model="my model",
        runner="threshold",
        params=params,
        artifacts=("mask.mrc", "stats.json"),
        voxel_size=(13.48, 13.48, 1 / 3),
    )
    path = Path("/data/it's $HOME; a*.mrc")
    words = words_of(config, path=path)
    assert words[:3] == ["cryomamba", "--server", URL]
    given = read_back(words)
    assert given["files"] == (path,)
    assert (given["model"], given["runner"]) == ("my model", "threshold")
    assert given["artifacts"] == ("mask.mrc", "stats.json")
    assert given["voxel_size"] == config.voxel_size
    assert parse_assignments(ThresholdParams, given["params"]) == params
    assert not given["on_server"]


@pytest.mark.parametrize(
    ("value", "word"),
    [(None, "none"), (False, "false"), (3, "3"), (1e-12, "1e-12"), ([1, 2.5], "1,2.5"), ("a b", "a b")],
)
def test_values_are_written_as_the_command_line_reads_them(value, word):
    assert f"name={word}" in words_of(JobConfig(source=SOURCE, params={"name": value}))


def test_this_computer_needs_no_server():
    config = JobConfig(source=Source(path="/data/a.mrc"), runner="threshold")
    usual = default_data_dir()
    expected = "cryomamba segment /data/a.mrc --runner threshold"
    assert command_line(config, path=None, url="local:", data_dir=usual) == expected
    assert command_line(config, path=Path("/data/a.mrc"), url="local:", data_dir=usual) == expected
    elsewhere = command_line(config, path=None, url="local:", data_dir=ELSEWHERE)
    assert elsewhere == "cryomamba --data-dir '/my data' segment /data/a.mrc --runner threshold"


def test_a_file_that_only_the_server_has_is_named_as_such():
    words = words_of(JobConfig(source=Source(path="/srv/a.mrc"), model="m"), path=None)
    given = read_back(words)
    assert (given["files"], given["on_server"]) == ((Path("/srv/a.mrc"),), True)
    assert "a.mrc" in words_of(JobConfig(source=SOURCE, label="a.mrc"), path=None)


def test_the_command_runs(tmp_path, tomogram):
    config = JobConfig(source=Source(path=str(tomogram)), runner="threshold", params={"value": 1.5})
    command = command_line(config, path=tomogram, url="local:", data_dir=tmp_path / "my data")
    command = command.replace("cryomamba", f"{shlex.quote(sys.executable)} -m cryomamba_core", 1)
    subprocess.run(f"{command} --plan", shell=True, check=True, capture_output=True, cwd=tmp_path)

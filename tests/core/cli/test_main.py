"""The door: help, versions, exit codes, and errors in words."""

import os
import subprocess
import sys

import pytest

from cryomamba_core.cli import doctor as doctor_module
from cryomamba_core.cli.failures import EXIT_CODES
from cryomamba_core.cli.main import OTHERS, PANELS
from cryomamba_core.errors import CryoMambaError


def loaded_by(*words):
    """Modules that a call of the command has loaded."""
    code = (
        "import sys\nfrom cryomamba_core.cli.main import main\n"
        f"main({list(words)!r})\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_names_every_command_and_those_of_plugins(cryomamba):
    answer = cryomamba("--help")
    assert answer.code == 0
    for name in ("info", "segment", "models", "jobs", "plugins", "doctor", "worker", "completion", "demo"):
        assert name in answer.out


def test_every_command_that_is_known_has_its_place_and_what_strangers_add_comes_last(cryomamba, tmp_path):
    (tmp_path / "site" / "more-1.0.dist-info").mkdir()
    (tmp_path / "site" / "more-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: more\nVersion: 1\n"
    )
    (tmp_path / "site" / "more-1.0.dist-info" / "entry_points.txt").write_text("[cryomamba]\nmore = moreplugin\n")
    (tmp_path / "site" / "moreplugin.py").write_text(
        "import click\nfrom cryomamba_core.hookspecs import hookimpl\n"
        "@click.command()\ndef polish():\n    'Polish it.'\n"
        "@hookimpl\ndef cryomamba_register_commands(register):\n    register(polish)\n"
    )
    panels = {}
    for line in cryomamba("--help").out.splitlines():
        if line.startswith("╭─ "):
            panels[line.strip("╭─╮ ")] = listed = []
        elif line.startswith("│ ") and line[2] != " ":
            listed.append(line.split()[1])
    del panels["Options"]
    assert panels == {**PANELS, OTHERS: ["polish"]}
    assert list(panels)[-1] == OTHERS


def test_help_lists_every_exit_code(cryomamba):
    answer = cryomamba("--help")
    for code in EXIT_CODES:
        assert f" {code} " in answer.out


def test_every_family_of_errors_has_a_documented_exit_code():
    assert {family.exit_code for family in CryoMambaError.__subclasses__()} <= set(EXIT_CODES)


def test_help_waits_for_nothing_heavy(data_dir):
    heavy = {"numpy", "torch", "trio", "sqlalchemy", "typed_settings", "cattrs", "scipy", "mrcfile"}
    assert loaded_by("--help").isdisjoint(heavy)
    assert loaded_by("segment", "--help").isdisjoint(heavy)


def test_the_version_is_that_of_the_package(cryomamba):
    from importlib import metadata

    assert cryomamba("--version").out.split() == ["cryomamba", metadata.version("cryomamba")]


@pytest.mark.parametrize("words", [["--nothing"], ["sgment"], ["segment"], ["info", "a", "--voxel-size", "0"]])
def test_a_command_line_that_is_not_understood_exits_with_two_and_a_hint(cryomamba, words):
    answer = cryomamba(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert "--help" in answer.err


def test_a_mistake_becomes_json_where_json_is_asked_for(cryomamba):
    answer = cryomamba("info", "--jso", "--json")
    assert answer.code == 2
    assert answer.json["error"]["code"] == "usage"


def test_a_misspelt_command_gets_the_nearest_one(cryomamba):
    assert "'segment'" in cryomamba("sgment").err


def test_no_command_at_all_shows_the_help(cryomamba):
    answer = cryomamba()
    assert answer.code == 2
    assert "segment" in answer.err


def test_settings_that_cannot_be_read_are_an_input_error(cryomamba):
    answer = cryomamba("--config", "nowhere.toml", "plugins")
    assert answer.code == 3
    assert "nowhere.toml does not exist" in answer.err


@pytest.mark.parametrize(
    ("server", "meant"),
    [
        ("gpu7", "https://gpu7:8765"),
        ("gpu7:80", "https://gpu7:80"),
        ("gpu7.lab.example/cryomamba", "https://gpu7.lab.example:8765/cryomamba"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("localhost", "http://localhost:8765"),
        ("[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_a_host_without_a_scheme_gets_the_whole_address(cryomamba, server, meant):
    answer = cryomamba("--server", server, "models", "list")
    assert answer.code == 5
    assert f"do you mean {meant}?" in answer.err


def test_a_server_that_nobody_speaks_to_is_an_error_with_the_known_schemes(cryomamba):
    answer = cryomamba("--server", "gopher://x", "models", "list")
    assert answer.code == 5
    assert "local:" in answer.err
    assert "do you mean" not in answer.err


def test_the_data_directory_can_be_named_on_the_command_line(cryomamba, tmp_path):
    answer = cryomamba("--data-dir", tmp_path / "elsewhere", "jobs", "list", "--json")
    assert answer.json == {"jobs": []}
    assert (tmp_path / "elsewhere").is_dir()


def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(cryomamba, data_dir, monkeypatch):
    data_dir.mkdir()

    def fail(state):
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr("cryomamba_core.cli.diagnosis.examine", fail)
    answer = cryomamba("doctor")
    log = data_dir / "cryomamba.log"
    assert answer.code == 1
    assert "ZeroDivisionError: nobody thought of this" in answer.err
    assert "Traceback" not in answer.err
    assert str(log) in answer.err
    assert doctor_module.__file__ in log.read_text()


def test_verbose_shows_the_traceback(cryomamba, monkeypatch):
    def fail(state):
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr("cryomamba_core.cli.diagnosis.examine", fail)
    assert "Traceback" in cryomamba("-v", "doctor").err


def test_an_error_in_a_nursery_is_unwrapped(cryomamba, monkeypatch):
    from cryomamba_core.errors import UnknownModel

    def fail(state):
        raise ExceptionGroup("nursery", [ExceptionGroup("inner", [ValueError("x"), UnknownModel("no such model")])])

    monkeypatch.setattr("cryomamba_core.cli.diagnosis.examine", fail)
    answer = cryomamba("doctor")
    assert answer.code == 4
    assert "no such model  [model/unknown]" in answer.err


def test_a_reader_that_goes_away_is_no_error(process, data_dir):
    reading, writing = os.pipe()
    os.close(reading)
    running = process("plugins", stdout=writing)
    os.close(writing)
    assert running.wait() == 141
    assert "Traceback" not in running.stderr.read()


def test_the_package_runs_as_a_module(data_dir):
    done = subprocess.run([sys.executable, "-m", "cryomamba_core", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("cryomamba ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_is_printed(cryomamba, shell):
    answer = cryomamba("completion", shell)
    assert answer.code == 0
    assert "_CRYOMAMBA_COMPLETE" in answer.out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cryomamba seg", "segment"),
        ("cryomamba segment a.mrc --runner thr", "threshold"),
        ("cryomamba segment a.mrc --model ste", "steps"),
        ("cryomamba segment a.mrc --artifact mask.n", "mask.nrrd"),
        ("cryomamba segment a.mrc --runner threshold --param d", "dark="),
        ("cryomamba segment a.mrc --runner threshold --param dark=", "dark=true"),
        ("cryomamba jobs show 0", "0123"),
    ],
)
def test_words_are_completed(cryomamba, data_dir, monkeypatch, line, offered):
    (data_dir / "jobs" / "0123").mkdir(parents=True)
    words = line.split(" ")
    monkeypatch.setenv("_CRYOMAMBA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    answer = cryomamba()
    assert f"plain,{offered}" in answer.out.splitlines()
    assert answer.err == ""


def test_a_command_of_a_plugin_that_is_broken_is_not_listed_and_harms_nobody(cryomamba, tmp_path):
    info = tmp_path / "site" / "broken-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nbroken = brokenplugin\n")
    (tmp_path / "site" / "brokenplugin.py").write_text("import nothing_of_this_name  # cryomamba_register_commands\n")
    assert cryomamba("--help").code == 0
    answer = cryomamba("plugins", "--json")
    assert answer.code == 0
    record = next(record for record in answer.json["plugins"] if record["name"] == "broken")
    assert (record["distribution"], record["version"]) == ("broken", "2.0")
    assert "nothing_of_this_name" in record["error"]
    shown = cryomamba("plugins")
    assert "nothing_of_this_name" in shown.out
    assert shown.err == ""
    assert "strangers" in shown.out


@pytest.mark.parametrize(
    ("entry_points", "source"),
    [
        (b"[console_scripts]\nthis is no entry point\n", ""),
        (b"[cryomamba]\nthis is no entry point\n", ""),
        (b"[cryomamba]\nsch\xf6n = harmful\n", ""),
        (b"[cryomamba]\nharmful = not a module!\n", ""),
        (b"[cryomamba]\nharmful = harmful\n", "raise SystemExit(3)  # cryomamba_register_commands"),
        (b"[cryomamba]\nharmful = harmful:plugin\n", "raise type('Odd', (BaseException,), {})"),
        (
            b"[cryomamba]\nharmful = harmful\n",
            "def cryomamba_register_commands(register):\n    exit('no licence found')",
        ),
        (
            b"[cryomamba]\nharmful = harmful\n",
            "def cryomamba_register_commands(register):\n    register(type('Polish', (), {'name': 'set'}))",
        ),
    ],
)
def test_nothing_that_is_installed_takes_the_help_or_the_completion_down(
    cryomamba, tmp_path, monkeypatch, entry_points, source
):
    info = tmp_path / "site" / "harmful-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harmful\nVersion: 2.0\n")
    (info / "entry_points.txt").write_bytes(entry_points)
    (tmp_path / "site" / "harmful.py").write_text(source)
    monkeypatch.delitem(sys.modules, "harmful", raising=False)
    answer = cryomamba("--help")
    assert answer.code == 0
    assert "segment" in answer.out
    monkeypatch.setenv("_CRYOMAMBA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "cryomamba se")
    monkeypatch.setenv("COMP_CWORD", "1")
    answer = cryomamba()
    assert (answer.out.splitlines(), answer.err) == (["plain,segment", "plain,serve"], "")

"""Completion in bash, which tears words apart at ``:`` and ``=`` and replaces the last piece only."""

import os
import pty
import shlex
import subprocess
import sys

import engines
import pytest

from cryomamba_core.cli.completion import glue_words

#: Puts the cursor at the start of the line.
HOME = "\x01"


@pytest.fixture
def line(data_dir, tmp_path):
    """What stands behind ``cryomamba`` once keys were hit in a bash that has loaded the completion."""
    command = tmp_path / "bin" / "cryomamba"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cryomamba_core.cli.main "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"}
    keyboard, terminal = pty.openpty()

    def hit(keys):
        lines = ['eval "$(cryomamba completion bash)"', f"cryomamba {keys}{HOME}echo -n > line ", "exit", ""]
        os.write(keyboard, "\n".join(lines).encode())
        subprocess.run(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            timeout=engines.DEADLINE,
            check=True,
        )
        return (tmp_path / "line").read_text().removeprefix("cryomamba ")

    yield hit
    os.close(keyboard)
    os.close(terminal)


@pytest.mark.parametrize(
    ("keys", "completed"),
    [
        ("segment --runner threshold --param dark=t\t", "segment --runner threshold --param dark=true"),
        ("segment --runner threshold --param dar\tt\t", "segment --runner threshold --param dark=true"),
        ("segment --runner threshold --param=dark=f\t", "segment --runner threshold --param=dark=false"),
        ("segment --runner=thr\t--param dark=f\t", "segment --runner=threshold --param dark=false"),
        ("segment --param dark=t --mo\tste\t", "segment --param dark=t --model steps"),
    ],
)
def test_keys_complete_a_value_behind_its_name(line, keys, completed):
    assert line(keys) == completed


@pytest.fixture
def offered(cryomamba, monkeypatch):
    """What bash is given for the last of its words."""

    def ask(*words):
        monkeypatch.setenv("_CRYOMAMBA_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["cryomamba", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        answer = cryomamba()
        assert answer.err == ""
        return answer.out.splitlines()

    return ask


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["--runner", "threshold", "--param", "dark", "="], ["plain,true", "plain,false"]),
        (["--runner", "threshold", "--param", "dark", "=", "f"], ["plain,false"]),
        (["--runner", "threshold", "--param", "=", "dark", "=", "f"], ["plain,false"]),
        (["--runner", "threshold", "--param", "="], ["plain,value=", "plain,dark="]),
        (["--runner", "=", "threshold", "--param", "value", "=", "3", "--param", "da"], ["plain,dark="]),
        (["--runner", "threshold", "--param", "dark=f"], ["plain,dark=false"]),
        (["--runner", "threshold", "--param", "'dark=f"], ["plain,dark=false"]),
        (["--runner", "threshold", "--param", "dark", "=", ""], ["file,"]),
        (["--param", "=", "dark", "=", "true", "a", "=", "b"], ["file,a=b"]),
        (["--out", "=", "/da"], ["dir,/da"]),
    ],
)
def test_what_is_offered_replaces_the_last_piece(offered, words, offers):
    assert offered("segment", *words) == offers


@pytest.mark.parametrize(
    ("words", "glued", "piece"),
    [
        (["--server", "https", ":", "//gpu7", ":", "8765", "jobs"], ["--server", "https://gpu7:8765", "jobs"], "jobs"),
        (["login", "http", ":", "//[", "::", "1]", ":", "80"], ["login", "http://[::1]:80"], "80"),
        (["login", "https", ":", "//gp"], ["login", "https://gp"], "//gp"),
        (["login", "https", ":"], ["login", "https:"], ""),
        (["--param", "dark", "=", "mem"], ["--param", "dark=mem"], "mem"),
        (["--param", "gate", "=", "/a", ":", "/b", "--mo"], ["--param", "gate=/a:/b", "--mo"], "--mo"),
        (["--param", "=", "dark", "="], ["--param=dark="], ""),
        (["jobs", "show", "0"], ["jobs", "show", "0"], "0"),
    ],
)
def test_what_bash_tears_apart_is_put_together(words, glued, piece):
    assert glue_words(words, len(words) - 1) == (glued, piece)
    assert glue_words([*words, "--json"], len(words) - 1) == (glued, piece)
    assert glue_words(words, len(words)) == ([*glued, ""], "")

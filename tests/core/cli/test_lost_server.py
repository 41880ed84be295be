"""A server that is killed under a client, and one that comes back: what the client says meanwhile."""

import re
import signal

import engines
import pytest
from servers import ServerProcess
from terminals import Terminal, wait_for_line

pytestmark = pytest.mark.once

SILENT = "the server does not answer, trying again"


@pytest.fixture
def server(tmp_path, data_dir, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with ServerProcess(tmp_path / "server") as server:
        monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token())
        yield server
    for worker in engines.workers_of(server.data_dir):
        worker.kill()


def test_a_server_that_is_killed_while_a_job_runs_is_waited_for_and_said_so(process, server, gated):
    words, gate = gated
    running = process("--server", server.url, "segment", *words, "--out", "OUT")
    wait_for_line(running.stderr, "running")
    server.kill()
    wait_for_line(running.stderr, SILENT)
    server.restart()
    wait_for_line(running.stderr, "the server answers again")
    engines.open_gate(gate)
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 0, err
    assert SILENT not in err
    assert "slow.npy: completed" in err


def test_a_server_that_is_killed_in_an_upload_is_waited_for_and_the_rest_is_sent(process, server, tmp_path):
    engines.make_tomogram(tmp_path / "large.npy", (512, 512, 128))
    running = process("--server", server.url, "segment", "large.npy", "--runner", "steps", "--plan")
    wait_for_line(running.stderr, "%, uploading")
    server.kill()
    wait_for_line(running.stderr, SILENT)
    server.restart()
    wait_for_line(running.stderr, "the server answers again")
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 0, err


def test_the_live_table_shows_no_time_that_is_left_while_the_server_is_away(process, server, gated, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    words, gate = gated
    terminal = Terminal()
    running = process("--server", server.url, "segment", *words, "--out", "OUT", stderr=terminal.writing)
    engines.open_gate(gate, 0, 1, 2)
    terminal.wait_for("segmenting")
    server.kill()
    terminal.wait_for(f"{SILENT} (0:02)")
    running.send_signal(signal.SIGINT)
    terminal.wait_for("once more to leave at once")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=engines.DEADLINE)
    text = terminal.close()
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", text)
    rows = [line for line in re.split(r"[\r\n]+", drawn) if SILENT in line]
    assert rows
    assert not [row for row in rows if " left" in row or "segmenting" in row]


def test_a_job_that_cannot_be_canceled_is_named_with_the_command_that_does(process, server, gated):
    words, _ = gated
    running = process("--server", server.url, "segment", *words, "--out", "OUT")
    job_id = wait_for_line(running.stderr, "queued as job").split()[-1]
    wait_for_line(running.stderr, "running")
    server.kill()
    running.send_signal(signal.SIGINT)
    wait_for_line(running.stderr, "once more to leave at once")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 130
    assert f"1 job may still run on the server: cryomamba --server {server.url} jobs cancel {job_id}" in err
    server.restart()


def test_a_job_that_is_canceled_in_time_is_not_named(process, server, gated):
    words, _ = gated
    running = process("--server", server.url, "segment", *words, "--out", "OUT")
    wait_for_line(running.stderr, "running")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert "may still run" not in err


def test_a_cohort_says_in_its_summary_what_is_not_known(process, server, gated, tmp_path):
    words, _ = gated
    engines.make_tomogram(tmp_path / "other.npy")
    running = process("--server", server.url, "segment", "other.npy", *words, "--out", "OUT")
    wait_for_line(running.stderr, "running")
    wait_for_line(running.stderr, "queued as job")
    server.kill()
    running.send_signal(signal.SIGINT)
    wait_for_line(running.stderr, "once more to leave at once")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=engines.DEADLINE)
    states = [line.split(",")[1] for line in (tmp_path / "OUT" / "summary.csv").read_text().splitlines()[1:]]
    assert "unknown" in states


def test_an_upload_that_was_interrupted_says_that_it_goes_on_and_then_what_is_there(process, server, tmp_path):
    engines.make_tomogram(tmp_path / "large.npy", (512, 512, 128))
    words = ["--server", server.url, "segment", "large.npy", "--runner", "steps", "--artifact", "manifest.json"]
    running = process(*words, "--out", "OUT")
    for line in running.stderr:
        if re.search(r" [4-9]\d %, uploading", line):
            break
    server.process.send_signal(signal.SIGSTOP)  # so that the signal is not too late
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=engines.DEADLINE)
    server.process.send_signal(signal.SIGCONT)
    assert running.returncode == 130
    assert "what was sent is kept for 72 h: run the same command to go on" in err
    again = process(*words, "--plan")
    _, err = again.communicate(timeout=engines.DEADLINE)
    assert again.returncode == 0, err
    assert re.search(r"^large\.npy: [\d.]+ MB are there already$", err, re.MULTILINE)
    known = process(*words, "--plan")
    _, err = known.communicate(timeout=engines.DEADLINE)
    assert "large.npy: already on the server" in err
    assert "%, uploading" not in err.replace("100 %, uploading", "")

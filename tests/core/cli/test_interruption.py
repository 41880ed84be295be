"""Signals: jobs are canceled, nothing is left behind, and the exit status says which signal it was."""

import csv
import signal

import engines
import pytest
from terminals import wait_for_line


@pytest.fixture
def hangups_count():
    """Children take a hang-up as an order, also where this process was started by ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_count")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_job_and_leaves_nothing(process, cryomamba, gated, data_dir, tmp_path, signum, code):
    words, _ = gated
    running = process("segment", *words, "--out", "OUT")
    wait_for_line(running.stderr, "running")
    running.send_signal(signum)
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == code
    assert "1 job canceled" in err
    assert f"interrupted by {signum.name}" in err
    assert engines.workers_of(data_dir) == []
    assert not (tmp_path / "OUT").exists()
    (job,) = cryomamba("jobs", "list", "--json").json["jobs"]
    assert job["state"] == "canceled"


def test_an_interrupted_cohort_keeps_what_is_done(process, gated, data_dir, tmp_path):
    words, gate = gated
    engines.make_tomogram(tmp_path / "first.npy", shape=(1, 5, 4))
    engines.open_gate(gate, 0)
    running = process("segment", "first.npy", *words, "--out", "OUT", "--artifact", "mask.npy")
    wait_for_line(running.stderr, "first.npy: completed")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 130
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == ["first.mask.npy", "summary.csv"]
    with (tmp_path / "OUT" / "summary.csv").open() as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["completed", "canceled"]
    assert engines.workers_of(data_dir) == []


def test_json_says_that_it_was_interrupted(process, gated):
    words, _ = gated
    running = process("segment", *words, "--out", "OUT", "--json")
    wait_for_line(running.stderr, "running")
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=engines.DEADLINE)
    assert '"code": "interrupted"' in out


def test_watching_is_interrupted_without_harm_to_the_job(process, cryomamba, gated, tmp_path):
    words, gate = gated
    segmenting = process("segment", *words, "--out", "OUT")
    job_id = wait_for_line(segmenting.stderr, "queued as job").split()[-1]
    wait_for_line(segmenting.stderr, "running")
    watching = process("jobs", "watch", job_id)
    wait_for_line(watching.stderr, "running")
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=engines.DEADLINE)
    assert watching.returncode == 130
    engines.open_gate(gate)
    segmenting.communicate(timeout=engines.DEADLINE)
    assert segmenting.returncode == 0
    assert (tmp_path / "OUT" / "slow.mask.npy").exists()


def test_a_job_that_another_terminal_cancels_ends_the_command_with_a_reason(process, cryomamba, gated, data_dir):
    words, _ = gated
    running = process("segment", *words, "--out", "OUT")
    job_id = wait_for_line(running.stderr, "queued as job").split()[-1]
    wait_for_line(running.stderr, "running")
    answer = cryomamba("jobs", "cancel", job_id)
    assert answer.code == 0
    assert "canceled" in answer.out
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 7
    assert "[job/canceled]" in err
    assert engines.workers_of(data_dir) == []

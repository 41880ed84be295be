"""``cryomamba jobs``."""

import engines
import pytest


@pytest.fixture
def done(cryomamba, tomogram):
    """The id of a job that has completed."""
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", "--json")
    return answer.json["results"][0]["job_id"]


@pytest.fixture
def failed(cryomamba, tomogram):
    """The id of a job that has failed."""
    cryomamba("segment", tomogram("flat.mrc", fill=1), "--runner", "threshold", "--out", "OUT")
    return cryomamba("jobs", "list", "--json").json["jobs"][0]["id"]


def test_without_jobs_the_list_says_how_to_make_one(cryomamba):
    answer = cryomamba("jobs", "list")
    assert (answer.code, answer.out) == (0, "")
    assert "cryomamba segment" in answer.err


def test_jobs_are_listed_newest_first(cryomamba, done, failed):
    jobs = cryomamba("jobs", "list", "--json").json["jobs"]
    assert [job["id"] for job in jobs] == [failed, done]
    shown = cryomamba("jobs", "list").out
    assert shown.index(failed[:13]) < shown.index(done[:13])
    assert len(cryomamba("jobs", "list", "--json", "--limit", "1").json["jobs"]) == 1


def test_a_job_is_shown_with_its_artifacts_by_the_beginning_of_its_id(cryomamba, done):
    answer = cryomamba("jobs", "show", done[:13])
    assert answer.code == 0
    assert done in answer.out
    assert "mask.nii.gz" in answer.out
    assert cryomamba("jobs", "show", done, "--json").json["state"] == "completed"


def test_a_failed_job_shows_why(cryomamba, failed):
    assert "[input/unusable-volume]" in cryomamba("jobs", "show", failed).out


def test_an_id_that_nobody_has_is_an_error(cryomamba, done):
    for unknown in ("zzz", "00000000-0000-7000-8000-000000000000", ""):
        answer = cryomamba("jobs", "show", unknown)
        assert (answer.code, "[job/unknown]" in answer.err) == (7, True)


def test_the_beginning_of_two_ids_names_both(cryomamba, done, failed):
    answer = cryomamba("jobs", "show", "0")
    assert answer.code == 7
    assert "2 jobs" in answer.err
    assert done[:13] in answer.err
    assert failed[:13] in answer.err


def test_a_completed_job_cannot_be_retried(cryomamba, done):
    answer = cryomamba("jobs", "retry", done)
    assert answer.code == 7
    assert "[job/illegal-transition]" in answer.err


def test_a_failed_job_is_queued_again_and_watched_to_its_end(cryomamba, failed):
    answer = cryomamba("jobs", "retry", failed)
    assert answer.code == 0
    assert "jobs watch" in answer.err
    watched = cryomamba("jobs", "watch", failed)
    assert watched.code == 3
    assert "[input/unusable-volume]" in watched.err


def test_watching_a_completed_job_shows_it(cryomamba, done):
    answer = cryomamba("jobs", "watch", done)
    assert answer.code == 0
    assert "mask.mrc" in answer.out


def test_the_results_of_a_job_can_be_fetched_again(cryomamba, done, tmp_path):
    answer = cryomamba("jobs", "fetch", done, "--out", "AGAIN")
    assert answer.code == 0
    for path in (tmp_path / "OUT").iterdir():
        assert (tmp_path / "AGAIN" / path.name).read_bytes() == path.read_bytes()
    assert cryomamba("jobs", "fetch", done, "--out", "AGAIN").code == 6
    assert cryomamba("jobs", "fetch", done, "--out", "AGAIN", "--overwrite").code == 0


def test_a_failed_job_has_nothing_to_fetch(cryomamba, failed, tmp_path):
    answer = cryomamba("jobs", "fetch", failed, "--out", "AGAIN")
    assert answer.code == 7
    assert not (tmp_path / "AGAIN").exists()


def test_canceling_a_job_that_has_ended_says_how_it_ended(cryomamba, done):
    answer = cryomamba("jobs", "cancel", done, "--json")
    assert answer.code in (0, 7)
    assert cryomamba("jobs", "show", done, "--json").json["state"] == "completed"


def test_a_job_of_a_client_that_was_killed_is_watched_and_fetched_later(process, cryomamba, gated, tmp_path):
    words, gate = gated
    running = process("segment", *words, "--out", "OUT")
    job_id = next(line for line in running.stderr if "queued as job" in line).split()[-1]
    next(line for line in running.stderr if "running" in line)
    running.kill()
    running.communicate()
    engines.open_gate(gate)
    assert cryomamba("jobs", "watch", job_id).code == 0
    assert cryomamba("jobs", "fetch", job_id, "--out", "LATER").code == 0
    assert (tmp_path / "LATER" / "slow.mask.npy").exists()

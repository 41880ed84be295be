"""The commands with ``--server``: the same as without, on another computer."""

import json
import os
import re
import signal

import engines
import httpx
import mrcfile
import numpy as np
import pytest
import strangers
from servers import ServerProcess

from cryomamba_backends.http_transport.downloading import Download
from cryomamba_core.errors import ServerUnreachable

ALL = ["a.manifest.json", "a.mask.mrc", "a.mask.nii.gz", "a.mask.npy", "a.mask.nrrd", "a.stats.json"]


@pytest.fixture
def server(tmp_path, data_dir, monkeypatch):
    """A server in a process of its own; the client has its token."""
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with ServerProcess(tmp_path / "server") as server:
        monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token())
        yield server


def test_a_tomogram_goes_to_the_server_and_comes_back_as_masks(cryomamba, server, tomogram, tmp_path, data_dir):
    answer = cryomamba("--server", server.url, "segment", tomogram(), "--runner", "threshold", "--out", "OUT")
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == ALL
    with mrcfile.open(tmp_path / "OUT" / "a.mask.mrc") as mask, mrcfile.open(tmp_path / "a.mrc") as source:
        np.testing.assert_array_equal(mask.data, source.data > 10)
    assert re.search(r"^a\.mrc: uploading$", answer.err, re.MULTILINE)
    assert re.search(r"^a\.mrc: queued as job", answer.err, re.MULTILINE)
    assert "OUT/a.mask.mrc" in answer.out
    assert not data_dir.exists(), "the client needs no data directory"


def test_a_companion_comes_back_with_the_masks(cryomamba, server, tomogram, tmp_path):
    words = ["--server", server.url, "--runner", "steps", "--param", "doubt=1", "--artifact", "mask.mrc"]
    answer = cryomamba("segment", tomogram(), *words, "--out", "OUT")
    assert answer.code == 0, answer.err
    with mrcfile.open(tmp_path / "OUT" / "a.doubt.mrc") as doubt, mrcfile.open(tmp_path / "a.mrc") as source:
        np.testing.assert_array_equal(doubt.data, strangers.doubts(source.data))


def test_the_server_may_be_named_behind_every_command(cryomamba, server, tomogram, tmp_path):
    words = ["--server", server.url, "--json"]
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", *words)
    [result] = answer.json["results"]
    assert result["state"] == "completed"
    [job] = cryomamba("jobs", "list", *words).json["jobs"]
    assert cryomamba("jobs", "show", job["id"], *words).json["state"] == "completed"
    assert cryomamba("jobs", "watch", job["id"], *words).json["id"] == job["id"]
    assert cryomamba("jobs", "cancel", job["id"], *words).json["jobs"][0]["state"] == "completed"
    assert cryomamba("jobs", "retry", job["id"], *words).code == 7
    assert len(cryomamba("jobs", "fetch", job["id"], "--out", "AGAIN", *words).json["artifacts"]) == len(ALL)
    assert (tmp_path / "AGAIN" / "a.mask.mrc").read_bytes() == (tmp_path / "OUT" / "a.mask.mrc").read_bytes()
    assert "threshold" in [model["name"] for model in cryomamba("models", "list", *words).json["models"]]
    assert cryomamba("models", "show", "threshold", *words).json["runner"] == "threshold"
    findings = cryomamba("doctor", *words).json
    assert findings["ready"]
    assert server.url in next(each["message"] for each in findings["findings"] if each["name"] == "server")


def test_the_environment_names_the_server(cryomamba, server, tomogram, monkeypatch):
    monkeypatch.setenv("CRYOMAMBA_SERVER", server.url)
    plans = cryomamba("segment", tomogram(), "--runner", "threshold", "--plan", "--json").json["plans"]
    assert plans[0]["plan"]["run"]["tiles"] > 0
    assert cryomamba("jobs", "list", "--json").json == {"jobs": []}


def test_a_bad_file_of_a_cohort_does_not_stop_the_others(cryomamba, server, tomogram, tmp_path):
    bad = tomogram("bad.mrc")
    (tmp_path / bad).write_bytes((tmp_path / bad).read_bytes()[:-100])
    files = [tomogram("a.mrc"), bad, tomogram("b.mrc"), tomogram("flat.mrc", fill=3)]
    words = ["--runner", "threshold", "--out", "OUT", "--json", "--server", server.url]
    answer = cryomamba("segment", *files, *words)
    assert answer.code == 8
    states = {result["file"].rpartition("/")[2]: result["state"] for result in answer.json["results"]}
    assert states == {"a.mrc": "completed", "bad.mrc": "refused", "b.mrc": "completed", "flat.mrc": "failed"}
    assert (tmp_path / "OUT" / "summary.csv").exists()


def test_the_upload_shows_its_rate_and_the_time_that_is_left(cryomamba, server, tmp_path, monkeypatch):
    monkeypatch.setattr("cryomamba_core.cli.transfers.INTERVAL", 0.0)
    engines.make_tomogram(tmp_path / "large.npy", (64, 1024, 128))
    answer = cryomamba("segment", "large.npy", "--runner", "steps", "--server", server.url, "--plan")
    assert answer.code == 0
    answer = cryomamba("segment", "large.npy", "--runner", "steps", "--server", server.url, "--out", "OUT")
    assert "large.npy: uploading" in answer.err
    (tmp_path / "large.npy").rename(tmp_path / "other.npy")
    engines.make_tomogram(tmp_path / "large.npy", (64, 1024, 128), seed=9)
    answer = cryomamba("segment", "large.npy", "--runner", "steps", "--server", server.url, "--out", "OUT2")
    assert re.search(r"^large\.npy: \d+ %, uploading \d+/33 MB, [\d.]+ .B/s, \d+ s left$", answer.err, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_job_on_the_server(process, server, gated, tmp_path, number):
    words, _ = gated
    running = process("--server", server.url, "segment", *words, "--out", "OUT")
    for line in running.stderr:
        if "running" in line:
            break
    running.send_signal(number)
    _, err = running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 128 + number, err
    assert "1 job canceled" in err
    [job] = httpx.get(f"{server.url}/v1/jobs", headers=server.headers()).json()["jobs"]
    assert job["state"] == "canceled"
    assert not (tmp_path / "OUT").exists()


def test_a_signal_in_an_upload_leaves_no_job(process, server, tmp_path):
    engines.make_tomogram(tmp_path / "large.npy", (256, 1024, 128))
    running = process("--server", server.url, "segment", "large.npy", "--runner", "steps", "--out", "OUT")
    for line in running.stderr:
        if "uploading" in line:
            break
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=engines.DEADLINE)
    assert running.returncode == 130
    assert httpx.get(f"{server.url}/v1/jobs", headers=server.headers()).json()["jobs"] == []


def test_a_folder_of_this_computer_is_no_model_of_the_server(cryomamba, server, tomogram, tmp_path):
    (tmp_path / "model").mkdir()
    answer = cryomamba("segment", tomogram(), "--model", "./model", "--server", server.url, "--out", "OUT")
    assert answer.code == 3
    assert "cannot be installed on another machine" in answer.err


def test_a_model_that_is_unknown_is_added_on_the_other_machine(cryomamba, server, tomogram):
    for words in (["segment", tomogram(), "--model", "nothing"], ["models", "show", "nothing"]):
        answer = cryomamba(*words, "--server", server.url)
        assert answer.code == 4
        assert "add one on the server's machine, with: cryomamba models install" in answer.err
        assert "on the server's machine" not in cryomamba(*words).err


@pytest.mark.once
def test_a_cohort_of_small_files_is_hardly_ever_told_to_wait(cryomamba, server, tomogram, tmp_path):
    server.terminate()
    server.environment["CRYOMAMBA_SERVE_REQUESTS_PER_MINUTE"] = "60"
    server.restart()
    files = [tomogram(f"{number}.mrc", shape=(6, 12, 12)) for number in range(12)]
    words = ["--runner", "threshold", "--out", "OUT", "--server", server.url]
    answer = cryomamba("segment", *files, *words)
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "OUT").iterdir())) == 12 * len(ALL) + 1
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    statuses = [line["status"] for line in lines if line["event"] == "request"]
    assert len(statuses) > 100
    assert statuses.count(429) <= 3


def test_fetching_shows_its_rate_and_the_bytes(cryomamba, server, tomogram, monkeypatch):
    monkeypatch.setattr("cryomamba_core.cli.transfers.INTERVAL", 0.0)
    monkeypatch.setattr("cryomamba_core.cli.results.QUICK", 0.0)
    words = ["--server", server.url]
    segmented = cryomamba("segment", tomogram(shape=(64, 256, 256)), "--runner", "threshold", "--out", "OUT", *words)
    [job] = cryomamba("jobs", "list", "--json", *words).json["jobs"]
    fetched = cryomamba("jobs", "fetch", job["id"], "--out", "AGAIN", *words)
    total = sum(artifact["size"] for artifact in job["artifacts"]) // 1_000_000
    for answer in (segmented, fetched):
        assert answer.code == 0
        assert re.search(rf"^a\.mrc: \d+ %, fetching \d+/{total} MB, [\d.]+ .B/s", answer.err, re.MULTILINE)


def test_another_owner_sees_none_of_it(cryomamba, server, tomogram, monkeypatch):
    words = ["--server", server.url, "--json"]
    cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", *words)
    [job] = cryomamba("jobs", "list", *words).json["jobs"]
    monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token("eve"))
    assert cryomamba("jobs", "list", *words).json == {"jobs": []}
    assert cryomamba("jobs", "show", job["id"], *words).json["error"]["code"] == "job/unknown"


def test_a_server_that_is_not_there_is_said_so(cryomamba, server, tomogram, tmp_path):
    server.kill()
    answer = cryomamba("segment", tomogram(), "--runner", "threshold", "--server", server.url, "--out", "OUT")
    assert answer.code == 11
    assert "[server/unreachable]" in answer.err
    assert not (tmp_path / "OUT").exists()
    answer = cryomamba("doctor", "--server", server.url, "--json")
    assert answer.code == 1
    assert not answer.json["ready"]


def test_the_token_is_nowhere_to_be_seen(cryomamba, server, tomogram, tmp_path):
    token = os.environ["CRYOMAMBA_TOKEN"]
    answer = cryomamba("-v", "--server", server.url, "segment", tomogram(), "--runner", "threshold", "--out", "OUT")
    assert token not in answer.out + answer.err
    assert "signature=" not in answer.out + answer.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_a_result_that_exists_is_noticed_before_anything_is_fetched(cryomamba, server, tomogram, tmp_path, monkeypatch):
    words = ["--server", server.url, "--json"]
    cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", *words)
    [job] = cryomamba("jobs", "list", *words).json["jobs"]
    fetched, run = [], Download.run
    monkeypatch.setattr(Download, "run", lambda self: fetched.append(self._name) or run(self))
    (tmp_path / "AGAIN").mkdir()
    (tmp_path / "AGAIN" / "a.stats.json").write_text("mine")
    answer = cryomamba("jobs", "fetch", job["id"], "--out", "AGAIN", *words)
    assert (answer.code, answer.json["error"]["code"]) == (6, "storage/output-exists")
    assert "--overwrite" in answer.json["error"]["hint"]
    assert "--out" in answer.json["error"]["hint"]
    assert fetched == []
    assert [path.name for path in (tmp_path / "AGAIN").iterdir()] == ["a.stats.json"]


def test_what_was_fetched_while_a_result_came_up_is_not_fetched_again(
    cryomamba, server, tomogram, tmp_path, monkeypatch
):
    words = ["--server", server.url, "--json"]
    cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", *words)
    [job] = cryomamba("jobs", "list", *words).json["jobs"]
    fetched, run = [], Download.run

    async def disturbed(self):
        await run(self)
        fetched.append(self._name)
        (tmp_path / "AGAIN" / "a.stats.json").write_text("mine")

    monkeypatch.setattr(Download, "run", disturbed)
    call = ["jobs", "fetch", job["id"], "--out", "AGAIN", *words]
    assert cryomamba(*call).json["error"]["code"] == "storage/output-exists"
    assert (tmp_path / "AGAIN" / "a.stats.json").read_text() == "mine"
    assert len(fetched) == len(ALL)
    assert cryomamba(*call, "--overwrite").code == 0
    assert len(fetched) == len(ALL)
    assert sorted(path.name for path in (tmp_path / "AGAIN").iterdir()) == ALL
    for name in ALL:
        assert (tmp_path / "AGAIN" / name).read_bytes() == (tmp_path / "OUT" / name).read_bytes()


def test_results_that_were_cut_off_are_fetched_from_where_they_were(cryomamba, server, tomogram, tmp_path, monkeypatch):
    words = ["--server", server.url, "--json"]
    cryomamba("segment", tomogram(), "--runner", "threshold", "--out", "OUT", *words)
    [job] = cryomamba("jobs", "list", *words).json["jobs"]
    fetched, run = [], Download.run

    async def cut(self):
        if len(fetched) == 3:
            raise ServerUnreachable("the line was cut")
        fetched.append(self._name)
        await run(self)

    monkeypatch.setattr(Download, "run", cut)
    assert cryomamba("jobs", "fetch", job["id"], "--out", "AGAIN", *words).code == 11
    assert [path.name for path in (tmp_path / "AGAIN").iterdir()] == [f".cryomamba-{job['id']}"]
    damaged = tmp_path / "AGAIN" / f".cryomamba-{job['id']}" / fetched[0]
    damaged.write_bytes(b"cut short")
    monkeypatch.setattr(Download, "run", run)
    first = list(fetched)
    monkeypatch.setattr(Download, "run", lambda self: fetched.append(self._name) or run(self))
    assert cryomamba("jobs", "fetch", job["id"], "--out", "AGAIN", *words).code == 0
    assert sorted(fetched[3:]) == sorted({first[0], *(name.removeprefix("a.") for name in ALL)} - set(first[1:]))
    for name in ALL:
        assert (tmp_path / "AGAIN" / name).read_bytes() == (tmp_path / "OUT" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "AGAIN").iterdir()) == ALL

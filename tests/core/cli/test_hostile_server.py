"""The command, and a server that wants to write where it should not."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cryomamba_core.artifacts import Artifact
from cryomamba_core.cli import results
from cryomamba_core.jobs import JobConfig, JobRecord, JobState, Source
from cryomamba_core.protocol.jobs import JobPage, JobView
from cryomamba_core.wire import to_plain
from cryomamba_server.engine.records import now

JOB_ID = "01900000-0000-7000-8000-000000000000"
CONTENT = b"export PATH=/evil\n"


def view(*, name="mask.mrc", label="a.mrc", job_id=JOB_ID, content=CONTENT):
    """A completed job as JSON types, its artifact called `name`."""
    artifact = Artifact(
        name="mask.mrc",
        media_type="x/y",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        url="/v1/files/x/y",
    )
    record = JobRecord(
        id=JOB_ID,
        owner="eve",
        state=JobState.COMPLETED,
        config=JobConfig(source=Source(file_id="x"), label=label),
        created_at=now(),
        artifacts=(artifact,),
    )
    plain = to_plain(JobView.of(record))
    plain["artifacts"][0]["name"] = name
    return {**plain, "job_id": job_id}


@contextmanager
def hostile_server(job, content=CONTENT):
    """A server that has one job."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path.startswith("/v1/files/"):
                self.say(content, "application/octet-stream")
            elif self.path.startswith("/v1/jobs/"):
                self.say(json.dumps(job).encode(), "application/json")
            else:
                page = {**to_plain(JobPage(jobs=(), next_before=None)), "jobs": [job]}
                self.say(json.dumps(page).encode(), "application/json")

        def say(self, body, media_type):
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / ".bashrc").write_text("precious\n")
    return folder


def outside(tmp_path):
    """Everything that is there but the results."""
    return {
        path.relative_to(tmp_path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.relative_to(tmp_path).parts[0] not in ("OUT", "site")
    }


FETCH = ["fetch", JOB_ID, "--out", "OUT", "--overwrite"]


@pytest.mark.parametrize("name", ["{home}/.bashrc", "../home/.bashrc", "../../home/.bashrc", "..", "mask/../../x"])
@pytest.mark.parametrize("command", [FETCH, ["list"], ["show", JOB_ID]])
def test_an_artifact_with_the_name_of_another_place_is_a_broken_protocol(cryomamba, home, tmp_path, name, command):
    before = outside(tmp_path)
    with hostile_server(view(name=name.format(home=home))) as url:
        answer = cryomamba("--server", url, "jobs", *command)
    assert answer.code == 11
    assert "[server/broken-protocol]" in answer.err
    assert "no plain file name" in answer.err
    assert not (tmp_path / "OUT").exists()
    assert outside(tmp_path) == before


@pytest.mark.parametrize("name", ["{home}/.bashrc", "../../home/.bashrc"])
def test_without_the_protection_it_would_be_written_there(cryomamba, home, tmp_path, monkeypatch, name):
    monkeypatch.setattr(Artifact, "__attrs_post_init__", lambda self: None)
    before = outside(tmp_path)
    with hostile_server(view(name=name.format(home=home))) as url:
        cryomamba("--server", url, "jobs", *FETCH)
    assert outside(tmp_path) != before


@pytest.mark.parametrize("label", ["../home/pwned", "{home}/pwned", "../home/.bashrc", "x/../../home/pwned", ".bashrc"])
def test_a_label_with_the_name_of_another_place_stays_inside(cryomamba, home, tmp_path, label):
    before = outside(tmp_path)
    with hostile_server(view(label=label.format(home=home))) as url:
        answer = cryomamba("--server", url, "jobs", "fetch", JOB_ID, "--out", "OUT")
    assert answer.code == 0, answer.err
    assert outside(tmp_path) == before
    [saved] = (tmp_path / "OUT").iterdir()
    assert saved.name.endswith(".mask.mrc")
    assert saved.name[0] != "."
    assert saved.read_bytes() == CONTENT


def test_a_job_whose_id_is_a_path_is_staged_inside(cryomamba, home, tmp_path):
    (tmp_path / "OUT" / ".cryomamba-").mkdir(parents=True)
    before = outside(tmp_path)
    with hostile_server(view(job_id="/../../home")) as url:
        answer = cryomamba("--server", url, "jobs", "fetch", JOB_ID, "--out", "OUT")
    assert answer.code == 0, answer.err
    assert outside(tmp_path) == before


def test_what_a_manifest_says_becomes_no_path(cryomamba, home, tmp_path):
    manifest = json.dumps({"artifacts": [{"name": "../home/.bashrc"}], "run": {"label": "../home/x"}}).encode()
    before = outside(tmp_path)
    job = view(name="manifest.json", content=manifest)
    with hostile_server(job, manifest) as url:
        answer = cryomamba("--server", url, "jobs", "fetch", JOB_ID, "--out", "OUT")
    assert answer.code == 0, answer.err
    assert outside(tmp_path) == before
    assert [path.name for path in (tmp_path / "OUT").iterdir()] == ["a.manifest.json"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"\xff"])
def test_a_manifest_that_is_none_is_passed_over(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    assert results._manifest(path) is None


def test_a_manifest_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    path.touch()
    with path.open("r+b") as stream:
        stream.truncate(results.MOST_PROVENANCE + 1)
    monkeypatch.setattr(results, "load_json", lambda *_: pytest.fail("it was read"))
    assert results._manifest(path) is None


def test_strange_words_of_a_server_do_not_steer_the_terminal(cryomamba, tmp_path):
    job = view(label="a\x1b]0;title\x07\x9b2J\nb")
    job["error"] = {"code": "x/\x1b[2J", "message": "\x1b[2Jm", "hint": "\x1b[2Jh", "retryable": False}
    with hostile_server({**job, "state": "failed"}) as url:
        answers = [cryomamba("--server", url, "jobs", *words) for words in (["list"], ["show", JOB_ID])]
    assert [answer.code for answer in answers] == [0, 0]
    assert not [answer for answer in answers if {"\x1b", "\x9b", "\x07"} & set(answer.out + answer.err)]


def test_an_artifact_of_a_friend_is_fetched(cryomamba, tmp_path):
    with hostile_server(view()) as url:
        assert cryomamba("--server", url, "jobs", "fetch", JOB_ID, "--out", "OUT").code == 0
    assert (tmp_path / "OUT" / "a.mask.mrc").read_bytes() == CONTENT

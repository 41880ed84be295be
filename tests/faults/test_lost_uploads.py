"""Servers that are killed during an upload: whatever was acknowledged is there, and the client gets on from it.

They are killed by strace, at the system call that is named: once at each step of beginning, of a part,
of completing, and of dropping an upload for whatever reason.
"""

import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import engines
import httpx
import pytest
import unprotected
from engines import DEADLINE
from servers import ServerProcess
from uploading import PART, digest, mrc_bytes, sha256, split

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

DATA = mrc_bytes()
PARTS = split(DATA)
#: The part that is on its way when the server is killed; those before it are acknowledged.
INDEX = 3

#: What is killed at → the system call, the file or folder that it is about, and which of such calls.
BEGIN = {
    "the disk space is taken": ("fallocate", None, 1),
    "the open write is durable": ("fsync", "partial", 1),
    "the record is begun": ("openat", "journal", 1),
    "the record is written": ("pwrite64", "store", 1),
    "the record is durable": ("fdatasync", "store", 1),
    "the record counts": ("unlink", "journal", 1),
}
ONE_PART = {
    "the bytes are written": ("pwrite64", "content", 1),
    "the bytes are durable": ("fdatasync", "content", 1),
    "the record is begun": ("openat", "journal", 1),
    "the record is written": ("pwrite64", "store", 1),
    "the record is durable": ("fdatasync", "store", 1),
    "the record counts": ("unlink", "journal", 1),
}
COMPLETE = {
    "the content is durable": ("fsync", "content", 1),
    "its digest is kept": ("renameat", None, 1),
    "it is renamed": ("renameat", None, 2),
    "the new name is durable": ("fsync", "raw", 1),
    "the open write is closed": ("unlinkat", None, 1),
    "the record is begun": ("openat", "journal", 1),
    "the record is written": ("pwrite64", "store", 1),
    "the record is durable": ("fdatasync", "store", 1),
    "the record counts": ("unlink", "journal", 1),
}
#: Of an upload that is aborted, refused or expired; the second file of an open write is never there in these tests.
DROP = {
    "the open write is closed": ("unlinkat", "partial", 1),
    "its bytes are removed": ("unlinkat", "partial", 3),
    "the record is begun": ("openat", "journal", 1),
    "the record is written": ("pwrite64", "store", 1),
    "the record is durable": ("fdatasync", "store", 1),
    "the record counts": ("unlink", "journal", 1),
}
#: A file whose first part no reader takes.
USELESS = b"\0" * PART + DATA[PART:]


class Victim(ServerProcess):
    """A server that is killed and started again; `client` is one of an owner."""

    def __init__(self, data_dir, site, *, without=""):
        environment = {
            "CRYOMAMBA_SERVE_PART_SIZE": str(PART),
            "PYTHONPATH": engines.install_strangers(site),
            "UNPROTECTED": without,
        }
        unprotected.install(site)
        super().__init__(data_dir, environment=environment)
        self.client = httpx.Client(base_url=self.url, headers=self.headers(), timeout=DEADLINE, trust_env=False)

    def __exit__(self, *arguments):
        self.client.close()
        super().__exit__(*arguments)

    def revive(self):
        if self.process.poll() is not None:
            self.restart()
        return self

    def begin(self, data=DATA):
        answer = self.client.post("/v1/uploads/init", json={"filename": "a.mrc", "size": len(data), "fingerprint": "f"})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def put(self, upload, index, data=DATA):
        part = split(data)[index]
        address = f"/v1/uploads/{upload['upload_id']}/part/{index}"
        answer = self.client.put(address, content=part, headers={"Content-Digest": digest(part)})
        assert answer.status_code == 200, answer.text

    def send_useless_start(self, upload):
        """Send a first part that is refused, and the upload with it; returns the answer."""
        part = USELESS[:PART]
        address = f"/v1/uploads/{upload['upload_id']}/part/0"
        return self.client.put(address, content=part, headers={"Content-Digest": digest(part)})

    def abort(self, upload):
        return self.client.delete(f"/v1/uploads/{upload['upload_id']}")

    def complete(self, upload):
        return self.client.post(f"/v1/uploads/{upload['upload_id']}/complete")

    @contextmanager
    def killed_at(self, call, place, number):
        """Have it killed at a system call by what the block asks of it."""
        words = self.deadly(call, place, number)
        tracer = attach(server=self, words=words)
        with pytest.raises(httpx.TransportError):
            yield
        assert self.process.wait(DEADLINE) == -9
        tracer.wait(DEADLINE)
        tracer.stderr.close()

    def start_killed_at(self, call, place, number):
        """Start it, and have it killed at a system call by what it does of itself."""
        words = ["strace", "-f", *self.deadly(call, place, number)]
        command = [*words, sys.executable, *self.program, "serve", *self.words]
        traced = subprocess.run(command, env=self.environment, capture_output=True, timeout=DEADLINE, check=False)
        assert traced.returncode in (-9, 137), traced

    def deadly(self, call, place, number):
        """What strace has to be told."""
        places = {
            "journal": [self.data_dir / "cryomamba.sqlite-journal"],
            "store": [self.data_dir / "cryomamba.sqlite"],
            "raw": [self.data_dir / "raw"],
            "partial": [self.data_dir / "raw" / "+partial"],
            "content": list((self.data_dir / "raw" / "+partial").glob("*[!n]")),
            None: [],
        }[place]
        assert places or place is None
        paths = [word for path in places for word in ("-P", str(path))]
        names = f"{call},?{call}at" if call == "unlink" else call
        rule = f"inject={names}:signal=KILL:when={number}"
        return ["-o", "/dev/null", "-e", f"trace={names}", "-e", rule, *paths]


def attach(*, server, words):
    """Let strace watch all threads of a server."""
    command = ["strace", "-f", "-p", str(server.process.pid), *words]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "attached" not in (line := tracer.stderr.readline()):
        assert line, "strace could not attach"
    return tracer


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("victim")
    with Victim(folder / "data", folder / "site") as victim:
        yield victim


@pytest.fixture
def server(victim):
    """A server that has nothing."""
    victim.kill()
    shutil.rmtree(victim.data_dir / "raw", ignore_errors=True)
    (victim.data_dir / "cryomamba.sqlite").unlink()
    victim.restart()
    victim.client.headers.update(victim.headers())
    # folders are there before anything is traced
    other = mrc_bytes(9)
    upload = victim.client.post("/v1/uploads/init", json={"filename": "b.mrc", "size": len(other)}).json()
    for index in range(len(split(other))):
        victim.put(upload, index, other)
    assert victim.complete(upload).status_code == 200
    return victim


def finish(server, upload, received):
    """Send what is missing and complete; the file is whole."""
    for index in set(range(len(PARTS))) - set(received):
        server.put(upload, index)
    answer = server.complete(upload)
    assert answer.status_code == 200, answer.text
    assert answer.json()["file_id"] == sha256(DATA)
    assert DATA in [path.read_bytes() for path in (server.data_dir / "raw").glob("*.mrc")]


@pytest.mark.parametrize("point", BEGIN)
def test_killed_while_an_upload_begins(server, point):
    with server.killed_at(*BEGIN[point]):
        server.begin()
    upload = server.revive().begin()
    assert upload["received"] == []
    finish(server, upload, ())


@pytest.mark.parametrize("point", ONE_PART)
def test_killed_while_a_part_is_taken_in(server, point):
    upload = server.begin()
    for index in range(INDEX):
        server.put(upload, index)
    with server.killed_at(*ONE_PART[point]):
        server.put(upload, INDEX)
    again = server.revive().begin()
    assert again["upload_id"] == upload["upload_id"]
    assert again["received"] == list(range(INDEX)), "what was acknowledged is there, and nothing else"
    assert again["digests"] == {str(index): sha256(PARTS[index]) for index in range(INDEX)}
    finish(server, again, again["received"])


@pytest.mark.parametrize("point", COMPLETE)
def test_killed_while_an_upload_is_completed(server, point):
    upload = server.begin()
    for index in range(len(PARTS)):
        server.put(upload, index)
    with server.killed_at(*COMPLETE[point]):
        server.complete(upload)
    finish(server.revive(), upload, range(len(PARTS)))
    assert server.begin()["file_id"] == sha256(DATA)
    assert len(list((server.data_dir / "raw").glob("*.mrc"))) == 2


def send_some(server):
    """An upload of which the parts before `INDEX` are there, but for the first."""
    upload = server.begin()
    for index in range(1, INDEX):
        server.put(upload, index)
    return upload


def assert_goes_on(server, upload):
    """Whatever is left of an upload that was being dropped, a client that begins again gets its file there."""
    again = server.revive().begin()
    if again["upload_id"] != upload["upload_id"]:
        assert again["received"] == []
        assert server.client.get(f"/v1/uploads/{upload['upload_id']}").status_code in (404, 422)
    finish(server, again, again["received"])
    assert not list((server.data_dir / "raw" / "+partial").glob("*.json")), "an open write is left"


@pytest.mark.parametrize("point", DROP)
def test_killed_while_an_upload_is_aborted(server, point):
    upload = send_some(server)
    with server.killed_at(*DROP[point]):
        server.abort(upload)
    assert_goes_on(server, upload)


@pytest.mark.parametrize("point", DROP)
def test_killed_while_a_file_of_no_use_is_refused(server, point):
    upload = send_some(server)
    with server.killed_at(*DROP[point]):
        server.send_useless_start(upload)
    again = server.revive().begin()
    refused = server.send_useless_start(again)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "input/corrupt-file")
    assert_goes_on(server, again)


@pytest.mark.parametrize("point", DROP)
def test_killed_while_an_upload_expires(server, point):
    upload = send_some(server)
    server.kill()
    long_ago = (datetime.now(UTC) - timedelta(days=4)).isoformat()
    with closing(sqlite3.connect(server.data_dir / "cryomamba.sqlite")) as database, database:
        database.execute("UPDATE uploads SET touched_at = ? WHERE id = ?", (long_ago, upload["upload_id"]))
    server.start_killed_at(*DROP[point])
    # the next one cleans up as well when it starts, and perhaps before it is asked
    assert_goes_on(server, upload)


@pytest.mark.parametrize("end", ["aborted", "refused"])
def test_without_the_search_for_lost_content_an_upload_is_continued_that_can_never_be_completed(tmp_path, end):
    with Victim(tmp_path / "data", tmp_path / "site-of-server", without="search for lost content") as server:
        upload = send_some(server)
        with server.killed_at(*DROP["the record is begun"]):
            server.abort(upload) if end == "aborted" else server.send_useless_start(upload)
        again = server.revive().begin()
        assert (again["upload_id"], again["received"]) == (upload["upload_id"], [1, 2])
        with pytest.raises(AssertionError):
            finish(server, again, again["received"])


def test_without_the_order_of_bytes_and_record_a_part_is_promised_that_is_not_there(tmp_path):
    with Victim(tmp_path / "data", tmp_path / "site-of-server", without="order of bytes and record") as server:
        upload = server.begin()
        for index in range(INDEX):
            server.put(upload, index)
        with server.killed_at(*ONE_PART["the bytes are written"]):
            server.put(upload, INDEX)
        again = server.revive().begin()
        assert INDEX in again["received"]
        with pytest.raises(AssertionError):
            finish(server, again, again["received"])


def test_without_the_search_for_renamed_content_a_whole_file_would_have_to_be_sent_again(tmp_path):
    with Victim(tmp_path / "data", tmp_path / "site-of-server", without="search for renamed content") as server:
        upload = server.begin()
        for index in range(len(PARTS)):
            server.put(upload, index)
        with server.killed_at(*COMPLETE["the record is begun"]):
            server.complete(upload)
        assert server.revive().complete(upload).status_code == 404


@pytest.mark.parametrize("without", ["", "sync of parts"])
def test_an_answer_comes_after_the_bytes_and_the_record_are_on_the_disk(tmp_path, without):
    """What a power cut would leave behind is known by the order of the calls."""
    trace = tmp_path / "trace"
    with Victim(tmp_path / "data", tmp_path / "site-of-server", without=without) as server:
        upload = server.begin()
        calls = "trace=pwrite64,fdatasync,sendto"
        tracer = attach(server=server, words=["-y", "-o", str(trace), "-e", calls])
        server.put(upload, 0)
        tracer.terminate()
        tracer.wait(DEADLINE)
        tracer.stderr.close()
    lines = trace.read_text().splitlines()

    def place(pattern):
        return next((number for number, line in enumerate(lines) if re.search(pattern, line)), None)

    written = place(r"pwrite64\(\d+<[^>]*\+partial/[0-9a-f]{32}>")
    synced = place(r"fdatasync\(\d+<[^>]*\+partial/[0-9a-f]{32}>")
    noted = place(r"pwrite64\(\d+<[^>]*cryomamba\.sqlite>")
    recorded = place(r"fdatasync\(\d+<[^>]*cryomamba\.sqlite>")
    answered = place(r'sendto\(.*"HTTP/1\.1 200')
    if without:
        assert synced is None
        synced = written + 1
    assert written < synced < noted < recorded < answered


def test_killed_again_and_again_while_parts_come_several_at_a_time(server):
    random.seed(5)
    data = mrc_bytes(5, (20, 100, 100))
    total = len(split(data))
    acknowledged, upload = set(), None
    for _ in range(6):
        answer = server.client.post(
            "/v1/uploads/init", json={"filename": "c.mrc", "size": len(data), "fingerprint": "g"}
        )
        upload = answer.json()
        assert acknowledged <= set(upload["received"]), "something acknowledged is lost"
        todo = [index for index in range(total) if index not in upload["received"]]
        deadly = len(acknowledged) + random.randrange(1, 20)

        def send(indices, upload=upload, deadly=deadly):
            try:
                for index in indices:
                    server.put(upload, index, data)
                    acknowledged.add(index)
                    if len(acknowledged) >= deadly:
                        server.process.kill()
            except httpx.TransportError:
                return

        threads = [threading.Thread(target=send, args=(todo[start::4],)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.kill()
        server.restart()
    received = server.client.get(f"/v1/uploads/{upload['upload_id']}").json()["received"]
    assert acknowledged <= set(received)
    for index in set(range(total)) - set(received):
        server.put(upload, index, data)
    assert server.complete(upload).json()["sha256"] == sha256(data)

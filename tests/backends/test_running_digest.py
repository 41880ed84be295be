"""The digest of a file while its parts come, several at a time."""

import hashlib
import os
import threading

import pytest

from cryomamba_backends.filesystem import running_digest
from cryomamba_backends.filesystem.running_digest import RunningDigest

PART = 64 << 10


@pytest.fixture
def content(tmp_path):
    """An open file of four parts, and its bytes."""
    data = os.urandom(4 * PART)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, data)
    yield descriptor, data
    os.close(descriptor)


@pytest.fixture
def read_back(monkeypatch):
    """How many bytes were read from the file."""
    counted, pread = [0], os.pread

    def counting(descriptor, count, offset):
        counted[0] += count
        return pread(descriptor, count, offset)

    monkeypatch.setattr(running_digest.os, "pread", counting)
    return counted


def take(digest, content, part):
    """Let a part come; it is in the file already."""
    descriptor, data = content
    with digest.writing(part * PART, PART):
        pass
    digest.advance(descriptor, part * PART, memoryview(data)[part * PART : (part + 1) * PART])


def test_parts_that_overtake_each_other_are_hashed_from_memory(content, read_back, monkeypatch):
    monkeypatch.setattr(running_digest, "_PATIENCE", 60.0)
    digest = RunningDigest()
    early = [threading.Thread(target=take, args=(digest, content, part)) for part in (3, 1, 2)]
    for thread in early:
        thread.start()
    while len(digest._at_hand) < len(early):
        assert all(thread.is_alive() for thread in early)
    take(digest, content, 0)
    for thread in early:
        thread.join()
    assert digest.finish(content[0]) == hashlib.sha256(content[1]).hexdigest()
    assert read_back == [0]


def test_a_part_does_not_wait_for_ever_for_the_one_before_it(content, read_back, monkeypatch):
    monkeypatch.setattr(running_digest, "_PATIENCE", 0.01)
    digest = RunningDigest()
    for part in (1, 2, 3, 0):
        take(digest, content, part)
    assert digest.finish(content[0]) == hashlib.sha256(content[1]).hexdigest()
    assert read_back[0] == 3 * PART


def test_a_part_that_is_far_ahead_does_not_wait_at_all(content, monkeypatch):
    monkeypatch.setattr(running_digest, "_PATIENCE", 60.0)
    monkeypatch.setattr(running_digest, "_NEAR", 2)
    digest = RunningDigest()
    for part in (3, 0, 1, 2):
        take(digest, content, part)  # the first one would wait a minute, and the test would be stopped
    assert digest.finish(content[0]) == hashlib.sha256(content[1]).hexdigest()


def test_a_part_that_is_written_again_is_hashed_again(content, tmp_path):
    descriptor, data = content
    digest = RunningDigest()
    for part in range(4):
        take(digest, content, part)
    other = os.urandom(PART)
    with digest.writing(PART, PART):
        os.pwrite(descriptor, other, PART)
    digest.advance(descriptor, PART, memoryview(other))
    assert digest.finish(descriptor) == hashlib.sha256(data[:PART] + other + data[2 * PART :]).hexdigest()

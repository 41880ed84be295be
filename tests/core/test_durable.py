import hashlib

import pytest

from cryomamba_core.durable import replacing, sha256_of, write_whole


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    target = tmp_path / "a"
    write_whole(target, b"before")
    with pytest.raises(ValueError, match="half-way"):
        _fail_half_way(target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def _fail_half_way(target):
    with replacing(target) as partial:
        partial.write_bytes(b"aft")
        raise ValueError("half-way")


def test_a_write_that_succeeds_replaces_the_file(tmp_path):
    target = tmp_path / "a"
    write_whole(target, b"before")
    write_whole(target, b"after")
    assert target.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [target]


def test_the_digest_is_sha256_and_each_piece_is_heard(tmp_path):
    data = bytes(range(256)) * 40_000
    (tmp_path / "a").write_bytes(data)
    pieces = []
    assert sha256_of(tmp_path / "a", on_chunk=pieces.append) == hashlib.sha256(data).hexdigest()
    assert sum(pieces) == len(data)

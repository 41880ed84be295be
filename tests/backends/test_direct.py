"""Writing past the system's cache: the bytes are the same, and the cache does not hold them."""

import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cryomamba_backends.filesystem.direct import BLOCK, WORTH_IT, write_all
from cryomamba_backends.filesystem.storage import FilesystemStorage

SIZE = 2 * WORTH_IT + 5 * BLOCK + 123

#: On this file system memory is the disk: there is nothing to go past.
IN_MEMORY = Path("/dev/shm")


def random_memory(size=SIZE):
    """Random bytes that start at a page boundary."""
    memory = mmap.mmap(-1, size)
    memory[:] = os.urandom(size)
    return memoryview(memory)


def bytes_in_cache(path):
    """As util-linux counts them."""
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", path], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


@pytest.fixture
def open_file(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def direct_disk(tmp_path):
    """Skips where the file system of the test's folder, or the system, has no such writes."""
    if not hasattr(os, "O_DIRECT") or shutil.which("fincore") is None:
        pytest.skip("only Linux has O_DIRECT and fincore")
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"the file system has no O_DIRECT: {error.strerror}")
    if subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip() == "tmpfs":
        pytest.skip("the file system is the cache")


@pytest.mark.parametrize("offset", [0, BLOCK, 7 * BLOCK, 5], ids=["start", "block", "blocks", "between"])
@pytest.mark.parametrize("shift", [0, 8], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("size", [0, 1, BLOCK, WORTH_IT - 1, WORTH_IT, SIZE - 8])
def test_the_file_holds_what_was_written_and_nothing_else(open_file, tmp_path, offset, shift, size):
    with random_memory() as memory:
        before, after = os.urandom(offset), os.urandom(BLOCK + 1)
        os.pwrite(open_file, before + bytes(size) + after, 0)
        write_all(open_file, memory[shift : shift + size], offset, past_cache=True)
        assert (tmp_path / "file").read_bytes() == before + bytes(memory[shift : shift + size]) + after


@pytest.mark.skipif(not IN_MEMORY.is_dir(), reason="there is no file system in memory")
def test_a_file_system_in_memory_takes_it_as_well():
    path = IN_MEMORY / f"cryomamba-test-{os.getpid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with random_memory() as memory:
            write_all(descriptor, memory, 0, past_cache=True)
            assert path.read_bytes() == bytes(memory)
    finally:
        os.close(descriptor)
        path.unlink()


def test_the_cache_holds_only_what_fills_no_block(direct_disk, open_file, tmp_path):
    with random_memory() as memory:
        write_all(open_file, memory, 0, past_cache=True)
    os.fsync(open_file)
    assert bytes_in_cache(tmp_path / "file") <= BLOCK


def test_what_is_written_the_usual_way_is_in_the_cache(direct_disk, open_file, tmp_path):
    with random_memory() as memory:
        write_all(open_file, memory, 0)
    assert bytes_in_cache(tmp_path / "file") >= SIZE


def test_the_descriptor_goes_on_the_usual_way(direct_disk, open_file):
    with random_memory() as memory:
        write_all(open_file, memory, 0, past_cache=True)
    assert os.pwrite(open_file, b"odd", 3) == 3


def test_a_part_of_an_upload_does_not_fill_the_cache(direct_disk, tmp_path):
    storage = FilesystemStorage(tmp_path / "data")
    with random_memory(4 << 20) as memory:
        token = storage.begin("raw/tomogram.mrc", len(memory))
        storage.write(token, 0, memory)
        (content,) = (path for path in (tmp_path / "data/raw/+partial").iterdir() if not path.suffix)
        assert bytes_in_cache(content) < WORTH_IT
        storage.commit(token)
        assert storage.read("raw/tomogram.mrc", 0, len(memory)) == bytes(memory)

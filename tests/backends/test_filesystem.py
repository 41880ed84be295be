"""The filesystem storage: full disks, crashes at every step, and what others may put into its folders."""

import contextlib
import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from small_disks import small_disk_at

from cryomamba_backends.filesystem import plugin, storage
from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_core.errors import (
    InvalidParameter,
    MissingFile,
    StorageDamaged,
    StorageError,
    StorageFull,
    UnknownObject,
)
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

KEY = "raw/7f/tomogram.mrc"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def store(root):
    return FilesystemStorage(root)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    with small_disk_at(tmp_path / "disk", 4) as folder:
        yield folder


def put(store, key, content):
    token = store.begin(key, len(content))
    store.write(token, 0, content)
    return store.commit(token)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_it_registers_as_a_plugin_and_makes_nothing_yet(root):
    host = PluginHost(Settings(data_dir=root))
    assert host.register(plugin, name="filesystem").provides == {"storage": ("filesystem",)}
    assert list(host.storages.get("filesystem").list()) == []
    assert not root.exists()


def test_an_object_is_the_file_that_its_key_spells(store, root):
    put(store, KEY, b"voxels")
    assert (root / KEY).read_bytes() == b"voxels"
    with store.localize(KEY) as path:
        assert path == root / KEY


def test_room_is_taken_when_a_write_begins(small_disk):
    store = FilesystemStorage(small_disk)
    first = store.begin("raw/a", 3 << 20)
    with pytest.raises(StorageFull) as caught:
        store.begin("raw/b", 3 << 20)
    assert caught.value.retryable
    assert len(files_below(small_disk)) == 2, "the refused write left something behind"
    store.write(first, 0, b"x" * (3 << 20))
    assert store.commit(first).size == 3 << 20


def test_a_full_disk_refuses_a_copy_and_keeps_the_old_object(small_disk, tmp_path):
    store = FilesystemStorage(small_disk)
    old = put(store, "artifacts/j/mask.mrc", b"o" * (3 << 20))
    before = files_below(small_disk)
    path = tmp_path / "mask.mrc"
    path.write_bytes(b"n" * (3 << 20))
    with pytest.raises(StorageFull):
        store.publish(path, "artifacts/j/mask.mrc")
    assert files_below(small_disk) == before
    assert store.stat("artifacts/j/mask.mrc") == old


def test_a_write_that_has_begun_is_completed_on_a_disk_that_is_full_since(small_disk):
    store = FilesystemStorage(small_disk)
    put(store, "raw/other", b"makes the folders")
    token = store.begin("raw/a", 1 << 20)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(b"\0" * 4096)
    content = bytes(range(256)) * 4096
    store.write(token, 0, content)
    store.commit(token, sha256=hashlib.sha256(content).hexdigest())
    assert store.stat("raw/a").sha256 == hashlib.sha256(content).hexdigest()


def test_quotas_and_other_errors_of_the_disk_are_told_apart(store, monkeypatch):
    token = store.begin(KEY, 4)
    for number, expected in ((errno.EDQUOT, StorageFull), (errno.EIO, StorageError)):

        def fail(*_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(StorageError) as caught:
                store.write(token, 0, b"good")
        assert type(caught.value) is expected


def test_room_is_looked_for_where_it_cannot_be_taken(store, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with pytest.raises(StorageFull):
        store.begin(KEY, 1 << 60)
    put(store, KEY, b"voxels")
    assert store.read(KEY, 0, 10) == b"voxels"


CRASHES = """
import hashlib, os, signal, sys
from pathlib import Path
from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_core.errors import UnknownObject

SYSTEM_CALLS = "open mkdir pwrite fsync fdatasync posix_fallocate replace unlink rmdir close".split()
os.fsync = os.fdatasync = lambda descriptor: None  # a killed process, unlike a machine without power, needs none
OLD, NEW, KEY = b"old" * 1000, b"new!" * 1000, "raw/7f/tomogram.mrc"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def put(store, content):
    token = store.begin(KEY, len(content))
    store.write(token, 0, content)
    store.commit(token)


def killed_at(step, work):
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    calls = 0
    def counting(function):
        def counted(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return counted
    for name in SYSTEM_CALLS:
        if hasattr(os, name):
            setattr(os, name, counting(getattr(os, name)))
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def content_of(store):
    try:
        info = store.stat(KEY)
    except UnknownObject:
        assert list(store.list()) == []
        return None
    content = store.read(KEY, 0, 1 << 20)
    assert (info.size, info.sha256) == (len(content), digest(content))
    assert list(store.list()) == [info]
    return content


kind, folder, step, alive = sys.argv[1], Path(sys.argv[2]), 0, True
source = folder / "source.mrc"
source.write_bytes(NEW)
seen = set()
while alive:
    step += 1
    root = folder / str(step)
    store = FilesystemStorage(root)
    before = None
    if kind.endswith("replace"):
        put(store, OLD)
        before = OLD
    if kind.startswith("commit"):
        token = store.begin(KEY, len(NEW))
        store.write(token, 0, NEW)
        alive = killed_at(step, lambda: store.commit(token, sha256=digest(NEW)))
    elif kind.startswith("publish"):
        alive = killed_at(step, lambda: store.publish(source, KEY))
    elif kind == "delete":
        put(store, OLD)
        before = None
        alive = killed_at(step, lambda: store.delete(KEY))
    else:
        alive = killed_at(step, lambda: store.begin(KEY, len(NEW)))
    after = FilesystemStorage(root)
    content = content_of(after)
    seen.add(content)
    assert content in ({None, OLD} if kind == "delete" else {before, NEW}), (step, content)
    if kind.startswith("commit") and alive and (root / "raw" / "+partial" / (token[4:] + ".json")).exists():
        assert after.commit(token, sha256=digest(NEW)).sha256 == digest(NEW)
        assert content_of(after) == NEW
    after.expire(0)
    left = [path for path in root.rglob("+partial/*")]
    assert not left, left
assert step > 5, step
assert kind == "begin" or len(seen) == 2, seen
"""


@pytest.mark.parametrize("kind", ["begin", "commit", "commit-replace", "publish", "publish-replace", "delete"])
def test_a_crash_at_any_step_leaves_a_whole_object_or_none(tmp_path, kind):
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, kind, tmp_path], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_content_is_synced_before_the_rename_and_the_folder_after(store, tmp_path, monkeypatch):
    put(store, "raw/7f/other", b"makes the folders")
    steps = []

    def recorded(name, function, describe):
        def record(*arguments, **options):
            steps.append((name, describe(*arguments)))
            return function(*arguments, **options)

        monkeypatch.setattr(os, name, record)

    def kind_of(descriptor):
        return "file" if stat.S_ISREG(os.fstat(descriptor).st_mode) else "folder"

    recorded("fsync", os.fsync, kind_of)
    recorded("replace", os.replace, lambda source, target: target)
    path = tmp_path / "mask.mrc"
    path.write_bytes(b"labels")
    token = store.begin(KEY, 6)
    store.write(token, 0, b"voxels")
    for work in (lambda: store.commit(token), lambda: store.publish(path, KEY)):
        steps.clear()
        work()
        place = steps.index(("replace", "tomogram.mrc"))
        assert ("fsync", "file") in steps[:place]
        assert ("fsync", "folder") in steps[place + 1 :]


def test_a_digest_is_worked_out_once(store, root, monkeypatch):
    info = put(store, KEY, b"voxels")
    monkeypatch.setattr(storage, "_digest_of", None)
    assert FilesystemStorage(root).stat(KEY) == info
    assert list(FilesystemStorage(root).list()) == [info]


def test_a_digest_that_is_lost_damaged_or_outdated_is_not_believed(store, root):
    put(store, KEY, b"voxels")
    (digest,) = (root / "raw" / "+digests").iterdir()
    for damage in (digest.unlink, lambda: digest.write_text("{"), lambda: digest.write_text("1")):
        damage()
        assert store.stat(KEY).sha256 == hashlib.sha256(b"voxels").hexdigest()
        assert digest.stat().st_size > 10
    (root / KEY).write_bytes(b"other voxels")
    assert store.stat(KEY).sha256 == hashlib.sha256(b"other voxels").hexdigest()


def test_delete_takes_empty_folders_along_and_no_others(store, root):
    put(store, "raw/a/b/c", b"1")
    put(store, "raw/a/d", b"2")
    store.delete("raw/a/b/c")
    assert not (root / "raw/a/b").exists()
    store.delete("raw/a/d")
    assert not (root / "raw/a").exists()
    assert files_below(root) == []


@pytest.mark.parametrize("place", ["raw", "raw/7f", "raw/+partial", "raw/+digests"])
def test_a_link_in_place_of_a_folder_leads_nowhere(store, root, tmp_path, place):
    outside = tmp_path / "outside"
    (outside / "7f").mkdir(parents=True)
    for name in ("tomogram.mrc", "7f/tomogram.mrc"):
        (outside / name).write_bytes(b"secret")
    before = files_below(outside)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(outside)
    with contextlib.suppress(StorageError):
        put(store, KEY, b"voxels")
    path = tmp_path / "mask.mrc"
    path.write_bytes(b"labels")
    with contextlib.suppress(StorageError):
        store.publish(path, KEY)
    store.delete(KEY)
    store.expire(0)
    assert files_below(outside) == before
    assert (outside / "tomogram.mrc").read_bytes() == b"secret"
    assert [info.key for info in store.list()] == []
    for call in (lambda: store.read(KEY, 0, 9), lambda: store.stat(KEY), lambda: store.localize(KEY).__enter__()):
        with pytest.raises(UnknownObject):
            call()


def test_a_link_in_place_of_an_object_is_none_and_is_replaced(store, root, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (root / KEY).parent.mkdir(parents=True)
    (root / KEY).symlink_to(secret)
    for call in (lambda: store.read(KEY, 0, 9), lambda: store.stat(KEY), lambda: store.localize(KEY).__enter__()):
        with pytest.raises(UnknownObject):
            call()
    assert list(store.list()) == []
    store.delete(KEY)
    assert put(store, KEY, b"voxels").size == 6
    assert not (root / KEY).is_symlink()
    assert secret.read_bytes() == b"secret"


def test_a_pipe_is_no_object_and_nobody_waits_for_it(store, root, tmp_path):
    (root / KEY).parent.mkdir(parents=True)
    os.mkfifo(root / KEY)
    for call in (lambda: store.read(KEY, 0, 9), lambda: store.stat(KEY), lambda: store.localize(KEY).__enter__()):
        with pytest.raises(UnknownObject):
            call()
    assert list(store.list()) == []
    store.delete(KEY)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(MissingFile):
        store.publish(pipe, "artifacts/j/mask.mrc")


def test_a_folder_or_a_file_in_the_way_is_named(store, root):
    put(store, "raw/a/b", b"1")
    with pytest.raises(StorageError, match="folder"):
        put(store, "raw/a", b"2")
    with pytest.raises(StorageError, match="'b'"):
        put(store, "raw/a/b/c", b"3")
    assert store.read("raw/a/b", 0, 9) == b"1"
    store.delete("raw/a")
    with pytest.raises(UnknownObject):
        store.stat("raw/a/b/c")


def test_names_that_are_no_parts_of_keys_are_not_listed(store, root):
    put(store, KEY, b"voxels")
    (root / "raw" / "with space").write_bytes(b"")
    (root / "raw" / "+x").mkdir()
    (root / "raw" / "+x" / "y").write_bytes(b"")
    (root / "other").write_bytes(b"")
    assert [info.key for info in store.list()] == [KEY]


@pytest.mark.parametrize("part", ["x" * 256, "+partial", "-+-", "a:b", "~"])
def test_keys_cannot_name_the_storage_s_own_files(store, part):
    with pytest.raises(InvalidParameter):
        store.begin(f"raw/{part}", 1)
    with pytest.raises(InvalidParameter):
        store.begin("raw/a", -1)


def test_the_longest_name_can_be_stored(store):
    key = f"raw/{'x' * 255}/{'y' * 255}"
    put(store, key, b"voxels")
    assert store.read(key, 0, 9) == b"voxels"


def test_a_file_that_grows_while_it_is_stored_is_refused(store, root, tmp_path, monkeypatch):
    path = tmp_path / "mask.mrc"
    path.write_bytes(b"labels")
    digest_of = storage._digest_of

    def meanwhile(source, **options):
        path.write_bytes(b"more labels")
        return digest_of(source, **options)

    monkeypatch.setattr(storage, "_digest_of", meanwhile)
    with pytest.raises(StorageDamaged, match="changed"):
        store.publish(path, "artifacts/j/mask.mrc")
    assert files_below(root) == []


def test_a_folder_that_vanishes_between_its_making_and_the_rename_is_made_again(store, root, monkeypatch):
    replace, removed = os.replace, []

    def meanwhile(source, target, **options):
        if target == "tomogram.mrc" and not removed:
            removed.append(target)
            (root / "raw" / "7f").rmdir()
        return replace(source, target, **options)

    monkeypatch.setattr(os, "replace", meanwhile)
    assert put(store, KEY, b"voxels").size == 6
    assert removed
    assert store.read(KEY, 0, 9) == b"voxels"


def test_a_process_that_is_killed_leaves_a_write_that_another_completes(root):
    script = f"""
import os, signal
from pathlib import Path
from cryomamba_backends.filesystem.storage import FilesystemStorage
store = FilesystemStorage(Path({str(root)!r}))
token = store.begin({KEY!r}, 8)
store.write(token, 4, b"xels")
print(token, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    store, token = FilesystemStorage(root), done.stdout.strip()
    store.write(token, 0, b" vox")
    store.commit(token)
    assert Path(root / KEY).read_bytes() == b" voxxels"

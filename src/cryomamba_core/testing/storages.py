"""The conformance suite for `Storage`: what the engine takes for granted of the place where objects are kept."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cryomamba_core.errors import InvalidParameter, MissingFile, StorageDamaged, StorageFull, UnknownObject
from cryomamba_core.interfaces import ObjectInfo, Storage

KEY = "raw/7f/tomogram.mrc"
CONTENT = bytes(range(256)) * 40

NO_KEYS = (
    "",
    "raw",
    "raw/",
    "/raw/a",
    "raw//a",
    "raw/./a",
    "raw/../a",
    "raw/a/..",
    "../raw/a",
    "raw/a/",
    "raw/a b",
    "raw/a\\b",
    "raw/a\n",
    "raw/a\0",
    "raw/ä",
    "jobs/a",
    "cryomamba.sqlite",
)


class StorageConformance(ABC):
    """Subclass it, say how to make a storage, and run it with pytest.

    ::

        class TestMyStorage(StorageConformance):
            def make_storage(self, root):
                return MyStorage(root)
    """

    @abstractmethod
    def make_storage(self, root: Path) -> Storage:
        """A storage; two that are made with the same `root`, an empty folder at first, hold the same objects."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        """An empty storage."""
        return self.make_storage(tmp_path)

    def test_a_storage_has_a_name(self, storage: Storage) -> None:
        assert isinstance(storage, Storage)
        assert storage.name

    def test_parts_in_any_order_make_the_object(self, storage: Storage) -> None:
        token = storage.begin(KEY, len(CONTENT))
        for start in (8000, 0, 4000):
            storage.write(token, start, memoryview(CONTENT)[start : start + 4000])
        storage.write(token, 10_000, CONTENT[10_000:])
        info = storage.commit(token)
        assert storage.read(KEY, 0, len(CONTENT)) == CONTENT
        assert (info.key, info.size, info.sha256) == (KEY, len(CONTENT), _digest(CONTENT))
        assert abs(datetime.now(UTC) - info.modified_at) < timedelta(days=1)

    def test_a_part_that_comes_again_replaces_the_first(self, storage: Storage) -> None:
        token = storage.begin(KEY, 6)
        storage.write(token, 0, b"xxxxxx")
        storage.write(token, 2, b"yy")
        storage.commit(token, sha256=_digest(b"xxyyxx"))
        assert storage.read(KEY, 0, 6) == b"xxyyxx"

    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (0, 2, 1, 0, 3), (0, 1, 2, 3, 1)])
    def test_the_digest_is_that_of_the_content_in_whatever_order_it_came(
        self, storage: Storage, order: tuple[int, ...]
    ) -> None:
        token = storage.begin(KEY, len(CONTENT))
        content = bytearray(len(CONTENT))
        for turn, part in enumerate(order):
            piece = bytes([turn]) * 100 + CONTENT[:2460]
            storage.write(token, part * 2560, piece)
            content[part * 2560 : (part + 1) * 2560] = piece
        with pytest.raises(StorageDamaged):
            storage.commit(token, sha256=_digest(CONTENT))
        assert storage.commit(token).sha256 == _digest(bytes(content))

    def test_the_digest_is_that_of_the_content_when_another_process_wrote_as_well(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        token = storage.begin(KEY, 6)
        storage.write(token, 0, b"xxxxxx")
        self.make_storage(tmp_path).write(token, 2, b"yy")
        storage.write(token, 4, b"zz")
        assert storage.commit(token).sha256 == _digest(b"xxyyzz")

    def test_an_object_may_be_empty(self, storage: Storage) -> None:
        assert storage.commit(storage.begin(KEY, 0)).size == 0
        assert storage.read(KEY, 0, 10) == b""

    def test_nothing_is_visible_before_commit(self, storage: Storage) -> None:
        token = storage.begin(KEY, len(CONTENT))
        storage.write(token, 0, CONTENT)
        assert list(storage.list()) == []
        with pytest.raises(UnknownObject):
            storage.stat(KEY)
        with pytest.raises(UnknownObject):
            storage.read(KEY, 0, 1)
        with pytest.raises(UnknownObject), storage.localize(KEY):
            pass

    def test_a_wrong_digest_leaves_the_write_open(self, storage: Storage) -> None:
        token = storage.begin(KEY, 4)
        storage.write(token, 0, b"baad")
        with pytest.raises(StorageDamaged):
            storage.commit(token, sha256=_digest(b"good"))
        with pytest.raises(UnknownObject):
            storage.stat(KEY)
        storage.write(token, 0, b"good")
        assert storage.commit(token, sha256=_digest(b"good")).sha256 == _digest(b"good")

    @pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, 5), (4, 1), (1 << 62, 1)])
    def test_data_outside_the_announced_size_are_refused(self, storage: Storage, offset: int, size: int) -> None:
        token = storage.begin(KEY, 4)
        with pytest.raises(InvalidParameter):
            storage.write(token, offset, b"x" * size)

    def test_a_write_goes_on_after_a_restart(self, storage: Storage, tmp_path: Path) -> None:
        token = storage.begin(KEY, len(CONTENT))
        storage.write(token, 0, CONTENT[:5000])
        second = self.make_storage(tmp_path)
        second.write(token, 5000, CONTENT[5000:])
        third = self.make_storage(tmp_path)
        info = third.commit(token, sha256=_digest(CONTENT))
        assert self.make_storage(tmp_path).stat(KEY) == info == storage.stat(KEY)

    def test_an_empty_write_says_whether_the_write_is_open(self, storage: Storage) -> None:
        """The engine asks so before it lets a client go on."""
        token = storage.begin("raw/a", 5)
        storage.write(token, 5, b"")
        storage.abort(token)
        with pytest.raises(UnknownObject):
            storage.write(token, 5, b"")

    def test_an_aborted_write_is_gone(self, storage: Storage) -> None:
        token = storage.begin(KEY, 4)
        storage.abort(token)
        storage.abort(token)
        with pytest.raises(UnknownObject):
            storage.write(token, 0, b"late")
        with pytest.raises(UnknownObject):
            storage.commit(token)

    def test_a_commit_closes_the_write(self, storage: Storage) -> None:
        token = storage.begin(KEY, 4)
        storage.write(token, 0, b"good")
        storage.commit(token)
        with pytest.raises(UnknownObject):
            storage.write(token, 0, b"evil")
        storage.abort(token)
        assert storage.read(KEY, 0, 4) == b"good"

    @pytest.mark.parametrize("token", ["", "nonsense", "../../etc/passwd", "raw.0", "\0"])
    def test_an_unknown_token_is_unknown(self, storage: Storage, token: str) -> None:
        storage.abort(token)
        with pytest.raises(UnknownObject):
            storage.write(token, 0, b"x")
        with pytest.raises(UnknownObject):
            storage.commit(token)

    def test_more_than_there_is_room_for_is_refused_at_once(self, storage: Storage) -> None:
        with pytest.raises(StorageFull) as caught:
            storage.begin(KEY, 1 << 60)
        assert caught.value.hint
        assert storage.expire(0) == 0

    def test_abandoned_writes_expire_and_others_do_not(self, storage: Storage) -> None:
        token = storage.begin(KEY, 4)
        storage.begin("artifacts/a", 4)
        assert storage.expire(3600) == 0
        storage.write(token, 0, b"good")
        assert storage.expire(0) == 2
        assert storage.expire(0) == 0
        with pytest.raises(UnknownObject):
            storage.commit(token)

    def test_expiry_spares_what_is_stored(self, storage: Storage) -> None:
        info = _store(storage, KEY, CONTENT)
        storage.expire(0)
        assert storage.stat(KEY) == info

    @pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (100, 5000), (10_239, 10_240), (10_000, 99_999)])
    def test_any_range_can_be_read(self, storage: Storage, start: int, stop: int) -> None:
        _store(storage, KEY, CONTENT)
        assert storage.read(KEY, start, stop) == CONTENT[start:stop]

    def test_a_range_behind_the_end_is_empty(self, storage: Storage) -> None:
        _store(storage, KEY, CONTENT)
        assert storage.read(KEY, len(CONTENT), len(CONTENT) + 10) == b""

    def test_listing_is_by_prefix_and_in_order(self, storage: Storage) -> None:
        keys = ["artifacts/j/mask.mrc", "raw/a-b", "raw/a.b", "raw/a/1", "raw/a/2/x", "raw/a0", "raw/b"]
        for key in reversed(keys):
            _store(storage, key, key.encode())
        assert [info.key for info in storage.list()] == keys == sorted(keys)
        assert [info.key for info in storage.list("raw/a")] == keys[1:6]
        assert [info.key for info in storage.list("raw/a/")] == keys[3:5]
        assert [info.key for info in storage.list("raw/a/2/x")] == ["raw/a/2/x"]
        assert list(storage.list("raw/a/2/xy")) == []
        assert list(storage.list("rav")) == []
        assert all(info == storage.stat(info.key) for info in storage.list())

    def test_a_deleted_object_is_gone(self, storage: Storage) -> None:
        _store(storage, KEY, CONTENT)
        kept = _store(storage, f"{KEY}.2", b"kept")
        storage.delete(KEY)
        storage.delete(KEY)
        with pytest.raises(UnknownObject):
            storage.stat(KEY)
        assert list(storage.list()) == [kept]

    def test_a_key_can_be_used_again_after_a_delete(self, storage: Storage) -> None:
        _store(storage, KEY, CONTENT)
        storage.delete(KEY)
        assert _store(storage, KEY, b"new") == storage.stat(KEY)
        assert storage.stat(KEY).sha256 == _digest(b"new")

    def test_a_local_path_holds_the_object(self, storage: Storage) -> None:
        _store(storage, KEY, CONTENT)
        with storage.localize(KEY) as path:
            assert path.is_file()
            assert path.read_bytes() == CONTENT
            assert path.suffix == ".mrc", "readers go by the ending where a format has no mark"

    def test_an_open_object_gives_its_bytes_even_when_it_is_deleted(self, storage: Storage) -> None:
        _store(storage, KEY, CONTENT)
        descriptor = storage.open(KEY)
        if descriptor is not None:
            with os.fdopen(descriptor, "rb") as stream:
                storage.delete(KEY)
                assert stream.read() == CONTENT

    @pytest.mark.parametrize(("key", "error"), [(KEY, UnknownObject), ("raw/../a", InvalidParameter)])
    def test_what_is_not_there_cannot_be_opened(self, storage: Storage, key: str, error: type[Exception]) -> None:
        with suppress(error):
            assert storage.open(key) is None

    def test_a_published_file_stays_and_is_a_copy(self, storage: Storage, tmp_path: Path) -> None:
        path = tmp_path / "mask.mrc"
        path.write_bytes(CONTENT)
        info = storage.publish(path, "artifacts/j/mask.mrc")
        assert (info.size, info.sha256) == (len(CONTENT), _digest(CONTENT))
        assert path.read_bytes() == CONTENT
        path.write_bytes(b"something else")
        assert storage.read("artifacts/j/mask.mrc", 0, len(CONTENT)) == CONTENT
        assert storage.stat("artifacts/j/mask.mrc") == info

    def test_publishing_again_replaces(self, storage: Storage, tmp_path: Path) -> None:
        path = tmp_path / "mask.mrc"
        for content in (b"first, and longer", b"second"):
            path.write_bytes(content)
            storage.publish(path, "artifacts/j/mask.mrc")
        assert storage.read("artifacts/j/mask.mrc", 0, 99) == b"second"
        assert storage.stat("artifacts/j/mask.mrc").sha256 == _digest(b"second")

    def test_what_cannot_be_published_changes_nothing(self, storage: Storage, tmp_path: Path) -> None:
        info = _store(storage, KEY, CONTENT)
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(MissingFile):
                storage.publish(path, KEY)
        assert storage.stat(KEY) == info
        assert storage.expire(0) == 0

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_what_is_no_key_is_refused_by_every_method(self, storage: Storage, tmp_path: Path, key: str) -> None:
        path = tmp_path / "mask.mrc"
        path.write_bytes(CONTENT)
        calls: tuple[Callable[[], object], ...] = (
            lambda: storage.begin(key, 1),
            lambda: storage.read(key, 0, 1),
            lambda: storage.stat(key),
            lambda: storage.delete(key),
            lambda: storage.publish(path, key),
            lambda: storage.localize(key).__enter__(),
        )
        for call in calls:
            with pytest.raises(InvalidParameter):
                call()

    def test_unknown_objects_are_unknown(self, storage: Storage) -> None:
        with pytest.raises(UnknownObject):
            storage.stat(KEY)
        with pytest.raises(UnknownObject):
            storage.read(KEY, 0, 1)
        with pytest.raises(UnknownObject), storage.localize(KEY):
            pass
        storage.delete(KEY)
        assert list(storage.list()) == []

    def test_threads_may_write_parts_and_objects_at_once(self, storage: Storage) -> None:
        token = storage.begin(KEY, len(CONTENT))

        def write(start: int) -> None:
            storage.write(token, start, CONTENT[start : start + 512])

        def store(number: int) -> None:
            _store(storage, f"raw/{number}/x", str(number).encode() * 1000)

        with ThreadPoolExecutor(8) as threads:
            parts = threads.map(write, range(0, len(CONTENT), 512))
            others = threads.map(store, range(16))
            removals = threads.map(storage.delete, [f"raw/{number}/y" for number in range(16)])
            for outcome in (parts, others, removals):
                assert not any(outcome)
        assert storage.commit(token, sha256=_digest(CONTENT)).size == len(CONTENT)
        assert {info.sha256 for info in storage.list("raw/")} == {
            _digest(CONTENT),
            *(_digest(str(n).encode() * 1000) for n in range(16)),
        }

    def test_free_space_is_told_as_a_number_or_not_at_all(self, storage: Storage) -> None:
        free = storage.free_bytes()
        assert free is None or free >= 0

    def test_an_address_is_given_for_stored_objects_or_not_at_all(self, storage: Storage) -> None:
        _store(storage, KEY, CONTENT)
        address = storage.presign(KEY, 60)
        assert address is None or "://" in address


def _store(storage: Storage, key: str, content: bytes) -> ObjectInfo:
    token = storage.begin(key, len(content))
    storage.write(token, 0, content)
    return storage.commit(token)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""What bounds uploads: quotas and space, and what becomes of what nobody goes on with."""

from datetime import timedelta

import pytest
from uploading import complete, mrc_bytes, opened, request, send, send_part, sha256, split, stored

from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_core.errors import InvalidParameter, QuotaExceeded, StorageFull, UnknownObject, UnknownUpload
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_server.engine import records
from cryomamba_server.engine.expiry import ExpiryStore
from cryomamba_server.engine.upload_content import UploadContent
from cryomamba_server.engine.upload_store import UploadStore

DATA = mrc_bytes()
PARTS = split(DATA)
DAY = 24 * 3600.0


async def test_a_quota_counts_files_and_what_is_on_its_way_for_each_owner(settings):
    async with opened(settings, quota_bytes=2 * len(DATA) + 10) as engine:
        await complete(engine.uploads)
        coming = await engine.uploads.begin(request(mrc_bytes(1)), owner="ada")
        with pytest.raises(QuotaExceeded) as caught:
            await engine.uploads.begin(request(b"x" * 11), owner="ada")
        assert caught.value.hint
        assert stored(settings)[1] == 2
        await engine.uploads.begin(request(b"x" * 10), owner="ada")
        await engine.uploads.begin(request(DATA), owner="bob")
        await engine.uploads.abort(coming.upload_id, owner="ada")
        await engine.uploads.begin(request(mrc_bytes(2)), owner="ada")


async def test_two_that_begin_at_the_same_time_share_one_quota(settings, monkeypatch):
    monkeypatch.setattr(UploadStore, "require_quota", lambda *_: None)
    async with opened(settings, quota_bytes=len(DATA)) as engine:
        await engine.uploads.begin(request(DATA), owner="ada")
        with pytest.raises(QuotaExceeded):
            await engine.uploads.begin(request(DATA), owner="ada")
        assert stored(settings)[1] == 2, "what was set aside for the second is given back"


async def test_space_that_is_reserved_is_left_alone(settings):
    async with opened(settings, reserve_bytes=1 << 60) as engine:
        with pytest.raises(StorageFull) as caught:
            await engine.uploads.begin(request(DATA), owner="ada")
        assert caught.value.retryable
        assert caught.value.hint


async def test_a_file_of_too_many_parts_is_refused(uploads):
    with pytest.raises(InvalidParameter, match="100000 parts"):
        await uploads.begin(type(request(DATA))(filename="a.mrc", size=2**53 - 1), owner="ada")


async def test_an_abort_leaves_nothing(uploads, settings):
    status = await uploads.begin(request(DATA), owner="ada")
    await send(uploads, status, DATA, [0, 1])
    await uploads.abort(status.upload_id, owner="ada")
    assert stored(settings) == ([], 0)
    with pytest.raises(UnknownUpload):
        await send_part(uploads, status, 2, PARTS[2])
    with pytest.raises(UnknownUpload):
        await uploads.abort(status.upload_id, owner="ada")


async def test_uploads_that_nobody_goes_on_with_are_dropped_and_files_stay(engine, settings, monkeypatch):
    file = await complete(engine.uploads)
    old = await engine.uploads.begin(request(mrc_bytes(1), fingerprint="old"), owner="ada")
    await send(engine.uploads, old, mrc_bytes(1), [0])
    assert await engine.uploads.expire(DAY) == 0
    late = records.now() + timedelta(days=2)
    monkeypatch.setattr("cryomamba_server.engine.uploads.now", lambda: late)
    monkeypatch.setattr("cryomamba_server.engine.upload_store.now", lambda: late)
    fresh = await engine.uploads.begin(request(mrc_bytes(2)), owner="ada")
    assert await engine.uploads.expire(DAY) == 1
    with pytest.raises(UnknownUpload):
        await engine.uploads.status(old.upload_id, owner="ada")
    assert (await engine.uploads.status(fresh.upload_id, owner="ada")).received == ()
    assert stored(settings)[1] == 2
    await engine.plan(JobConfig(source=Source(file_id=file.file_id), runner="steps"), owner="ada")
    again = await engine.uploads.begin(request(mrc_bytes(1), fingerprint="old"), owner="ada")
    assert again.upload_id != old.upload_id


async def test_an_upload_that_goes_on_does_not_expire(engine, monkeypatch):
    status = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    late = records.now() + timedelta(days=2)
    monkeypatch.setattr("cryomamba_server.engine.upload_store.now", lambda: late)
    await send(engine.uploads, status, DATA, [0])
    assert await engine.uploads.expire(DAY) == 0
    late += timedelta(days=2)
    await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    assert await engine.uploads.expire(DAY) == 0


async def test_content_that_no_file_came_to_need_is_removed_when_its_upload_expires(engine, settings, monkeypatch):
    await complete(engine.uploads, owner="bob")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStorage, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            await complete(engine.uploads)
    assert len(stored(settings)[0]) == 2
    late = records.now() + timedelta(days=2)
    monkeypatch.setattr("cryomamba_server.engine.upload_store.now", lambda: late)
    await engine.uploads.expire(DAY)
    assert len(stored(settings)[0]) == 1
    for owner in ("ada", "bob"):
        await engine.plan(JobConfig(source=Source(file_id=sha256(DATA)), runner="steps"), owner=owner)


async def test_an_upload_whose_content_is_lost_is_forgotten(engine, settings):
    status = await engine.uploads.begin(request(DATA), owner="ada")
    await send(engine.uploads, status, DATA)
    for path in (settings.data_dir / "raw" / "+partial").iterdir():
        path.unlink()
    with pytest.raises(UnknownUpload):
        await send_part(engine.uploads, await engine.uploads.begin(request(DATA), owner="bob"), 0, PARTS[0])
    with pytest.raises(UnknownUpload):
        await engine.uploads.complete(status.upload_id, owner="ada")
    with pytest.raises(UnknownUpload):
        await engine.uploads.status(status.upload_id, owner="ada")


async def test_an_upload_whose_content_is_lost_is_not_continued_but_begun_anew(engine, settings):
    first = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    await send(engine.uploads, first, DATA, [0, 1])
    lose_open_writes(settings)
    second = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    assert second.upload_id != first.upload_id
    assert second.received == ()
    with pytest.raises(UnknownUpload):
        await engine.uploads.status(first.upload_id, owner="ada")
    await send(engine.uploads, second, DATA)
    assert (await engine.uploads.complete(second.upload_id, owner="ada")).sha256 == sha256(DATA)


@pytest.mark.parametrize("index", [1, 2], ids=["that was there", "that was not"])
async def test_no_part_is_acknowledged_of_content_that_is_lost(engine, settings, index):
    status = await engine.uploads.begin(request(DATA), owner="ada")
    await send(engine.uploads, status, DATA, [0, 1])
    lose_open_writes(settings)
    with pytest.raises(UnknownUpload):
        await send_part(engine.uploads, status, index, PARTS[index])
    assert await engine.ledger.call(UploadStore(engine.database).untouched, -1, empty_for=-1) == [], (
        "its record is gone"
    )


async def test_content_that_was_renamed_before_its_record_is_not_lost(engine, settings, monkeypatch):
    status = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    await send(engine.uploads, status, DATA)

    def full(*_):
        raise StorageFull("no room for the record")

    with monkeypatch.context() as patch:
        patch.setattr(UploadStore, "complete", full)
        with pytest.raises(StorageFull):
            await engine.uploads.complete(status.upload_id, owner="ada")
    again = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    assert (again.upload_id, len(again.received)) == (status.upload_id, len(PARTS))
    await send_part(engine.uploads, again, 1, PARTS[1])
    assert (await engine.uploads.complete(again.upload_id, owner="ada")).sha256 == sha256(DATA)


async def test_whole_content_stays_when_its_upload_expires_before_it_is_recorded(engine, settings, monkeypatch):
    """Nobody was promised it; but it is whole, and perhaps only the records are old."""
    status = await engine.uploads.begin(request(DATA), owner="ada")
    await send(engine.uploads, status, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(UploadStore, "complete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await engine.uploads.complete(status.upload_id, owner="ada")
    late = records.now() + timedelta(days=4)
    monkeypatch.setattr("cryomamba_server.engine.upload_store.now", lambda: late)
    assert await engine.uploads.expire(DAY) == 1
    assert len(stored(settings)[0]) == 1


async def whole_file_again(engine, file):
    await complete(engine.uploads)


async def digest_again(engine, file):
    assert (await engine.uploads.begin(request(DATA, sha256=sha256(DATA)), owner="ada")).file_id == file.file_id


async def fingerprint_again(engine, file):
    assert (await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")).file_id == file.file_id


async def completion_again(engine, file):
    earlier = await engine.ledger.call(UploadStore(engine.database).untouched, -1, empty_for=-1)
    await engine.uploads.complete(earlier[0].id, owner="ada")


@pytest.mark.parametrize("again", [whole_file_again, digest_again, fingerprint_again, completion_again, None])
async def test_a_file_that_was_promised_a_moment_ago_is_not_removed_for_its_age(engine, settings, again):
    file = await complete(engine.uploads, fingerprint="f")
    long_ago = (records.now() - timedelta(days=30)).isoformat()
    with engine.database.writing() as connection:
        connection.exec_driver_sql("UPDATE files SET created_at = ?, last_used_at = ?", (long_ago, long_ago))
    if again is not None:
        await again(engine, file)
    forgotten = ExpiryStore(engine.database).forget_files(records.now() - timedelta(days=7), most=10)
    assert forgotten == (0 if again else 1)


async def test_content_that_is_removed_while_it_is_announced_is_asked_for_again(engine, settings, monkeypatch):
    await complete(engine.uploads)
    real = UploadContent.has

    def has_for_the_last_time(self, stored):
        found = real(self, stored)
        ExpiryStore(engine.database).forget_files(records.now() + timedelta(days=1), most=10)
        return found

    monkeypatch.setattr(UploadContent, "has", has_for_the_last_time)
    assert (await engine.uploads.begin(request(DATA, sha256=sha256(DATA)), owner="ada")).file_id is None


async def test_a_job_whose_file_is_removed_while_it_is_looked_at_is_refused(engine, monkeypatch):
    file = await complete(engine.uploads)
    config = JobConfig(source=Source(file_id=file.file_id), runner="steps")
    check = engine._check

    def check_for_the_last_time(*arguments):
        accepted = check(*arguments)
        ExpiryStore(engine.database).forget_files(records.now() + timedelta(days=1), most=10)
        return accepted

    monkeypatch.setattr(engine, "_check", check_for_the_last_time)
    with pytest.raises(UnknownObject) as refused:
        await engine.submit(config, owner="ada")
    assert refused.value.hint == "send it first"
    assert await engine.jobs(owner=None) == []
    with pytest.raises(UnknownObject) as before:
        await engine.submit(config, owner="ada")
    assert str(before.value) == str(refused.value)


def lose_open_writes(settings):
    for path in (settings.data_dir / "raw" / "+partial").iterdir():
        path.unlink()


async def test_an_upload_without_a_part_holds_its_room_for_an_hour_however_often_it_is_begun(engine, monkeypatch):
    empty = await engine.uploads.begin(request(DATA, fingerprint="empty"), owner="ada")
    begun = await engine.uploads.begin(request(mrc_bytes(1), fingerprint="begun"), owner="ada")
    await send(engine.uploads, begun, mrc_bytes(1), [0])
    late = records.now() + timedelta(minutes=50)
    monkeypatch.setattr("cryomamba_server.engine.upload_store.now", lambda: late)
    assert (await engine.uploads.begin(request(DATA, fingerprint="empty"), owner="ada")).upload_id == empty.upload_id
    assert await engine.uploads.expire(DAY) == 0
    late += timedelta(minutes=11)
    assert await engine.uploads.expire(DAY) == 1
    with pytest.raises(UnknownUpload):
        await engine.uploads.status(empty.upload_id, owner="ada")
    assert (await engine.uploads.status(begun.upload_id, owner="ada")).received == (0,)

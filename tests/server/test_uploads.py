"""Uploads in the engine: parts, completion, what is refused, and what becomes of what nobody goes on with."""

from contextlib import aclosing
from datetime import timedelta
from threading import Event

import engines
import pytest
import trio
from uploading import PART, complete, mrc_bytes, opened, pieces, request, send, send_part, sha256, split, stored

from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_core.errors import (
    CorruptFile,
    InputError,
    PartRefused,
    PluginFault,
    StorageFull,
    TruncatedFile,
    UnknownFormat,
    UnknownObject,
    UnknownUpload,
    UploadConflict,
    UploadIncomplete,
)
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.wire import to_plain
from cryomamba_server.engine import records
from cryomamba_server.engine.upload_store import UploadStore
from cryomamba_server.engine.uploads import Uploads

DATA = mrc_bytes()
PARTS = split(DATA)


def partial(settings):
    """The file that an upload is written into."""
    [path] = [path for path in (settings.data_dir / "raw" / "+partial").iterdir() if not path.suffix]
    return path


async def test_parts_in_any_order_and_several_at_a_time_become_the_file_that_a_job_can_use(engine, settings):
    status = await engine.uploads.begin(request(DATA), owner="ada")
    assert (status.part_size, status.part_count, status.received) == (PART, len(PARTS), ())
    async with trio.open_nursery() as nursery:
        for index in reversed(range(len(PARTS))):
            nursery.start_soon(send_part, engine.uploads, status, index, PARTS[index])
    file = await engine.uploads.complete(status.upload_id, owner="ada")
    assert (file.filename, file.size, file.sha256, file.file_id) == ("a.mrc", len(DATA), sha256(DATA), sha256(DATA))
    [key], unfinished = stored(settings)
    assert engine.storage.read(key, 0, len(DATA)) == DATA
    assert not unfinished
    job = await engine.submit(JobConfig(source=Source(file_id=file.file_id), runner="steps"), owner="ada")
    assert job.config.label == "a.mrc"


async def test_a_status_says_what_is_durable_and_when_the_upload_would_be_dropped(uploads):
    begun = await uploads.begin(request(DATA), owner="ada")
    await send(uploads, begun, DATA, [3, 1])
    status = await uploads.status(begun.upload_id, owner="ada")
    assert status.received == (1, 3)
    assert status.digests == {"1": sha256(PARTS[1]), "3": sha256(PARTS[3])}
    assert timedelta(hours=71) < status.expires_at - records.now() <= timedelta(hours=72)
    assert status.file_id is None


async def test_an_upload_goes_on_by_its_fingerprint_in_another_engine(settings):
    async with opened(settings) as engine:
        first = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
        await send(engine.uploads, first, DATA, [0, 2])
    async with opened(settings, part_size=2 * PART) as engine:
        again = await engine.uploads.begin(request(DATA, fingerprint="f", sha256=sha256(DATA)), owner="ada")
        assert (again.upload_id, again.received, again.part_size) == (first.upload_id, (0, 2), PART)
        await send(engine.uploads, again, DATA, set(range(len(PARTS))) - {0, 2})
        file = await engine.uploads.complete(again.upload_id, owner="ada")
        assert file.sha256 == sha256(DATA)
        done = await engine.uploads.begin(request(DATA, fingerprint="f"), owner="ada")
        assert (done.file_id, done.received) == (file.file_id, tuple(range(len(PARTS))))
    async with opened(settings, part_size=PART // 2) as engine:
        other = await engine.uploads.begin(request(mrc_bytes(1), fingerprint="g"), owner="ada")
    async with opened(settings, part_size=PART // 4) as engine:
        await send(engine.uploads, other, mrc_bytes(1))
        assert (await engine.uploads.complete(other.upload_id, owner="ada")).sha256 == sha256(mrc_bytes(1))


@pytest.mark.parametrize(
    "changes",
    [{"fingerprint": "g"}, {"filename": "b.mrc"}, {"size": 5000}, {"sha256": "0" * 64}, {"fingerprint": None}],
    ids=str,
)
async def test_another_file_is_another_upload(uploads, changes):
    said = {"filename": "a.mrc", "size": len(DATA), "sha256": sha256(DATA), "fingerprint": "f"}
    first = await uploads.begin(type(request(DATA))(**said), owner="ada")
    second = await uploads.begin(type(request(DATA))(**{**said, **changes}), owner="ada")
    assert first.upload_id != second.upload_id


async def test_what_others_have_is_not_there(uploads):
    status = await uploads.begin(request(DATA, fingerprint="f"), owner="ada")
    for call in (
        uploads.status(status.upload_id, owner="bob"),
        uploads.abort(status.upload_id, owner="bob"),
        uploads.complete(status.upload_id, owner="bob"),
        send_part(uploads, status, 0, PARTS[0], owner="bob"),
    ):
        with pytest.raises(UnknownUpload):
            await call
    assert (await uploads.begin(request(DATA, fingerprint="f"), owner="bob")).upload_id != status.upload_id


@pytest.mark.parametrize(
    ("index", "part", "said"),
    [
        (0, PARTS[0] + b"x", None),
        (0, PARTS[0][:-1], None),
        (len(PARTS) - 1, PARTS[0], None),
        (len(PARTS), PARTS[0], None),
        (1 << 80, PARTS[0], None),
        (0, PARTS[0], PARTS[1]),
    ],
    ids=["too long", "too short", "too long for the last", "behind the last", "far behind the last", "wrong digest"],
)
async def test_a_part_that_is_not_what_it_should_be_touches_nothing(uploads, settings, index, part, said):
    status = await uploads.begin(request(DATA), owner="ada")
    with pytest.raises(PartRefused) as caught:
        await send_part(uploads, status, index, part, said=said)
    assert caught.value.hint
    assert not any(partial(settings).read_bytes())
    assert (await uploads.status(status.upload_id, owner="ada")).received == ()


@pytest.mark.parametrize("length", [PART - 1, PART + 1])
async def test_a_body_of_another_length_than_was_said_touches_nothing(uploads, settings, length):
    status = await uploads.begin(request(DATA), owner="ada")
    async with aclosing(pieces((PARTS[1] + b"x")[:length])) as body:
        with pytest.raises(PartRefused):
            await uploads.receive(status.upload_id, 1, owner="ada", length=PART, sha256=sha256(PARTS[1]), body=body)
    assert not any(partial(settings).read_bytes())


async def test_the_same_part_is_not_written_again_and_another_is_a_conflict(uploads, settings):
    status = await uploads.begin(request(DATA), owner="ada")
    receipt = await send_part(uploads, status, 1, PARTS[1])
    before = partial(settings).stat().st_mtime_ns
    assert await send_part(uploads, status, 1, PARTS[1]) == receipt
    assert partial(settings).stat().st_mtime_ns == before
    with pytest.raises(UploadConflict) as caught:
        await send_part(uploads, status, 1, PARTS[2])
    assert caught.value.hint
    with pytest.raises(PartRefused):  # it says that it is the same, and is not
        await send_part(uploads, status, 1, PARTS[2], said=PARTS[1])


@pytest.mark.parametrize("protected", [True, False])
async def test_of_two_clients_with_one_part_one_wins(uploads, settings, monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(Uploads, "_lock", lambda *_: trio.Lock())
    go, waiting, write = Event(), [], FilesystemStorage.write

    def wait_and_write(storage, token, offset, data):
        waiting.append(bytes(data))
        go.wait(engines.DEADLINE)
        write(storage, token, offset, data)

    monkeypatch.setattr(FilesystemStorage, "write", wait_and_write)
    status = await uploads.begin(request(DATA), owner="ada")
    outcomes = {}

    async def client(part):
        try:
            outcomes[part] = await send_part(uploads, status, 1, part)
        except Exception as error:  # noqa: BLE001
            outcomes[part] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client, PARTS[1])
        nursery.start_soon(client, PARTS[2])
        with trio.fail_after(engines.DEADLINE):
            while len(waiting) < (1 if protected else 2):
                await trio.sleep(0.01)
        go.set()
    lost = [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
    assert len(lost) == 1
    assert isinstance(lost[0], UploadConflict) is protected, lost
    if protected:
        [winner] = waiting
        assert partial(settings).read_bytes()[PART : 2 * PART] == winner
        assert (await uploads.status(status.upload_id, owner="ada")).digests == {"1": sha256(winner)}


async def test_a_part_that_is_there_is_kept_though_its_sender_leaves(uploads, monkeypatch):
    begun, go, write = trio.Event(), Event(), FilesystemStorage.write

    def wait_and_write(*arguments):
        trio.from_thread.run_sync(begun.set)
        go.wait(engines.DEADLINE)
        write(*arguments)

    monkeypatch.setattr(FilesystemStorage, "write", wait_and_write)
    status = await uploads.begin(request(DATA), owner="ada")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_part, uploads, status, 1, PARTS[1])
        await begun.wait()
        nursery.cancel_scope.cancel()
        go.set()
    assert (await uploads.status(status.upload_id, owner="ada")).received == (1,)


async def test_completing_with_parts_missing_names_the_first_of_them(uploads):
    status = await uploads.begin(request(DATA), owner="ada")
    await send(uploads, status, DATA, [0, 2])
    with pytest.raises(UploadIncomplete, match=rf"^{len(PARTS) - 2} of {len(PARTS)} parts are missing: 1, 3, 4, 5"):
        await uploads.complete(status.upload_id, owner="ada")
    await send(uploads, status, DATA)
    assert (await uploads.complete(status.upload_id, owner="ada")).sha256 == sha256(DATA)


async def test_completing_twice_even_at_the_same_time_gives_the_same_answer(uploads):
    status = await uploads.begin(request(DATA), owner="ada")
    await send(uploads, status, DATA)
    answers = []

    async def client():
        answers.append(await uploads.complete(status.upload_id, owner="ada"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client)
    await client()
    assert answers == [answers[0]] * 4
    with pytest.raises(UploadConflict):
        await uploads.complete(status.upload_id, owner="ada", sha256="0" * 64)
    with pytest.raises(UploadConflict):
        await send_part(uploads, status, 0, PARTS[0])
    with pytest.raises(UploadConflict):
        await uploads.abort(status.upload_id, owner="ada")


async def test_content_that_is_not_what_was_announced_is_no_file(uploads, settings):
    status = await uploads.begin(request(DATA, sha256="0" * 64), owner="ada")
    await send(uploads, status, DATA)
    for said in (None, sha256(DATA), "1" * 64):
        with pytest.raises(UploadConflict) as caught:
            await uploads.complete(status.upload_id, owner="ada", sha256=said)
        assert caught.value.hint
    assert stored(settings)[0] == []
    assert (await uploads.status(status.upload_id, owner="ada")).received == tuple(range(len(PARTS)))
    second = await uploads.begin(request(DATA), owner="ada")
    await send(uploads, second, DATA)
    with pytest.raises(UploadConflict):
        await uploads.complete(second.upload_id, owner="ada", sha256="0" * 64)
    assert (await uploads.complete(second.upload_id, owner="ada", sha256=sha256(DATA))).sha256 == sha256(DATA)


async def test_completion_that_stopped_between_rename_and_record_is_made_good_by_asking_again(settings, monkeypatch):
    async with opened(settings) as engine:
        status = await engine.uploads.begin(request(DATA, sha256=sha256(DATA)), owner="ada")
        await send(engine.uploads, status, DATA)

        def full(*_):
            raise StorageFull("no room for the record")

        with monkeypatch.context() as patch:
            patch.setattr(UploadStore, "complete", full)
            with pytest.raises(StorageFull):
                await engine.uploads.complete(status.upload_id, owner="ada")
        assert len(stored(settings)[0]) == 1
        with pytest.raises(UploadConflict):
            await engine.uploads.complete(status.upload_id, owner="ada", sha256="0" * 64)
    async with opened(settings) as engine:
        assert (await engine.uploads.complete(status.upload_id, owner="ada")).sha256 == sha256(DATA)
        assert len(stored(settings)[0]) == 1


async def test_an_abort_between_rename_and_record_leaves_nothing(uploads, settings, monkeypatch):
    status = await uploads.begin(request(DATA), owner="ada")
    await send(uploads, status, DATA)

    def full(*_):
        raise StorageFull("no room for the record")

    monkeypatch.setattr(UploadStore, "complete", full)
    with pytest.raises(StorageFull):
        await uploads.complete(status.upload_id, owner="ada")
    await uploads.abort(status.upload_id, owner="ada")
    assert stored(settings) == ([], 0)


async def test_content_that_its_owner_has_sent_before_is_not_sent_again(uploads, settings):
    file = await complete(uploads)
    again = await uploads.begin(request(DATA, "b.mrc", sha256=sha256(DATA)), owner="ada")
    assert again.file_id == file.file_id
    assert await uploads.complete(again.upload_id, owner="ada") == file
    assert (await uploads.status(again.upload_id, owner="ada")).file_id == file.file_id
    assert len(stored(settings)[0]) == 1
    wrong_size = type(request(DATA))(filename="a.mrc", size=len(DATA) + 1, sha256=sha256(DATA))
    assert (await uploads.begin(wrong_size, owner="ada")).file_id is None


async def test_who_only_knows_the_digest_of_anothers_file_gets_nothing_and_who_has_the_content_shares_its_place(
    engine, settings
):
    file = await complete(engine.uploads)
    status = await engine.uploads.begin(request(DATA, "b.mrc", sha256=sha256(DATA)), owner="bob")
    assert (status.file_id, status.received) == (None, ())
    with pytest.raises(UploadIncomplete):
        await engine.uploads.complete(status.upload_id, owner="bob")
    with pytest.raises(UnknownObject):
        await engine.plan(JobConfig(source=Source(file_id=file.file_id), runner="steps"), owner="bob")
    await send(engine.uploads, status, DATA, owner="bob")
    copy = await engine.uploads.complete(status.upload_id, owner="bob")
    assert (copy.file_id, copy.filename) == (file.file_id, "b.mrc")
    assert len(stored(settings)[0]) == 1
    await engine.plan(JobConfig(source=Source(file_id=file.file_id), runner="steps"), owner="bob")


async def test_content_under_another_ending_has_a_place_of_its_own(uploads, settings):
    await complete(uploads)
    await complete(uploads, filename="a.map", owner="bob")
    assert sorted(key.rpartition(".")[2] for key in stored(settings)[0]) == ["map", "mrc"]


async def test_content_that_was_lost_is_taken_again(engine, settings):
    file = await complete(engine.uploads)
    [lost], _ = stored(settings)
    engine.storage.delete(lost)
    status = await engine.uploads.begin(request(DATA, sha256=sha256(DATA)), owner="ada")
    assert status.file_id is None
    await send(engine.uploads, status, DATA)
    assert await engine.uploads.complete(status.upload_id, owner="ada") == file
    await engine.plan(JobConfig(source=Source(file_id=file.file_id), runner="steps"), owner="ada")


@pytest.mark.parametrize(
    ("first", "name", "error"),
    [
        (b"\0" * PART, "a.mrc", CorruptFile),
        (PARTS[0][:12] + b"\x63\0\0\0" + PARTS[0][16:], "a.mrc", InputError),
        (b"PK" * (PART // 2), "a.zip", UnknownFormat),
        (
            b"NRRD0004\ntype: float\ndimension: 3\nsizes: 4 4 4\ndata file: /etc/passwd\n\n" + b"x" * PART,
            "a",
            InputError,
        ),
    ],
    ids=["zeros", "unknown mode", "no tomogram", "detached header"],
)
async def test_a_file_that_is_of_no_use_is_refused_at_its_first_part(uploads, settings, first, name, error):
    data = first[:PART] + DATA[PART:]
    status = await uploads.begin(request(data, name), owner="ada")
    await send(uploads, status, data, [1])
    with pytest.raises(error) as caught:
        await send_part(uploads, status, 0, data[:PART])
    assert stored(settings) == ([], 0)
    for call in (
        send_part(uploads, status, 2, data[2 * PART : 3 * PART]),
        uploads.complete(status.upload_id, owner="ada"),
        uploads.status(status.upload_id, owner="ada"),
    ):
        with pytest.raises(error, match=str(caught.value)[:20]):
            await call
    with pytest.raises(UnknownUpload):
        await uploads.status(status.upload_id, owner="bob")


async def test_a_file_that_is_shorter_than_its_header_says_is_refused_before_the_rest_is_sent(uploads):
    status = await uploads.begin(request(DATA[:-1]), owner="ada")
    with pytest.raises(TruncatedFile):
        await send_part(uploads, status, 0, PARTS[0])


async def test_a_reader_that_breaks_is_blamed_and_the_upload_stays(uploads, monkeypatch):
    def breaks(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("cryomamba_backends.formats.mrc.reader.parse_header", breaks)
    status = await uploads.begin(request(DATA), owner="ada")
    with pytest.raises(PluginFault, match="mrc"):
        await send_part(uploads, status, 0, PARTS[0])
    assert (await uploads.status(status.upload_id, owner="ada")).received == ()


async def test_a_status_is_plain_on_the_wire(uploads):
    status = await uploads.begin(request(DATA), owner="ada")
    plain = to_plain(status)
    assert plain["received"] == []
    assert plain["upload_id"] == status.upload_id

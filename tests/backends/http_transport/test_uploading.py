"""Files on their way to a server: what is sent, what is not, and what is noticed."""

import hashlib
import os

import httpx
import pytest
import servers
import trio
from proxies import open_proxy

from cryomamba_backends.http_transport.known_files import KnownFiles
from cryomamba_backends.http_transport.pace import Pace
from cryomamba_backends.http_transport.source_file import SourceFile
from cryomamba_backends.http_transport.uploading import PIECE, PartBody, Upload
from cryomamba_core.errors import InputError, InvalidParameter, MissingFile, SourceChanged

MIB = 1 << 20
PART = MIB
#: Headers and control requests of an upload.
OVERHEAD = 64 << 10


@pytest.fixture
async def server(tmp_path):
    async with servers.open_test_server(tmp_path / "data", part_size=PART) as server:
        yield server


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def uploads_of(server):
    """What the server's store knows of uploads that are not complete."""
    from cryomamba_server.engine.schema import uploads

    def look(database):
        with database.reading() as connection:
            return [row for row in connection.execute(uploads.select()).mappings() if row["file_id"] is None]

    engine = server.services.engine
    return await engine.ledger.call(look, engine.database)


def settle(path):
    """Make a file old enough to be remembered."""
    os.utime(path, ns=(10**18, 10**18))


async def test_every_byte_arrives_and_progress_never_falls(server, session_with, write_npy):
    path, told = write_npy(5 * PART + 4096), []
    async with session_with(server.url, server.token()) as session:
        sent = await session.upload(path, on_progress=lambda done, total: told.append((done, total)))
    assert (sent.name, sent.size, sent.sha256) == ("a.npy", path.stat().st_size, sha256(path))
    stored = next((server.settings.data_dir / "raw").glob("*.npy"))
    assert sha256(stored) == sent.sha256
    assert told == sorted(set(told))
    assert told[-1] == (sent.size, sent.size)
    assert len(told) > 5


@pytest.mark.parametrize("remembered", [True, False])
async def test_content_that_the_server_has_is_not_sent_again(server, session_with, write_npy, monkeypatch, remembered):
    if not remembered:
        monkeypatch.setattr(SourceFile, "fingerprint", lambda self: os.urandom(8).hex())
        monkeypatch.setattr(KnownFiles, "digest", lambda self, path, facts: None)
    path = write_npy(4 * PART)
    settle(path)
    async with open_proxy(server.url) as proxy:
        async with session_with(proxy.url, server.token()) as session:
            first = await session.upload(path)
            once = proxy.sent
            second = await session.upload(path)
        async with session_with(proxy.url, server.token()) as session:
            third = await session.upload(path)
    assert first == second == third
    assert (proxy.sent - once < OVERHEAD) is remembered


async def test_the_same_content_under_another_name_is_known_once_it_was_sent_under_it(
    server, session_with, write_npy, tmp_path
):
    path = write_npy(2 * PART)
    copy = tmp_path / "b.npy"
    copy.write_bytes(path.read_bytes())
    async with session_with(server.url, server.token()) as session:
        assert (await session.upload(path)).id == (await session.upload(copy)).id


async def test_a_file_that_is_written_to_while_it_is_sent_is_noticed_and_the_upload_dropped(
    server, session_with, write_npy
):
    path = write_npy(6 * PART)
    changed = []

    def change(done, total):
        if done > 2 * PART and not changed:
            changed.append(done)
            with path.open("r+b") as stream:
                stream.seek(5 * PART)
                stream.write(b"changed")

    async with session_with(server.url, server.token()) as session:
        with pytest.raises(SourceChanged, match="while it was sent") as caught:
            await session.upload(path, on_progress=change)
    assert "send it again" in caught.value.hint
    assert not await uploads_of(server)


@pytest.mark.parametrize("how", ["shorter", "longer"])
async def test_a_file_that_changes_its_length_is_noticed(server, session_with, write_npy, how):
    path = write_npy(6 * PART)
    size = {"shorter": 3 * PART, "longer": 7 * PART}[how]
    async with session_with(server.url, server.token()) as session:
        with pytest.raises(SourceChanged):
            await session.upload(path, on_progress=lambda done, total: os.truncate(path, size))


async def test_what_was_sent_before_a_cancellation_is_not_sent_again(server, session_with, write_npy):
    path = write_npy(8 * PART)
    async with open_proxy(server.url) as proxy:
        with trio.CancelScope() as scope:
            async with session_with(proxy.url, server.token()) as session:
                await session.upload(path, on_progress=lambda done, total: done > 4 * PART and scope.cancel())
        assert scope.cancelled_caught
        await proxy.until_idle()
        [upload] = await uploads_of(server)
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers()) as client:
            received = len((await client.get(f"/v1/uploads/{upload['id']}")).json()["received"])
        before = proxy.sent
        async with session_with(proxy.url, server.token()) as session:
            sent = await session.upload(path)
    assert received >= 2
    assert sent.sha256 == sha256(path)
    assert proxy.sent - before <= (8 - received) * PART + OVERHEAD


async def test_a_part_that_is_of_another_file_is_found_and_everything_sent_anew(server, session_with, write_npy):
    """The fingerprint is the same, the content is not: as if somebody had set a file's time back."""
    path = write_npy(40 * PART)
    facts = path.stat()
    with trio.CancelScope() as scope:
        async with session_with(server.url, server.token()) as session:
            await session.upload(path, on_progress=lambda done, total: done > 8 * PART and scope.cancel())
    with path.open("r+b") as stream:
        stream.seek(PART + PART // 2)
        stream.write(b"another")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    async with session_with(server.url, server.token()) as session:
        assert (await session.upload(path)).sha256 == sha256(path)
    assert not await uploads_of(server)


async def test_a_file_that_looks_like_one_that_was_sent_is_compared_by_its_content(server, session_with, write_npy):
    path = write_npy(40 * PART)
    facts = path.stat()
    async with session_with(server.url, server.token()) as session:
        first = await session.upload(path)
        with path.open("r+b") as stream:
            stream.seek(PART + PART // 2)
            stream.write(b"another")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        second = await session.upload(path)
    assert second.sha256 == sha256(path) != first.sha256


async def test_what_cannot_be_sent_is_refused(server, session_with, tmp_path, write_npy):
    empty, junk = tmp_path / "empty.npy", tmp_path / "junk.npy"
    empty.touch()
    junk.write_bytes(b"junk" * MIB)
    async with session_with(server.url, server.token()) as session:
        with pytest.raises(MissingFile):
            await session.upload(tmp_path / "nowhere.npy")
        with pytest.raises(InvalidParameter):
            await session.upload(empty)
        with pytest.raises(InputError):
            await session.upload(junk)
        with pytest.raises(MissingFile):
            await session.upload(tmp_path)
    assert not await uploads_of(server)


async def test_a_token_that_may_only_send_files_can_send_files(server, session_with, write_npy):
    async with session_with(server.url, server.token(scopes=("uploads:write",))) as session:
        assert (await session.upload(write_npy(2 * PART))).size == 2 * PART


async def test_two_clients_send_the_same_file_at_the_same_time(server, session_with, write_npy):
    path, sent = write_npy(6 * PART), []

    async def send():
        async with session_with(server.url, server.token()) as session:
            sent.append(await session.upload(path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(send)
    assert sent[0] == sent[1]


async def test_a_digest_that_is_remembered_wrongly_does_not_keep_a_file_from_being_sent(
    server, session_with, write_npy, monkeypatch
):
    monkeypatch.setattr(KnownFiles, "digest", lambda self, path, facts: "0" * 64)
    path = write_npy(3 * PART)
    async with session_with(server.url, server.token()) as session:
        assert (await session.upload(path)).sha256 == sha256(path)
    assert not await uploads_of(server)


def test_what_one_server_has_told_no_other_hears(tmp_path):
    path, file = tmp_path / "a", tmp_path / "known.json"
    path.write_bytes(b"abc")
    old = {"st_mtime_ns": 10**18, "st_ctime_ns": 10**18, "st_mtime": 10**9, "st_ctime": 10**9}
    facts = os.stat_result([*path.stat()], old)
    KnownFiles(file, server="http://one").note(path, facts, "digest")
    assert KnownFiles(file, server="http://one").digest(path, facts) == "digest"
    assert KnownFiles(file, server="http://two").digest(path, facts) is None


async def test_every_byte_leaves_once_whether_the_line_is_quick_or_slow(write_npy, autojump_clock):
    path = write_npy(11 * MIB)
    with SourceFile(path) as source:
        part = source.read(0, 16 * MIB)
    for pause in (0.0, 1.0, 0.0):
        pieces, told = [], []
        async for piece in PartBody(part, told.append):
            pieces.append(piece)
            await trio.sleep(pause)
        assert b"".join(pieces) == path.read_bytes()
        assert told == sorted({0, *told})
        assert (max(map(len, pieces)) <= PIECE) is (pause > 0)


def test_a_file_is_remembered_until_anything_about_it_changes(tmp_path):
    path, known = tmp_path / "a", KnownFiles(tmp_path / "cache" / "known.json")
    path.write_bytes(b"abc")
    known.note(path, path.stat(), "digest")
    assert known.digest(path, path.stat()) is None, "it may change again within the same tick of the clock"
    settle(path)
    facts = os.stat_result(
        [*path.stat()], {"st_mtime_ns": 10**18, "st_ctime_ns": 10**18, "st_mtime": 10**9, "st_ctime": 10**9}
    )
    known.note(path, facts, "digest")
    assert known.digest(path, facts) == "digest"
    assert known.digest(path, path.stat()) is None
    (tmp_path / "cache" / "known.json").write_text("{")
    assert known.digest(path, facts) is None


def test_a_fingerprint_tells_files_apart_by_size_time_and_samples(tmp_path):
    def fingerprint(data, time=10**18):
        path = tmp_path / "a"
        path.write_bytes(data)
        os.utime(path, ns=(time, time))
        with SourceFile(path) as source:
            return source.fingerprint()

    one = fingerprint(b"a" * MIB)
    assert fingerprint(b"a" * MIB) == one
    others = [
        fingerprint(b"a" * (MIB - 1)),
        fingerprint(b"b" + b"a" * (MIB - 1)),
        fingerprint(b"a" * (MIB - 1) + b"b"),
        fingerprint(b"a" * MIB, 10**18 + 1),
    ]
    assert len({one, *others}) == 5


async def test_more_parts_travel_while_that_makes_the_whole_faster_and_fewer_after_a_failure(autojump_clock):
    async def simulate(pace, parts, useful):
        """Parts take the longer the more of them travel, from `useful` on."""
        busy = 0

        async def travel():
            nonlocal busy
            busy += 1
            await trio.sleep(max(1, busy / useful))
            busy -= 1
            pace.leave(PART)

        async with trio.open_nursery() as nursery:
            for _ in range(parts):
                await pace.enter()
                nursery.start_soon(travel)

    wide, narrow = Pace(8), Pace(8)
    await simulate(wide, 300, useful=8)
    await simulate(narrow, 60, useful=2)
    assert wide.allowed >= 7
    assert narrow.allowed <= 4
    wide.failed()
    assert wide.allowed <= 4
    for _ in range(5):
        wide.failed()
    assert wide.allowed == 1


async def test_memory_holds_only_the_parts_that_travel(server, session_with, write_npy, monkeypatch):
    alive, most = set(), []
    read, send = SourceFile.read, Upload._send_part

    def counted_read(self, index, part_size):
        alive.add(index)
        most.append(len(alive))
        return read(self, index, part_size)

    async def counted_send(self, pace, status, part, arrived):
        await send(self, pace, status, part, arrived)
        alive.discard(part.index)

    monkeypatch.setattr(SourceFile, "read", counted_read)
    monkeypatch.setattr(Upload, "_send_part", counted_send)
    async with session_with(server.url, server.token()) as session:
        await session.upload(write_npy(32 * PART))
    assert max(most) <= 9


async def test_what_the_server_has_already_is_told_apart_from_what_is_sent(server, session_with, write_npy):
    path = write_npy(8 * PART)
    async with open_proxy(server.url) as proxy:
        async with session_with(proxy.url, server.token()) as session:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.upload, path)
                    await proxy.until(lambda: proxy.sent > 4 * PART)
                    scope.cancel()
        assert len(await uploads_of(server)) == 1
        told, known = [], []
        async with session_with(proxy.url, server.token()) as session:
            await session.upload(
                path,
                on_progress=lambda done, total: told.append((done, total)),
                on_known=lambda there, total: known.append((there, total)),
            )
    [(there, total)] = known
    assert total == path.stat().st_size
    assert there % PART == 0
    assert PART <= there < total
    assert told[0] == (there, total), "what is there already does not count into the rate"
    assert told == sorted(set(told))
    assert told[-1] == (total, total)

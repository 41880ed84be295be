"""What the client receives from a server that means harm, and what such a server does not get to hear."""

import hashlib
import json
import struct
import zlib
from contextlib import aclosing, asynccontextmanager, suppress

import numpy as np
import pytest
import trio
from attrs import evolve
from scripted import answer, good, scripted

from cryomamba_backends.http_transport import messages, transport
from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import BrokenProtocol, CryoMambaError, InvalidParameter, StorageDamaged
from cryomamba_core.events import Completed, PreviewReady
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.jobs import JobConfig, JobRecord, JobState, Source
from cryomamba_core.previews import Preview, PreviewCompanion
from cryomamba_core.protocol.jobs import JobView
from cryomamba_core.protocol.live import event_to_frame, event_to_json
from cryomamba_core.wire import to_plain
from cryomamba_server.engine.records import now

JOB_ID = "01900000-0000-7000-8000-000000000000"
CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NO_WEBSOCKET = answer(426, b"")


def job(**changed):
    """A completed job as JSON types; what is `changed` is so in its artifact."""
    artifact = Artifact(name="mask.mrc", media_type="x/y", size=len(CONTENT), sha256=DIGEST, url="/v1/files/j/mask.mrc")
    record = JobRecord(
        id=JOB_ID,
        owner="eve",
        state=JobState.COMPLETED,
        config=JobConfig(source=Source(file_id="x")),
        created_at=now(),
        artifacts=(artifact,),
    )
    plain = to_plain(JobView.of(record))
    plain["artifacts"][0].update(changed)
    return plain


def content(data=CONTENT, status=200, **headers):
    return answer(status, data, Content_Type="application/octet-stream", **headers)


def events(*messages):
    """An answer that is a stream of events."""
    return answer(200, b"".join(b"data: " + each + b"\n\n" for each in messages), Content_Type="text/event-stream")


GRID = VoxelGrid(shape=(2, 2, 2), voxel_size=(20, 20, 20))


def preview_event(shape=(2, 2, 2), companions=(), **changed):
    preview = Preview.pack(
        np.zeros((2, 2, 2), np.uint8),
        sequence=1,
        factor=2,
        grid=GRID,
        covered=Region.of_shape((4, 4, 4)),
        provisional=True,
        companions=tuple(companions),
    )
    plain = json.loads(event_to_json(PreviewReady(seq=1, at=now(), preview=preview)))
    return json.dumps({**plain, "shape": list(shape), **changed})


def files_in(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "/etc/passwd"},
        {"name": "../mask.mrc"},
        {"name": "a\\b"},
        {"name": ".."},
        {"name": ""},
        {"name": ".profile"},
        {"name": "a\u0000b"},
        {"name": "x" * 300},
        {"name": 7},
        {"sha256": "../../x"},
        {"sha256": ""},
        {"size": -1},
    ],
)
async def test_an_artifact_that_is_none_is_a_broken_protocol_in_every_answer(session_with, tmp_path, changed):
    completed = to_plain(Completed(seq=1, at=now(), artifacts=()))
    heard = json.dumps({**completed, "type": "completed", "artifacts": job(**changed)["artifacts"]}).encode()
    asks = {
        "job": (good(job(**changed)), lambda session: session.job(JOB_ID)),
        "jobs": (good({"jobs": [job(**changed)], "next_before": None}), lambda session: session.jobs()),
        "cancel": (good(job(**changed)), lambda session: session.cancel(JOB_ID)),
        "download": (good(job(**changed)), lambda session: session.download(JOB_ID, "mask.mrc", tmp_path / "new")),
    }
    for said, ask in asks.values():
        async with scripted(said) as (url, _), session_with(url) as session:
            with pytest.raises(BrokenProtocol) as caught:
                await ask(session)
            assert len(caught.value.message) < 1000
    async with scripted(NO_WEBSOCKET, events(heard)) as (url, _), session_with(url) as session:
        with pytest.raises(BrokenProtocol):
            await hear(session)
    assert not (tmp_path / "new").exists()


async def hear(session):
    async with aclosing(session.events(JOB_ID)) as stream:
        return [event async for event in stream]


async def test_an_answer_of_values_that_cannot_be_is_a_broken_protocol(session_with):
    plain = job()
    plain["config"]["source"] = {"file_id": None, "path": None}
    async with scripted(good(plain)) as (url, _), session_with(url) as session:
        with pytest.raises(BrokenProtocol):
            await session.job(JOB_ID)


async def test_what_is_said_of_an_answer_does_not_quote_all_of_it(session_with):
    async with scripted(good({"jobs": [], "next_before": ["x" * 1_000_000]})) as (url, _), session_with(url) as session:
        with pytest.raises(BrokenProtocol) as caught:
            await session.jobs()
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("target", ["https://evil.example/v1/files/j/mask.mrc", "{elsewhere}/v1/files/j/mask.mrc"])
async def test_an_address_on_another_host_is_fetched_from_the_server_itself(session_with, tmp_path, target):
    async with scripted(content()) as (elsewhere, asked_there):
        told = good(job(url=target.format(elsewhere=elsewhere)))
        async with scripted(told, content()) as (url, asked), session_with(url, "the-token") as session:
            await session.download(JOB_ID, "mask.mrc", tmp_path / "mask.mrc")
    assert (tmp_path / "mask.mrc").read_bytes() == CONTENT
    assert asked_there == []
    assert [b"the-token" in request for request in asked] == [True, False]


@pytest.mark.parametrize("target", ["https://evil.example/", "/v1/files/\u0000", "/v1/files/a\nb"])
async def test_an_address_that_is_none_is_a_broken_protocol(session_with, tmp_path, target):
    async with scripted(good(job(url=target))) as (url, asked), session_with(url) as session:
        with pytest.raises(BrokenProtocol, match="no address for"):
            await session.download(JOB_ID, "mask.mrc", tmp_path / "mask.mrc")
    assert len(asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirection_is_followed_for_files_or_events(session_with, tmp_path, status):
    async with scripted(content()) as (elsewhere, asked_there):
        sent_on = answer(status, b"", Location=f"{elsewhere}/v1/files/j/mask.mrc")
        async with scripted(good(job()), sent_on) as (url, _), session_with(url, "the-token") as session:
            with pytest.raises(BrokenProtocol, match="sends on to"):
                await session.download(JOB_ID, "mask.mrc", tmp_path / "mask.mrc")
        async with scripted(sent_on) as (url, _), session_with(url, "the-token") as session:
            with pytest.raises(BrokenProtocol, match="sends on to"):
                await hear(session)
    assert asked_there == []


@pytest.mark.parametrize("protected", [True, False])
async def test_a_token_with_the_end_of_a_line_is_refused_and_not_quoted(session_with, monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(transport, "_require_token", lambda credentials: None)
    async with scripted(good()) as (url, asked):
        for token in ("the-token\r", "the-token\n", "the token", "the-t\u00f6ken", ""):
            with pytest.raises(InvalidParameter) if protected else suppress(CryoMambaError, UnicodeEncodeError):
                async with session_with(url, token) as session:
                    await session.jobs()
        with pytest.raises(InvalidParameter if protected else BrokenProtocol) as caught:
            async with session_with(url, "the-token\n") as session:
                await session.jobs()
        said = f"{caught.value!r} {caught.value.hint} {caught.exconly()}"
        assert ("the-token" in said) is not protected
        assert protected is (asked == [])


@asynccontextmanager
async def endless(first, head):
    """A server that answers as `first`, and then with a body that never ends."""

    async def talk(stream):
        async with stream:
            await stream.receive_some()
            await stream.send_all(first)
            if await stream.receive_some():
                await stream.send_all(head)
                try:
                    while True:
                        await stream.send_all(bytes(1 << 16))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    over.set()

    over = trio.Event()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(talk, 0, host="127.0.0.1", task_status=task_status)
        )
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", over
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("length", [b"Connection: close", b"Content-Length: 1000000000000"])
async def test_a_body_that_is_longer_than_the_artifact_is_given_up_at_once(session_with, tmp_path, length):
    folder = tmp_path / "folder"
    folder.mkdir()
    head = b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n"
    with trio.fail_after(30):
        async with endless(good(job()), head) as (url, over), session_with(url) as session:
            with pytest.raises(BrokenProtocol, match="more of mask"):
                await session.download(JOB_ID, "mask.mrc", folder / "mask.mrc")
            await over.wait()
    assert all(size <= len(CONTENT) for size in files_in(folder).values())
    assert "mask.mrc" not in files_in(folder)


async def test_an_endless_answer_is_given_up(session_with, monkeypatch):
    monkeypatch.setattr("cryomamba_backends.http_transport.connection.MAX_ANSWER", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    with trio.fail_after(30):
        async with endless(good(), head) as (url, over), session_with(url) as session:
            await session.jobs()
            with pytest.raises(BrokenProtocol, match="larger than"):
                await session.jobs()
            await over.wait()


async def test_the_rest_of_a_file_is_asked_for_by_its_digest_and_judged_with_what_was_there(session_with, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    half, size = len(CONTENT) // 2, len(CONTENT)
    (folder / f".mask.mrc.{DIGEST[:12]}.part").write_bytes(bytes(half))
    rest = content(CONTENT[half:], 206, Content_Range=f"bytes {half}-{size - 1}/{size}")
    async with scripted(good(job()), rest, content()) as (url, asked), session_with(url) as session:
        await session.download(JOB_ID, "mask.mrc", folder / "mask.mrc")
    assert f'If-Range: "sha256-{DIGEST}"'.lower().encode() in asked[1].lower()
    assert f"Range: bytes={half}-".lower().encode() in asked[1].lower()
    assert b"range:" not in asked[2].lower()
    assert (folder / "mask.mrc").read_bytes() == CONTENT


async def test_content_that_is_not_what_the_job_made_is_not_kept(session_with, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    async with scripted(good(job()), content(CONTENT[::-1])) as (url, _), session_with(url) as session:
        with pytest.raises(StorageDamaged):
            await session.download(JOB_ID, "mask.mrc", folder / "mask.mrc")
    assert files_in(folder) == {}


def companion(shape=(2, 2, 2), values=range(8), factor=2, label=None):
    payload = zlib.compress(bytes(values))
    return PreviewCompanion(name="doubt", factor=factor, grid=evolve(GRID, shape=shape), payload=payload, label=label)


BOMBS = [
    {"shape": (1 << 20, 1 << 20, 1 << 20)},
    {"shape": (1024, 1024, 513)},
    {"shape": (1024, 1024, 257), "dtype": "uint16"},
    {"dtype": "float64"},
    {"dtype": "O"},
    {"dtype": "V1000000000"},
    {"dtype": "(100000000,)u1"},
    {"factor": 0},
    {"factor": -1},
    {"companions": [companion((1 << 20, 1 << 20, 1 << 20))]},
    {"companions": [companion(factor=0)]},
]


@pytest.mark.parametrize("changed", BOMBS)
async def test_a_preview_that_claims_to_be_enormous_is_refused_before_anybody_unpacks_it(session_with, changed):
    event = preview_event(**changed).encode()
    async with scripted(NO_WEBSOCKET, events(event)) as (url, _), session_with(url) as session:
        with pytest.raises(BrokenProtocol, match="preview"):
            await hear(session)


@pytest.mark.parametrize("protected", [True, False])
def test_a_preview_of_any_size_that_can_be_is_heard(monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(messages, "_require_size", lambda preview: None)
        assert messages.heard(preview_event(**BOMBS[0])).preview.grid.voxels == 1 << 60
    assert messages.heard(preview_event((1024, 1024, 512))).preview.grid.shape == (1024, 1024, 512)
    event = messages.heard(preview_event())
    assert messages.heard(event_to_frame(event)) == event
    assert event.preview.labels().shape == (2, 2, 2)


def test_companions_of_a_preview_are_heard_in_both_kinds_of_messages():
    pair = [companion(), companion(values=[7] * 8, label=3)]
    event = messages.heard(preview_event(companions=pair))
    assert event.preview.companions == tuple(pair)
    assert event.preview.companions[0].values().ravel().tolist() == list(range(8))
    assert messages.heard(event_to_frame(event)) == event


@pytest.mark.parametrize("sizes", [[1000], [-1], ["1"], [None]])
def test_companions_that_do_not_fit_their_frame_are_a_broken_protocol(sizes):
    frame = event_to_frame(messages.heard(preview_event(companions=[companion()])))
    (length,) = struct.unpack_from("<I", frame)
    header = json.loads(frame[4 : 4 + length])
    for entry, size in zip(header["companions"], sizes, strict=True):
        entry["size"] = size
    changed = json.dumps(header).encode()
    with pytest.raises(BrokenProtocol):
        messages.heard(struct.pack("<I", len(changed)) + changed + frame[4 + length :])


@pytest.mark.parametrize("message", ["[" * 100_000, b"\xff\xff\xff\x7f", b"", "{}", '{"type": "preview"}', "7"])
def test_a_message_that_is_none_is_a_broken_protocol(message):
    with pytest.raises(BrokenProtocol):
        messages.heard(message)

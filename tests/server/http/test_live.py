"""A job's events as they come: heard by stock WebSocket clients and by curl."""

import json
import shutil
import ssl
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from subprocess import PIPE, run
from urllib.parse import urlsplit

import engines
import httpx
import numpy as np
import pytest
import trio
import websocket
from engines import ExecutorPlugin, ScriptedExecutor, steps
from servers import open_test_server
from sockets import hear, open_socket
from trio_websocket import ConnectionClosed, ConnectionRejected

from cryomamba_core.protocol.live import BINARY_PROTOCOL, JSON_PROTOCOL, event_of
from cryomamba_core.wire import to_plain
from cryomamba_server.http import audience, connection, event_stream, serving

NOWHERE = "00000000-0000-7000-8000-000000000000"

#: Workers make a preview, wait for the file ``go``, make another, and complete.
TALK = """
import numpy
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.previews import Preview
def show(sequence, value, provisional):
    labels = numpy.full((2, 3, 4), value, numpy.uint8)
    grid = VoxelGrid(shape=labels.shape, voxel_size=(10, 10, 10))
    values = dict(sequence=sequence, factor=1, grid=grid, covered=grid.whole, provisional=provisional)
    log.preview(Preview.pack(labels, **values))
log.progress("segmenting", 1, 2, "tiles")
show(1, 7, True)
while not (directory.path / 'go').exists() and not directory.cancel_ordered: time.sleep(0.01)
if directory.cancel_ordered: sys.exit(EXIT_CANCELED)
show(2, 9, False)
"""
END = "log.completed((make('stats.json', '{}'),))"


class Scene:
    """A server with a running job that has shown its first preview."""

    def __init__(self, server, client, job_id):
        self.server, self.client, self.job_id = server, client, job_id
        self.headers = server.headers()

    @property
    def url(self):
        return self.server.url.replace("http", "ws", 1) + f"/v1/ws/jobs/{self.job_id}"

    def websocket(self, url=None, headers=None, **values):
        return open_socket(url or self.url, headers or self.headers, **values)

    async def curl(self, *words, after="", events=None):
        address = events or f"{self.server.url}/v1/jobs/{self.job_id}/events{after}"
        words = ["curl", "--silent", "--show-error", "--no-buffer", *words, address]
        words += ["--header", f"Authorization: {self.headers['Authorization']}"]
        done = await trio.to_thread.run_sync(
            partial(run, words, stdout=PIPE, timeout=engines.DEADLINE), abandon_on_cancel=True
        )
        return done.stdout.decode()

    def go(self):
        folder = self.server.settings.jobs_dir / self.job_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go").touch()

    async def until_there_are(self, listeners):
        with trio.fail_after(engines.DEADLINE):
            while self.server.services.engine.following.listeners != listeners:
                await trio.sleep(0.01)


@asynccontextmanager
async def opened(tmp_path, tomogram, script=TALK + END, **values):
    executor = ScriptedExecutor(script)
    try:
        async with (
            open_test_server(tmp_path / "data", ExecutorPlugin(executor), allow_roots=(tmp_path,), **values) as server,
            httpx.AsyncClient(base_url=server.url, headers=server.headers(), verify=False) as client,
        ):
            job_id = (await client.post("/v1/jobs", json=to_plain(steps(tomogram)))).json()["job_id"]
            await engines.heard(server.services.engine, job_id, until=lambda event: event.type == "preview")
            yield Scene(server, client, job_id)
    finally:
        executor.stop()


@pytest.fixture
async def scene(tmp_path, tomogram):
    async with opened(tmp_path, tomogram) as scene:
        yield scene


def is_preview(message):
    return json.loads(message)["type"] == "preview"


async def test_a_stock_client_hears_a_job_to_its_end(scene):
    async with scene.websocket() as connection:
        assert connection.subprotocol is None
        early, _ = await hear(connection, until=is_preview)
        scene.go()
        late, code = await hear(connection)
    heard = [json.loads(message) for message in early + late]
    numbers = [message["seq"] for message in heard]
    assert code == 1000
    assert numbers == sorted(set(numbers))
    states = [message["state"] for message in heard if message["type"] == "state"]
    assert states == ["queued", "running", "previewing"]
    preview = json.loads(early[-1])
    assert {
        "seq",
        "type",
        "factor",
        "shape",
        "dtype",
        "voxel_size",
        "origin",
        "provisional",
        "encoding",
        "payload",
    } <= set(preview)
    assert (preview["shape"], preview["dtype"], preview["provisional"]) == ([2, 3, 4], "uint8", True)
    assert [message["type"] for message in heard if message["type"] in ("completed", "error")] == ["completed"]


async def test_what_is_completed_says_where_it_is(scene):
    scene.go()
    async with scene.websocket() as connection:
        messages, _ = await hear(connection)
    artifact = json.loads(messages[-1])["artifacts"][0]
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.get(artifact["url"])).content == b"{}"
    assert artifact["url_expires_at"]


async def test_both_sub_protocols_say_the_same(scene):
    scene.go()
    await engines.heard(scene.server.services.engine, scene.job_id)
    heard = {}
    for protocol in (JSON_PROTOCOL, BINARY_PROTOCOL):
        async with scene.websocket(subprotocols=["other", protocol]) as connection:
            assert connection.subprotocol == protocol
            heard[protocol] = await hear(connection)
    texts, frames = heard[JSON_PROTOCOL][0], heard[BINARY_PROTOCOL][0]
    assert all(isinstance(text, str) for text in texts)
    assert all(isinstance(frame, bytes) for frame in frames)
    without_addresses = [event_of(message) for message in texts[:-1]]
    assert without_addresses == [event_of(message) for message in frames[:-1]]
    last = [event for event in without_addresses if event.type == "preview"][-1]
    assert np.unique(last.preview.labels()).tolist() == [9]


async def test_a_listener_that_says_where_it_was_hears_the_rest_once(scene):
    async with scene.websocket() as connection:
        early, _ = await hear(connection, until=is_preview)
    scene.go()
    after = json.loads(early[-1])["seq"]
    async with scene.websocket(f"{scene.url}?after={after}") as connection:
        late, code = await hear(connection)
    numbers = [json.loads(message)["seq"] for message in early + late]
    assert code == 1000
    assert numbers == sorted(set(numbers))
    states = [message["seq"] for message in map(json.loads, early + late) if message["type"] in ("state", "completed")]
    async with scene.websocket() as connection:
        again, _ = await hear(connection)
    assert states == [
        json.loads(message)["seq"] for message in again if json.loads(message)["type"] in ("state", "completed")
    ]
    async with scene.websocket(f"{scene.url}?after={numbers[-1]}") as connection:
        assert await hear(connection) == ([], 1000)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"headers": {"Authorization": "Bearer nonsense"}}, 401, "access/unauthenticated"),
        ({"subject": "bob"}, 404, "job/unknown"),
        ({"scopes": ("artifacts:read",)}, 403, "access/forbidden"),
        ({"job": NOWHERE}, 404, "job/unknown"),
        ({"query": "?after=x"}, 400, "request/malformed"),
        ({"query": "?after=-1"}, 400, "request/malformed"),
        ({"query": "?after=1&after=2"}, 400, "request/malformed"),
        ({"query": "?since=1"}, 400, "request/malformed"),
    ],
)
async def test_who_may_not_listen_is_told_so_before_the_socket_opens(scene, change, status, code):
    access = {name: change[name] for name in ("subject", "scopes") if name in change}
    headers = change.get("headers") or scene.server.headers(**access)
    url = scene.url.replace(scene.job_id, change.get("job", scene.job_id)) + change.get("query", "")
    with pytest.raises(ConnectionRejected) as refused:
        async with scene.websocket(url, headers):
            pass
    assert refused.value.status_code == status
    assert json.loads(refused.value.body)["error"]["code"] == code
    events = f"{scene.server.url}/v1/jobs/{change.get('job', scene.job_id)}/events{change.get('query', '')}"
    answer = await scene.client.get(events, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_listener_without_a_token_is_refused(scene):
    with pytest.raises(ConnectionRejected) as refused:
        async with open_socket(scene.url):
            pass
    assert refused.value.status_code == 401


async def test_a_quiet_listener_is_pinged(tmp_path, tomogram, monkeypatch):
    monkeypatch.setattr(serving, "PING_SECONDS", 0.05)
    async with opened(tmp_path, tomogram) as scene:

        def count_pings():
            client = websocket.create_connection(scene.url, header=scene.headers, timeout=engines.DEADLINE)
            pings = 0
            while pings < 3:
                pings += client.recv_data_frame(control_frame=True)[0] == websocket.ABNF.OPCODE_PING
            client.close()
            return pings

        assert await trio.to_thread.run_sync(count_pings) == 3
        await scene.until_there_are(0)


async def test_what_clients_say_is_not_listened_to(scene):
    async with scene.websocket() as connection:
        await hear(connection, until=is_preview)
        for message in ("hello", b"\x00" * 4096, "", b""):
            await connection.send_message(message)
        scene.go()
        messages, code = await hear(connection)
    assert (json.loads(messages[-1])["type"], code) == ("completed", 1000)


@pytest.mark.parametrize("size", [audience.MOST_HEARD + 1, serving.MAX_MESSAGE + 1, 8 << 20])
async def test_a_client_that_says_too_much_is_sent_away(scene, size):
    async with scene.websocket() as connection:
        await hear(connection, until=is_preview)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk():
                with suppress(ConnectionClosed):
                    await connection.send_message(b"x" * size)

            _, code = await hear(connection)
    assert code == 1009
    await scene.until_there_are(0)


@contextmanager
def bare(scene, **values):
    """A client whose frames a test makes itself, for use in a thread."""
    client = websocket.create_connection(scene.url, header=scene.headers, timeout=engines.DEADLINE, **values)
    try:
        yield client
    finally:
        client.shutdown()


def until_frame(client, *opcodes):
    """The next frame of one of these kinds."""
    while (answer := client.recv_data_frame(control_frame=True))[0] not in opcodes:
        pass
    return answer[0], answer[1].data


@pytest.mark.parametrize(("pieces", "is_fine"), [((2048, 2048), True), ((2048, 2048, 1), False)])
async def test_a_message_in_pieces_counts_as_one(scene, pieces, is_fine):
    def talk():
        with bare(scene) as client:
            until_frame(client, websocket.ABNF.OPCODE_TEXT)
            for index, size in [*enumerate(pieces)] * 2:
                code = websocket.ABNF.OPCODE_CONT if index else websocket.ABNF.OPCODE_BINARY
                client.send_frame(websocket.ABNF.create_frame(b"x" * size, code, int(index == len(pieces) - 1)))
            client.ping("still there?")
            return until_frame(client, *([websocket.ABNF.OPCODE_PONG] if is_fine else [websocket.ABNF.OPCODE_CLOSE]))

    _, data = await trio.to_thread.run_sync(talk)
    assert data.startswith(b"still there?" if is_fine else (1009).to_bytes(2, "big"))
    await scene.until_there_are(0)


async def test_a_client_that_does_not_speak_websocket_is_told_so(scene):
    def talk():
        with bare(scene) as client:
            until_frame(client, websocket.ABNF.OPCODE_TEXT)
            client.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return until_frame(client, websocket.ABNF.OPCODE_CLOSE)[1]

    assert (await trio.to_thread.run_sync(talk)).startswith((1002).to_bytes(2, "big"))
    await scene.until_there_are(0)


async def test_a_client_that_does_not_answer_the_last_word_is_let_go(scene, monkeypatch):
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)

    def listen():
        with bare(scene) as client:
            scene.go()
            return b"".join(iter(lambda: client.sock.recv(1 << 16), b""))

    last = b"\x88\x02" + (1000).to_bytes(2, "big")
    assert (await trio.to_thread.run_sync(listen)).endswith(last)


async def test_a_client_that_answers_no_pings_is_forgotten(scene, monkeypatch):
    monkeypatch.setattr(connection, "PING_SECONDS", 0.1)

    def stay():
        with bare(scene) as client:
            while client.sock.recv(1 << 16):
                pass

    await trio.to_thread.run_sync(stay)
    await scene.until_there_are(0)


async def test_listeners_hear_the_same_under_tls(tmp_path, tomogram):
    def listen(scene):
        with bare(scene, sslopt={"cert_reqs": ssl.CERT_NONE}) as client:
            messages = []
            while (answer := client.recv_data(control_frame=True))[0] != websocket.ABNF.OPCODE_CLOSE:
                messages.append(json.loads(answer[1]))
                if messages[-1]["type"] == "preview":
                    scene.go()
            return messages, answer[1]

    async with opened(tmp_path, tomogram, self_signed=True) as scene:
        messages, reason = await trio.to_thread.run_sync(listen, scene)
        assert (messages[-1]["type"], reason[:2]) == ("completed", (1000).to_bytes(2, "big"))
        await scene.until_there_are(0)


async def test_a_client_that_leaves_is_forgotten(scene):
    async with scene.websocket() as connection:
        await hear(connection, until=is_preview)
        await scene.until_there_are(1)
    await scene.until_there_are(0)
    with trio.socket.socket() as rude:
        address = scene.server.url.rpartition("/")[2].split(":")
        await rude.connect((address[0], int(address[1])))
        await rude.send(
            f"GET /v1/ws/jobs/{scene.job_id} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: {scene.headers['Authorization']}\r\n\r\n".encode()
        )
        assert b" 101 " in await rude.recv(20)
        await scene.until_there_are(1)
    await scene.until_there_are(0)


async def test_listeners_of_a_server_that_stops_are_told_to_come_back(scene):
    codes, streams = [], []
    async with scene.websocket() as connection, trio.open_nursery() as nursery:
        await hear(connection, until=is_preview)

        @nursery.start_soon
        async def stream():
            streams.append(await scene.curl())

        await scene.until_there_are(2)
        scene.server.services.stopping.set()
        codes.append((await hear(connection))[1])
    assert codes == [1012]
    assert streams[0].startswith("retry: ")


async def test_a_listener_of_a_job_that_is_tried_again_hears_of_it(tmp_path, tomogram):
    async with opened(tmp_path, tomogram) as scene:
        await scene.client.delete(f"/v1/jobs/{scene.job_id}")
        async with scene.websocket() as connection:
            before, code = await hear(connection)
        assert (json.loads(before[-1])["state"], code) == ("canceled", 1000)
        await scene.client.post(f"/v1/jobs/{scene.job_id}/retry")
        scene.go()
        async with scene.websocket(f"{scene.url}?after={json.loads(before[-1])['seq']}") as connection:
            after, code = await hear(connection)
        assert (json.loads(after[0])["state"], json.loads(after[-1])["type"], code) == ("queued", "completed", 1000)


async def test_many_listeners_cost_one_look_at_the_store(scene, monkeypatch):
    store = scene.server.services.engine.ledger.store
    looks, look = [], store.events_behind
    monkeypatch.setattr(store, "events_behind", lambda *args, **values: looks.append(1) or look(*args, **values))
    ended = []

    async def listen(task_status):
        async with scene.websocket() as connection:
            await hear(connection, until=is_preview)
            task_status.started()
            ended.append((await hear(connection))[0])

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            await nursery.start(listen)
        await scene.until_there_are(30)
        looks.clear()
        while len(looks) < 5:
            await trio.sleep(0.01)
        assert len(scene.server.services.engine.following._followers) == 1
        scene.go()
    assert len({tuple(map(strip_addresses, messages))[-1] for messages in ended}) == 1
    assert len(looks) < 30


def strip_addresses(message):
    plain = json.loads(message)
    for artifact in plain.get("artifacts", ()):
        del artifact["url"], artifact["url_expires_at"]
    return json.dumps(plain)


# Server-Sent Events.


def parse(text):
    """Events as the HTML standard reads them: (id, event, data)."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


@needs_curl
async def test_curl_hears_the_same_as_server_sent_events(scene):
    scene.go()
    text = await scene.curl("--include")
    head, _, body = text.partition("\r\n\r\n")
    assert "content-type: text/event-stream" in head.lower()
    assert "cache-control: no-cache" in head.lower()
    assert "x-accel-buffering: no" in head.lower()
    events = parse(body)
    assert all((number, kind) == (str(data["seq"]), data["type"]) for number, kind, data in events)
    async with scene.websocket() as connection:
        messages, _ = await hear(connection)
    stable = [number for number, kind, _ in events if kind in ("state", "completed")]
    assert stable == [str(each["seq"]) for each in map(json.loads, messages) if each["type"] in ("state", "completed")]


@needs_curl
async def test_a_browser_that_reconnects_goes_on_where_it_was(scene):
    scene.go()
    events = parse(await scene.curl())
    last = events[-1][0]
    middle = events[1][0]
    rest = parse(await scene.curl("--header", f"Last-Event-ID: {middle}", after="?after=0"))
    assert rest[-1][0] == last
    assert int(rest[0][0]) > int(middle)
    assert parse(await scene.curl(after=f"?after={middle}"))[-1][0] == last
    nothing = await scene.curl("--header", f"Last-Event-ID: {last}", "--write-out", "%{http_code}")
    assert nothing == "204"


async def test_a_quiet_stream_shows_that_it_is_there(scene, monkeypatch):
    monkeypatch.setattr(event_stream, "COMMENT_INTERVAL", 0.02)
    address = urlsplit(scene.server.url)
    request = (
        f"GET /v1/jobs/{scene.job_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {scene.headers['Authorization']}"
    )
    async with await trio.open_tcp_stream(address.hostname, address.port) as stream:
        await stream.send_all(f"{request}\r\n\r\n".encode())
        text = b""
        with trio.fail_after(engines.DEADLINE):
            while text.count(b": still here") < 3:
                text += await stream.receive_some()
            scene.go()
            while b"event: completed" not in text:
                text += await stream.receive_some()
    await scene.until_there_are(0)


async def test_asking_for_the_headers_alone_ends_at_once(scene):
    answer = await scene.client.head(f"/v1/jobs/{scene.job_id}/events")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    await scene.until_there_are(0)

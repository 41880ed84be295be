"""Uploads over HTTP, by httpx and by curl, on a real server; and what must not come in."""

import gzip
import json
import socket
import struct
import subprocess
from contextlib import asynccontextmanager

import engines
import httpx
import pytest
import trio
from servers import open_test_server
from uploading import PART, digest, mrc_bytes, sha256, split

from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_backends.formats.nifti import plugin as nifti
from cryomamba_backends.formats.nrrd import plugin as nrrd

DATA = mrc_bytes()
PARTS = split(DATA)


@asynccontextmanager
async def opened(tmp_path, **serving):
    values = {"part_size": PART, **serving}
    async with open_test_server(tmp_path / "data", mrc, nifti, nrrd, **values) as server:
        yield server


@pytest.fixture
async def server(tmp_path):
    async with opened(tmp_path) as server:
        yield server


@asynccontextmanager
async def client(server, subject="ada"):
    headers = server.headers(subject=subject)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=engines.DEADLINE) as made:
        yield made


@pytest.fixture
async def ada(server):
    async with client(server) as made:
        yield made


async def begin(made, data=DATA, filename="a.mrc", **values):
    answer = await made.post("/v1/uploads/init", json={"filename": filename, "size": len(data), **values})
    assert answer.status_code == 201, answer.text
    return answer.json()["upload_id"]


async def put(made, upload_id, index, part, **headers):
    headers = {"Content-Digest": digest(part), **headers}
    return await made.put(f"/v1/uploads/{upload_id}/part/{index}", content=part, headers=headers)


async def send(made, upload_id, data=DATA):
    for index, part in enumerate(split(data)):
        answer = await put(made, upload_id, index, part)
        assert answer.status_code == 200, answer.text


def refused(answer, status, code):
    """Whether an answer is an error in our envelope, with a hint."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert error["message"]
    return True


async def test_a_file_is_sent_in_parts_and_completed(ada):
    answer = await ada.post("/v1/uploads/init", json={"filename": "a.mrc", "size": len(DATA), "fingerprint": "f"})
    begun = answer.json()
    assert answer.status_code == 201
    assert (begun["part_size"], begun["part_count"], begun["received"]) == (PART, len(PARTS), [])
    address = f"/v1/uploads/{begun['upload_id']}"
    answer = await put(ada, begun["upload_id"], 0, PARTS[0])
    assert answer.json() == {"upload_id": begun["upload_id"], "index": 0, "size": PART, "sha256": sha256(PARTS[0])}
    assert (await ada.get(address)).json()["received"] == [0]
    assert (
        await ada.post("/v1/uploads/init", json={"filename": "a.mrc", "size": len(DATA), "fingerprint": "f"})
    ).json()["received"] == [0]
    await send(ada, begun["upload_id"])
    answer = await ada.post(f"{address}/complete")
    file = answer.json()
    assert (answer.status_code, file["file_id"], file["size"]) == (200, sha256(DATA), len(DATA))
    assert (await ada.post(f"{address}/complete")).json() == file
    known = await ada.post("/v1/uploads/init", json={"filename": "b.mrc", "size": len(DATA), "sha256": sha256(DATA)})
    assert (known.status_code, known.json()["file_id"]) == (200, file["file_id"])
    assert refused(await put(ada, begun["upload_id"], 0, PARTS[0]), 409, "upload/conflict")


async def test_curl_alone_sends_a_file(server, tmp_path):
    data = mrc_bytes(7, (17, 40, 20))
    path = tmp_path / "a.mrc"
    path.write_bytes(data)
    shown = f"Authorization: Bearer {server.token()}"

    def curl(*words, method="POST"):
        command = ["curl", "-sS", "--fail-with-body", "-X", method, "-H", shown]
        done = subprocess.run([*command, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def send_all():
        whole = json.dumps({"filename": "a.mrc", "size": len(data)})
        begun = curl(f"{server.url}/v1/uploads/init", "--json", whole)
        address = f"{server.url}/v1/uploads/{begun['upload_id']}"
        for index, part in enumerate(split(data, begun["part_size"])):
            part_path = tmp_path / "part"
            part_path.write_bytes(part)
            words = ("-H", f"Content-Digest: {digest(part)}", "--data-binary", f"@{part_path}")
            curl(f"{address}/part/{index}", *words, method="PUT")
        return curl(f"{address}/complete", "-H", f"Repr-Digest: {digest(data)}")

    file = await trio.to_thread.run_sync(send_all)
    assert file["file_id"] == sha256(data)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "junk",
        "sha-256=:AAAA:",
        f"sha-256=:{'A' * 43}=: junk",
        "sha-512=:AAAA:",
    ],
    ids=str,
)
async def test_a_part_without_a_digest_that_can_be_read_is_malformed(ada, header):
    upload_id = await begin(ada)
    headers = {} if header is None else {"Content-Digest": header}
    answer = await ada.put(f"/v1/uploads/{upload_id}/part/0", content=PARTS[0], headers=headers)
    assert refused(answer, 400, "request/malformed")


async def test_a_digest_may_stand_among_others(ada):
    upload_id = await begin(ada)
    headers = [("Content-Digest", "md5=:AAAA:"), ("Content-Digest", digest(PARTS[0]))]
    answer = await ada.put(f"/v1/uploads/{upload_id}/part/0", content=PARTS[0], headers=headers)
    assert answer.status_code == 200


async def test_a_part_of_unknown_length_is_not_taken(ada):
    async def chunks():
        yield PARTS[0]

    upload_id = await begin(ada)
    headers = {"Content-Digest": digest(PARTS[0])}
    answer = await ada.put(f"/v1/uploads/{upload_id}/part/0", content=chunks(), headers=headers)
    assert refused(answer, 411, "request/length-required")
    assert (await put(ada, upload_id, 0, PARTS[0])).status_code == 200


async def test_a_wrong_part_is_refused(ada):
    upload_id = await begin(ada)
    assert refused(await put(ada, upload_id, 0, PARTS[0] + b"x"), 422, "upload/part")
    assert refused(await put(ada, upload_id, 0, PARTS[0][:-1]), 422, "upload/part")
    assert refused(await put(ada, upload_id, len(PARTS), PARTS[0]), 422, "upload/part")
    assert refused(await put(ada, upload_id, 0, PARTS[0], **{"Content-Digest": digest(b"")}), 422, "upload/part")
    assert refused(await put(ada, upload_id, "-1", PARTS[0]), 404, "request/unknown-address")
    assert refused(await put(ada, upload_id, "x", PARTS[0]), 404, "request/unknown-address")
    assert refused(await put(ada, "nonsense", 0, PARTS[0]), 404, "upload/unknown")
    assert refused(await ada.post(f"/v1/uploads/{upload_id}/complete"), 409, "upload/incomplete")
    assert (await put(ada, upload_id, 1, PARTS[1])).status_code == 200
    assert (await put(ada, upload_id, 1, PARTS[1])).status_code == 200
    assert refused(await put(ada, upload_id, 1, PARTS[2]), 409, "upload/conflict")
    assert (await ada.get(f"/v1/uploads/{upload_id}")).json()["received"] == [1]


async def test_a_part_far_too_large_is_refused_before_it_is_sent(server, ada):
    """Nothing reads it: the answer comes while the client has sent its headers only."""
    upload_id = await begin(ada)
    host, port = server.url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        head = (
            f"PUT /v1/uploads/{upload_id}/part/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n"
            f"Authorization: Bearer {server.token()}\r\nContent-Digest: {digest(b'')}\r\n\r\n"
        )
        await stream.send_all(head.encode())
        with trio.fail_after(engines.DEADLINE):
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 422 ")


async def test_the_announced_digest_of_the_whole_decides(ada):
    upload_id = await begin(ada, sha256="0" * 64)
    await send(ada, upload_id)
    assert refused(await ada.post(f"/v1/uploads/{upload_id}/complete"), 409, "upload/conflict")
    upload_id = await begin(ada)
    await send(ada, upload_id)
    address = f"/v1/uploads/{upload_id}/complete"
    assert refused(await ada.post(address, headers={"Repr-Digest": digest(b"")}), 409, "upload/conflict")
    assert refused(await ada.post(address, headers={"Repr-Digest": "junk"}), 400, "request/malformed")
    assert (await ada.post(address, headers={"Repr-Digest": digest(DATA)})).status_code == 200


async def test_an_upload_is_dropped_on_demand(ada):
    upload_id = await begin(ada)
    answer = await ada.delete(f"/v1/uploads/{upload_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert refused(await ada.delete(f"/v1/uploads/{upload_id}"), 404, "upload/unknown")
    assert refused(await ada.get(f"/v1/uploads/{upload_id}"), 404, "upload/unknown")


async def test_another_owner_finds_nothing(server, ada):
    upload_id = await begin(ada, sha256=sha256(DATA))
    async with client(server, "bob") as bob:
        address = f"/v1/uploads/{upload_id}"
        assert refused(await bob.get(address), 404, "upload/unknown")
        assert refused(await put(bob, upload_id, 0, PARTS[0]), 404, "upload/unknown")
        assert refused(await bob.post(f"{address}/complete"), 404, "upload/unknown")
        assert refused(await bob.delete(address), 404, "upload/unknown")
        await send(ada, upload_id)
        await ada.post(f"{address}/complete")
        whole = {"filename": "a.mrc", "size": len(DATA), "sha256": sha256(DATA)}
        answer = await bob.post("/v1/uploads/init", json=whole)
        assert (answer.status_code, answer.json()["file_id"]) == (201, None)
        job = {"source": {"file_id": sha256(DATA)}, "runner": "steps"}
        assert refused(await bob.post("/v1/jobs/plan", json=job), 404, "storage/unknown-object")


@pytest.mark.parametrize("name", ["../a.mrc", "/etc/passwd", "a/b.mrc", "a\\b.mrc", "a\0.mrc", "..", "x" * 256])
async def test_a_name_that_leaves_its_folder_is_refused(ada, name):
    body = json.dumps({"filename": name, "size": 1})
    answer = await ada.post("/v1/uploads/init", content=body, headers={"Content-Type": "application/json"})
    assert refused(answer, 422, "input/invalid-parameter")


@pytest.mark.parametrize("size", [0, -1, 1 << 53, 1e30])
async def test_a_size_that_no_file_has_is_refused(ada, size):
    answer = await ada.post("/v1/uploads/init", json={"filename": "a.mrc", "size": size, "fingerprint": "f"})
    assert refused(answer, 422, "input/invalid-parameter")


@pytest.mark.parametrize(("serving", "code"), [({"quota_bytes": 10}, "quota"), ({"reserve_bytes": 1 << 60}, "full")])
async def test_where_there_is_no_room_the_status_is_507(tmp_path, serving, code):
    async with opened(tmp_path, **serving) as server, client(server) as ada:
        answer = await ada.post("/v1/uploads/init", json={"filename": "a.mrc", "size": len(DATA)})
        assert refused(answer, 507, f"storage/{code}")
        assert ("Retry-After" in answer.headers) is (code == "full")


async def test_an_owner_whose_parts_do_not_come_does_not_keep_others_waiting(tmp_path):
    async with opened(tmp_path, parallel_parts=2) as server, client(server) as ada, client(server, "bob") as bob:
        upload_id = await begin(ada)
        host, port = server.url.removeprefix("http://").split(":")
        stalled = [socket.create_connection((host, int(port))) for _ in range(4)]
        for index, connection in enumerate(stalled):
            head = (
                f"PUT /v1/uploads/{upload_id}/part/{index} HTTP/1.1\r\nHost: x\r\nContent-Length: {PART}\r\n"
                f"Authorization: Bearer {server.token()}\r\nContent-Digest: {digest(PARTS[index])}\r\n\r\n"
            )
            connection.sendall(head.encode() + PARTS[index][:100])
        theirs = await begin(bob)
        await send(bob, theirs)
        assert (await bob.post(f"/v1/uploads/{theirs}/complete")).status_code == 200
        for connection in stalled:
            connection.close()
        await send(ada, upload_id)
        assert (await ada.post(f"/v1/uploads/{upload_id}/complete")).status_code == 200


def mrc_header(*, shape=(4, 4, 4), mode=2, nsymbt=0, size=4096):
    """An MRC file that claims what it likes."""
    data = bytearray(size)
    struct.pack_into("<10i", data, 0, *shape, mode, 0, 0, 0, *shape)
    struct.pack_into("<6f", data, 40, 40, 40, 40, 90, 90, 90)
    struct.pack_into("<3i", data, 64, 1, 2, 3)
    struct.pack_into("<i", data, 92, nsymbt)
    data[208:216] = b"MAP DD\0\0"
    return bytes(data)


def nifti_bomb():
    """A small ``.nii.gz`` that claims, and has, a thousand times its size."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 1024, 1024, 512, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + bytes(32 << 20))


HOSTILE = {
    "huge.mrc": mrc_header(shape=(2**31 - 1,) * 3),
    "negative.mrc": mrc_header(shape=(-1, 4, 4)),
    "empty.mrc": mrc_header(shape=(0, 0, 0)),
    "claims-13-gb.mrc": mrc_header(shape=(1500, 1500, 1500)),
    "extended-header.mrc": mrc_header(nsymbt=2**31 - 1),
    "negative-extended-header.mrc": mrc_header(nsymbt=-4096),
    "complex.mrc": mrc_header(mode=4),
    "unknown-mode.mrc": mrc_header(mode=77),
    "other-file.nrrd": b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n"
    b"data file: ../../../../etc/passwd\n\n",
    "list-of-files.nrrd": b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n"
    b"data file: LIST\n/etc/passwd\n\n",
    "bomb.nii.gz": nifti_bomb(),
    "page.mrc.html": b"<!DOCTYPE html><title>Sign in</title>",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_is_refused_at_its_first_part_and_nothing_of_it_stays(server, ada, name):
    data = HOSTILE[name]
    upload_id = await begin(ada, data, name)
    answer = await put(ada, upload_id, 0, split(data)[0])
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"].startswith("input/")
    assert answer.json()["error"]["hint"]
    assert not list((server.settings.data_dir / "raw" / "+partial").iterdir())
    again = await ada.get(f"/v1/uploads/{upload_id}")
    assert again.json()["error"]["code"] == answer.json()["error"]["code"]

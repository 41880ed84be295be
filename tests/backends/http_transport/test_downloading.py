"""Artifacts on their way here, where something else goes wrong than the line."""

import hashlib

import pytest
import servers
from small_disks import small_disk_at

from cryomamba_backends.http_transport.partial_file import PartialFile
from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import (
    BrokenProtocol,
    Forbidden,
    OutputExists,
    StorageDamaged,
    StorageError,
    StorageFull,
    UnknownObject,
)
from cryomamba_core.jobs import JobConfig, Source

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def artifact_of(content, name="mask.mrc"):
    return Artifact(
        name=name, media_type="application/octet-stream", size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


async def finished_job(session, path):
    sent = await session.upload(path)
    job = await session.submit(JobConfig(source=Source(file_id=sent.id), runner="steps"))
    async for _ in session.events(job.id):
        pass
    return job


async def test_an_address_that_expires_is_asked_for_again(tmp_path, session_with, write_npy, monkeypatch):
    from cryomamba_server.http.access.addresses import Addresses
    from cryomamba_server.http.access.addresses import invalid_address as expired

    check, refused = Addresses.check, []

    def check_later(self, method, job_id, name, query):
        if not refused:
            refused.append(query)
            raise expired()
        return check(self, method, job_id, name, query)

    monkeypatch.setattr(Addresses, "check", check_later)
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        session_with(server.url, server.token()) as session,
    ):
        job = await finished_job(session, write_npy(100_000))
        await session.download(job.id, "mask.npy", tmp_path / "mask.npy")
    assert refused
    assert (tmp_path / "mask.npy").stat().st_size == 100_000


async def test_what_a_record_says_of_its_artifacts_is_not_asked_for_again(
    tmp_path, session_with, write_npy, monkeypatch
):
    from cryomamba_server.http.access.gate import Gate

    asked, admit = [], Gate.admit

    def watch(self, route, request):
        asked.append(route.rule)
        return admit(self, route, request)

    async with (
        servers.open_test_server(tmp_path / "data") as server,
        session_with(server.url, server.token()) as session,
    ):
        job = await finished_job(session, write_npy(10_000))
        record = await session.job(job.id)
        monkeypatch.setattr(Gate, "admit", watch)
        for artifact in record.artifacts:
            await session.download(job.id, artifact, tmp_path / artifact.name)
        assert len(record.artifacts) > 1
        assert {rule.split("<")[0] for rule in asked} == {"/v1/files/"}
        await session.download(job.id, "mask.npy", tmp_path / "again.npy")
        assert "/v1/jobs/<string:job_id>" in asked


async def test_a_token_without_the_scope_is_told_so_when_there_is_no_address(tmp_path, session_with, write_npy):
    async with servers.open_test_server(tmp_path / "data") as server:
        scopes = ("jobs:read", "jobs:write", "uploads:write")
        async with session_with(server.url, server.token(scopes=scopes)) as session:
            job = await finished_job(session, write_npy(10_000))
            record = await session.job(job.id)
            for artifact in ("mask.npy", *record.artifacts):
                with pytest.raises(Forbidden, match="artifacts:read") as caught:
                    await session.download(job.id, artifact, tmp_path / "mask.npy")
                assert "token" in caught.value.hint
    assert not list(tmp_path.glob("*mask.npy*"))


async def test_the_token_does_not_travel_with_a_signed_address(tmp_path, session_with, write_npy, monkeypatch):
    from cryomamba_server.http.access.gate import Gate

    seen, admit = [], Gate.admit

    def watch(self, route, request):
        seen.append((route.rule, "Authorization" in request.headers))
        return admit(self, route, request)

    monkeypatch.setattr(Gate, "admit", watch)
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        session_with(server.url, server.token()) as session,
    ):
        job = await finished_job(session, write_npy(10_000))
        await session.download(job.id, "mask.npy", tmp_path / "mask.npy")
    files = {carried for rule, carried in seen if rule.startswith("/v1/files/")}
    others = {carried for rule, carried in seen if not rule.startswith("/v1/files/")}
    assert (files, others) == ({False}, {True})


async def test_what_does_not_exist_or_would_be_replaced_is_refused(tmp_path, session_with, write_npy):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        session_with(server.url, server.token()) as session,
    ):
        job = await finished_job(session, write_npy(10_000))
        for target in (mine, link):
            with pytest.raises(OutputExists):
                await session.download(job.id, "mask.npy", target)
        with pytest.raises(UnknownObject, match=r"mask\.mrc"):
            await session.download(job.id, "mask.mrc", tmp_path / "new")
        with pytest.raises(StorageError):
            await session.download(job.id, "mask.npy", tmp_path / "no" / "such" / "folder")
    assert mine.read_text() == "mine"


async def test_a_server_that_sends_something_else_is_found_out(tmp_path, session_with, write_npy):
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        session_with(server.url, server.token()) as session,
    ):
        job = await finished_job(session, write_npy(100_000))
        [stored] = (server.settings.data_dir / "artifacts").rglob("*mask.npy")
        stored.chmod(0o600)
        with stored.open("r+b") as stream:
            stream.write(b"something else")
        with pytest.raises((StorageDamaged, BrokenProtocol)):
            await session.download(job.id, "mask.npy", tmp_path / "mask.npy")
    assert not list(tmp_path.glob("*mask.npy*"))


def test_a_partial_file_goes_on_where_it_was_and_is_hidden_until_it_is_whole(folder):
    artifact, target = artifact_of(CONTENT), folder / "mask.mrc"
    first = PartialFile(artifact, target)
    first.append(CONTENT[:1000])
    first.close()
    assert [path.name[0] for path in folder.iterdir()] == ["."]
    second = PartialFile(artifact, target)
    assert (second.size, second.resumed, second.whole()) == (1000, True, False)
    second.append(CONTENT[1000:])
    second.publish()
    second.close()
    assert [path.name for path in folder.iterdir()] == ["mask.mrc"]
    assert target.read_bytes() == CONTENT


def test_a_partial_file_of_other_content_is_not_continued(folder):
    first = PartialFile(artifact_of(CONTENT), folder / "mask.mrc")
    first.append(b"old")
    first.close()
    second = PartialFile(artifact_of(CONTENT[1:]), folder / "mask.mrc")
    assert second.size == 0
    second.close()


def test_two_do_not_write_into_the_same_partial_file(folder):
    artifact, target = artifact_of(CONTENT), folder / "mask.mrc"
    first = PartialFile(artifact, target)
    with pytest.raises(OutputExists, match="another process"):
        PartialFile(artifact, target)
    first.append(CONTENT)
    first.publish()
    first.close()
    assert target.read_bytes() == CONTENT


def test_a_name_that_is_taken_meanwhile_is_not_replaced(folder):
    file = PartialFile(artifact_of(CONTENT), folder / "mask.mrc")
    file.append(CONTENT)
    (folder / "mask.mrc").write_text("mine")
    with pytest.raises(OutputExists):
        file.publish()
    file.close()
    assert (folder / "mask.mrc").read_text() == "mine"


def test_wrong_content_leaves_nothing(folder):
    file = PartialFile(artifact_of(CONTENT), folder / "mask.mrc")
    file.append(CONTENT[::-1])
    with pytest.raises(StorageDamaged):
        file.publish()
    file.close()
    assert list(folder.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB."""
    with small_disk_at(tmp_path / "disk", 16) as folder:
        yield folder


async def test_a_disk_that_is_full_is_said_so_and_left_as_it_was(small_disk, tmp_path, session_with, write_npy):
    async with (
        servers.open_test_server(tmp_path / "data") as server,
        session_with(server.url, server.token()) as session,
    ):
        path = write_npy(20 << 20)
        path.write_bytes(path.read_bytes()[:4096] + bytes((20 << 20) - 4096))
        job = await finished_job(session, path)
        with pytest.raises(StorageFull, match="no room") as caught:
            await session.download(job.id, "mask.npy", small_disk / "mask.npy")
        assert "another folder" in caught.value.hint
        assert list(small_disk.iterdir()) == []
        await session.download(job.id, "mask.npy", tmp_path / "mask.npy")

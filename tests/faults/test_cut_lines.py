"""Lines that are cut, stall or die with the client or the server: nothing is lost, and little is sent twice."""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import aclosing

import engines
import numpy as np
import pytest
import servers
import trio
from proxies import open_proxy

from cryomamba_backends.http_transport import downloading
from cryomamba_backends.http_transport.live import Listener
from cryomamba_backends.http_transport.partial_file import PartialFile
from cryomamba_backends.http_transport.patience import Patience
from cryomamba_backends.http_transport.source_file import SourceFile
from cryomamba_backends.http_transport.transport import HttpTransport
from cryomamba_core.errors import CryoMambaError, ServerUnreachable
from cryomamba_core.events import Completed, Failed, StateChanged
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.settings import Settings

MIB = 1 << 20
PART = 8 * MIB
#: Headers, control requests, and acknowledgements.
OVERHEAD = 128 << 10
PATIENT = Patience(first=5, control=30, long=60, silence=20)
HASTY = Patience(first=0, control=0, long=0, silence=20)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def open_session(url, token, patience=PATIENT):
    return HttpTransport(Settings(), patience).open(url, Credentials(token=token))


def write_npy(path, size, seed=1, *, signs=False):
    """A tomogram of about so many bytes; with `signs` its labels are such as nothing compresses well."""
    voxels = np.random.default_rng(seed).integers(-128, 128, (4, 256, (size - 128) // 1024), dtype=np.int8)
    if not signs:
        voxels[:, 16:] |= -128
    np.save(path, voxels)
    return path


async def start_job(url, token, path):
    async with open_session(url, token) as session:
        sent = await session.upload(path)
        preview = PreviewPolicy(interval_seconds=0)
        return await session.submit(JobConfig(source=Source(file_id=sent.id), runner="steps", preview=preview))


async def hear(session, job_id):
    with trio.fail_after(engines.DEADLINE):
        async with aclosing(session.events(job_id)) as events:
            return [event async for event in events]


async def send_somehow(url, token, path, patience):
    """Send a file, from a new session each time that it fails."""
    while True:
        try:
            async with open_session(url, token, patience) as session:
                return await session.upload(path)
        except CryoMambaError:
            await trio.sleep(0)


@pytest.mark.parametrize("protected", [True, False])
async def test_a_line_that_is_cut_at_any_mib_of_a_part_costs_no_more_than_that_part(tmp_path, monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(SourceFile, "fingerprint", lambda _: uuid.uuid4().hex)
    patience = PATIENT if protected else HASTY
    cuts = range(1, 9) if protected else [4]
    async with servers.open_test_server(tmp_path / "data", part_size=PART, parallel_parts=1) as server:
        for cut in cuts:
            path = write_npy(tmp_path / f"{cut}.npy", 3 * PART, seed=cut)
            async with open_proxy(server.url) as proxy:
                fault = proxy.fail("cut", after=2 * PART + cut * MIB)
                sent = await send_somehow(proxy.url, server.token(), path, patience)
            assert fault.struck
            assert sent.size == path.stat().st_size
            assert (proxy.sent - sent.size <= PART + OVERHEAD) is protected


@pytest.mark.parametrize("protected", [True, False])
async def test_a_line_that_stalls_in_a_part_is_given_up_for_another(tmp_path, protected):
    path = write_npy(tmp_path / "a.npy", 3 * PART)
    patience = Patience(first=5, long=60, silence=0.5 if protected else 3600)
    async with servers.open_test_server(tmp_path / "data", part_size=PART) as server, open_proxy(server.url) as proxy:
        fault = proxy.fail("stall", after=PART + MIB)
        async with open_session(proxy.url, server.token(), patience) as session:
            with trio.move_on_after(engines.DEADLINE if protected else 3) as waiting:
                assert (await session.upload(path)).size == path.stat().st_size
        assert fault.struck
        assert waiting.cancelled_caught is not protected


@pytest.mark.parametrize("protected", [True, False])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path, monkeypatch, protected, restarted):
    if not protected:
        monkeypatch.setattr(downloading, "_continues", lambda *_: False)
    target, told = tmp_path / "mask.npy", []
    async with servers.open_test_server(tmp_path / "data", part_size=PART) as server:
        job = await start_job(server.url, server.token(), write_npy(tmp_path / "a.npy", 2 * PART))
        async with open_session(server.url, server.token()) as session:
            await hear(session, job.id)
            [mask] = [each for each in (await session.job(job.id)).artifacts if each.name == "mask.npy"]
        async with open_proxy(server.url) as proxy:
            faults = [proxy.fail("end", up=False, after=mask.size // 2), proxy.fail("end", up=False, after=3 * MIB)]
            while not target.exists():
                async with open_session(proxy.url, server.token(), HASTY if restarted else PATIENT) as session:
                    try:
                        await session.download(
                            job.id, "mask.npy", target, on_progress=lambda done, total: told.append((done, total))
                        )
                    except ServerUnreachable:
                        assert restarted
            assert all(fault.struck for fault in faults)
            assert (proxy.received - mask.size <= OVERHEAD) is protected
    np.testing.assert_array_equal(np.load(target), np.load(tmp_path / "a.npy") > 0)
    assert told[-1] == (mask.size, mask.size)
    assert [path.name for path in tmp_path.glob(".mask*")] == []


@pytest.mark.parametrize("protected", [True, False])
async def test_what_a_crash_made_of_a_partial_file_does_not_come_into_the_result(tmp_path, monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(PartialFile, "sound", lambda _: True)
    target = tmp_path / "mask.npy"
    async with servers.open_test_server(tmp_path / "data", part_size=PART) as server:
        job = await start_job(server.url, server.token(), write_npy(tmp_path / "a.npy", PART))
        async with open_session(server.url, server.token()) as session:
            await hear(session, job.id)
            [mask] = [each for each in (await session.job(job.id)).artifacts if each.name == "mask.npy"]
            (tmp_path / f".mask.npy.{mask.sha256[:12]}.part").write_bytes(bytes(MIB))
            await session.download(job.id, "mask.npy", target)
    expected = np.load(tmp_path / "a.npy") > 0
    assert (target.read_bytes()[128:] == expected.astype(np.uint8).tobytes()) is protected


@pytest.mark.parametrize("protected", [True, False])
async def test_events_that_are_cut_within_a_preview_arrive_once(tmp_path, monkeypatch, protected):
    if not protected:

        def take(self, event):
            self.mailbox.put(event)

        monkeypatch.setattr(Listener, "_take", take)
    async with servers.open_test_server(tmp_path / "data", part_size=PART) as server:
        job = await start_job(server.url, server.token(), write_npy(tmp_path / "a.npy", MIB, signs=True))
        async with open_proxy(server.url) as proxy, open_session(proxy.url, server.token()) as session:
            async with open_session(server.url, server.token()) as direct:
                whole = await hear(direct, job.id)
            faults = [proxy.fail("end", up=False, after=after) for after in (8 << 10, 32 << 10, 64 << 10)]
            events = await hear(session, job.id)
        assert all(fault.struck for fault in faults)
    numbers = [event.seq for event in events]
    assert (numbers == sorted(set(numbers))) is protected
    if protected:
        lasting = (StateChanged, Completed, Failed)
        assert [each.seq for each in events if isinstance(each, lasting)] == [
            each.seq for each in whole if isinstance(each, lasting)
        ]
        assert any(len(each.preview.payload) > 64 << 10 for each in events if getattr(each, "preview", None))


@pytest.mark.parametrize("protected", [True, False])
async def test_a_client_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch, protected):
    """A file that was written to in the meantime is another one, and sent from its beginning."""
    path = write_npy(tmp_path / "a.npy", 48 * MIB)
    environment = {**os.environ, "CRYOMAMBA_DATA_DIR": str(tmp_path / "client"), "CRYOMAMBA_CONFIG": ""}
    async with servers.open_test_server(tmp_path / "data", part_size=MIB) as server, open_proxy(server.url) as proxy:
        environment["CRYOMAMBA_TOKEN"] = server.token()
        words = [sys.executable, "-m", "cryomamba_core", "segment", path, "--runner", "steps", "--server", proxy.url]
        words += ["--out", tmp_path / "out"]

        async def run():
            return await trio.run_process(words, env=environment, capture_stderr=True, check=False)

        client = await trio.lowlevel.open_process(words, env=environment, stderr=subprocess.DEVNULL)
        await proxy.until(lambda: proxy.sent > 24 * MIB)
        client.send_signal(signal.SIGKILL)
        await client.wait()
        await proxy.until_idle()
        if not protected:
            os.utime(path)
        again = await run()
        assert again.returncode == 0, again.stderr.decode()
        assert (proxy.sent - path.stat().st_size <= 9 * MIB + OVERHEAD) is protected
    assert np.array_equal(np.load(tmp_path / "out" / "a.mask.npy"), np.load(path) > 0)


@pytest.mark.parametrize("protected", [True, False])
async def test_a_server_that_is_killed_in_an_upload_is_waited_for(tmp_path, protected):
    path = write_npy(tmp_path / "a.npy", 64 * MIB)
    killed = []
    with servers.ServerProcess(tmp_path / "data") as server:

        async def kill():
            await trio.to_thread.run_sync(server.kill)
            if protected:
                await trio.to_thread.run_sync(server.restart)

        async with (
            trio.open_nursery() as nursery,
            open_session(server.url, server.token(), PATIENT if protected else HASTY) as session,
        ):

            def on_progress(done, total):
                if done > total / 2 and not killed:
                    killed.append(done)
                    nursery.start_soon(kill)

            try:
                sent = await session.upload(path, on_progress=on_progress)
            except ServerUnreachable:
                assert not protected
            else:
                assert protected
                assert sent.size == path.stat().st_size
    assert killed

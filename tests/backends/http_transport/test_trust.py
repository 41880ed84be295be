"""Whom the client believes, and what it says to whom."""

import ssl
import subprocess
from contextlib import suppress

import pytest
import servers
import trio

from cryomamba_backends.http_transport.pinning import tls_context
from cryomamba_core.errors import BrokenProtocol, Forbidden, InvalidParameter, ServerUnreachable, ServerUntrusted
from cryomamba_core.events import Completed
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.protocol.addresses import fingerprint_of

OTHER = "ab" * 32


@pytest.fixture
async def secure_server(tmp_path):
    async with servers.open_test_server(tmp_path / "data", self_signed=True) as server:
        assert server.url.startswith("https://")
        yield server


async def test_a_pinned_certificate_is_enough_for_questions_files_and_events(
    secure_server, session_with, write_npy, tmp_path
):
    async with session_with(secure_server.url, secure_server.token(), fingerprint=secure_server.fingerprint) as session:
        sent = await session.upload(write_npy(100_000))
        job = await session.submit(JobConfig(source=Source(file_id=sent.id), runner="steps"))
        assert isinstance([event async for event in session.events(job.id)][-1], Completed)
        await session.download(job.id, "mask.npy", tmp_path / "mask.npy")


async def test_the_fingerprint_is_the_one_that_openssl_sees(secure_server):
    host, _, port = secure_server.url.removeprefix("https://").rpartition(":")
    pem = await trio.to_thread.run_sync(ssl.get_server_certificate, (host, int(port)))
    words = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    seen = subprocess.run(words, input=pem, capture_output=True, text=True, check=True).stdout
    assert seen.strip().rpartition("=")[2].replace(":", "").lower() == secure_server.fingerprint


async def test_another_certificate_is_refused_with_what_was_found(secure_server, session_with):
    async with session_with(secure_server.url, secure_server.token(), fingerprint=OTHER) as session:
        with pytest.raises(ServerUntrusted, match=f"sha256:{secure_server.fingerprint}") as caught:
            await session.server_info()
        assert caught.value.fingerprint == secure_server.fingerprint
        with pytest.raises(ServerUntrusted):
            await anext(session.events("00000000-0000-7000-8000-000000000000"))


async def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_way_to_pin_it(secure_server, session_with):
    async with session_with(secure_server.url, secure_server.token()) as session:
        with pytest.raises(ServerUntrusted, match="nobody vouches") as caught:
            await session.server_info()
        assert f"cryomamba login {secure_server.url} --fingerprint" in caught.value.hint
        assert caught.value.fingerprint == secure_server.fingerprint
        with pytest.raises(ServerUntrusted, match="nobody vouches"):
            await anext(session.events("00000000-0000-7000-8000-000000000000"))


@pytest.fixture
async def eavesdropper(tmp_path):
    """A server that shows a certificate of its own and notes what it is told."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    heard = []

    async def listen(stream):
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            while data := await secured.receive_some():
                heard.append(bytes(data))
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(listen, 0, host="127.0.0.1", task_status=task_status)
        )
        yield f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}", heard
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protected", [True, False])
async def test_an_eavesdropper_hears_no_byte_of_a_request(eavesdropper, session_with, monkeypatch, protected):
    url, heard = eavesdropper
    if not protected:
        monkeypatch.setattr("cryomamba_backends.http_transport.pinning.fingerprint_of", lambda certificate: OTHER)
    async with session_with(url, "the-token", fingerprint=OTHER) as session:
        for question in (session.server_info, lambda: anext(session.events("0"))):
            with trio.move_on_after(0.5) as waiting, suppress(ServerUntrusted):
                await question()
            assert waiting.cancelled_caught is not protected
    assert (b"the-token" in b"".join(heard)) is not protected


async def test_who_is_vouched_for_by_nobody_hears_no_byte_and_shows_its_certificate(eavesdropper, session_with):
    url, heard = eavesdropper
    async with session_with(url, "the-token") as session:
        with pytest.raises(ServerUntrusted, match="nobody vouches") as caught:
            await session.server_info()
    host, _, port = url.removeprefix("https://").rpartition(":")
    pem = await trio.to_thread.run_sync(ssl.get_server_certificate, (host, int(port)))
    assert caught.value.fingerprint == fingerprint_of(ssl.PEM_cert_to_DER_cert(pem))
    assert heard == []


async def test_a_token_does_not_travel_unencrypted_to_another_computer(session_with, caplog):
    with pytest.raises(ServerUntrusted, match="unencrypted to gpu7") as caught:
        session_with("http://gpu7:8765", "the-token")
    assert "CRYOMAMBA_ALLOW_PLAIN_HTTP" in caught.value.hint
    async with session_with("http://gpu7:8765", "the-token", allow_plain_http=True):
        assert "not encrypted" in caplog.text
    async with session_with("http://localhost:8765", "the-token"):
        pass


def test_a_fingerprint_for_plain_http_is_a_mistake(session_with):
    with pytest.raises(InvalidParameter, match="no certificate"):
        session_with("http://localhost:8765", fingerprint=OTHER)


async def test_https_to_a_server_that_speaks_http_is_said_so(tmp_path, session_with):
    async with servers.open_test_server(tmp_path / "data") as server:
        secure = session_with(server.url.replace("http:", "https:"), fingerprint=OTHER)
        async with secure as session:
            with pytest.raises(BrokenProtocol, match="TLS"):
                await session.server_info()


async def test_http_to_a_server_that_speaks_https_is_no_success(secure_server, session_with):
    async with session_with(secure_server.url.replace("https:", "http:"), "t") as session:
        with pytest.raises((BrokenProtocol, ServerUnreachable)):
            await session.server_info()


def test_contexts_are_never_shared_and_speak_one_protocol():
    assert tls_context(None) is not tls_context(None)
    assert tls_context(None).verify_mode is ssl.CERT_REQUIRED
    assert tls_context(None).check_hostname


async def test_a_token_is_in_no_error_and_no_representation(tmp_path, session_with, caplog):
    caplog.set_level("DEBUG", "cryomamba_backends")
    async with servers.open_test_server(tmp_path / "data") as server:
        token = server.token(scopes=("uploads:write",))
        async with session_with(server.url, token) as session:
            with pytest.raises(Forbidden) as caught:
                await session.jobs()
            shown = "".join((repr(caught.value), repr(vars(session)), caught.exconly(), caplog.text))
            assert token not in shown

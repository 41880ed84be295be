"""How a server starts, what it says of itself, why it does not start, and how it ends."""

import json
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import time
import urllib.request

import engines
import pytest
import servers
import trio

from cryomamba_core.errors import InvalidParameter, ServerUnusable
from cryomamba_server.http import sockets, tls
from cryomamba_server.http.settings import ServeSettings, load_serve_settings
from cryomamba_server.http.sockets import elsewhere, here, is_loopback, listen

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def pair(tmp_path):
    """A certificate and its key, by openssl."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", key, "-out", certificate)
    return certificate, key


def refused(tmp_path, **serving):
    with pytest.raises(ServerUnusable) as caught:
        tls.open_identity(tmp_path / "data", ServeSettings(**serving))
    assert caught.value.hint
    return caught.value.message


@needs_openssl
async def test_a_certificate_from_files_is_shown_and_only_tls_is_spoken(tmp_path, pair):
    certificate, key = pair
    async with servers.open_test_server(tmp_path / "data", certificate=certificate, private_key=key) as server:
        port = int(server.url.rpartition(":")[2])
        context = ssl.create_default_context(cafile=certificate)

        def ask():
            with urllib.request.urlopen(f"{server.url}/v1/healthz", context=context, timeout=60) as answer:
                return json.load(answer)

        assert await trio.to_thread.run_sync(ask)
        shown = await trio.to_thread.run_sync(ssl.get_server_certificate, ("127.0.0.1", port))
        assert shown.strip() == certificate.read_text().strip()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /v1/healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert not (await stream.receive_some(1 << 16)).startswith(b"HTTP")


def test_a_certificate_of_ones_own_is_kept_and_its_key_is_nobody_elses(tmp_path):
    serving = ServeSettings(self_signed=True)
    first, again = [tls.open_identity(tmp_path / "data", serving) for _ in range(2)]
    assert first.fingerprint == again.fingerprint
    key = tmp_path / "data" / "tls" / "private-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    certificate = tmp_path / "data" / "tls" / "certificate.pem"
    decoded = ssl._ssl._test_decode_cert(str(certificate))
    assert ("IP Address", "127.0.0.1") in decoded["subjectAltName"]
    assert ("DNS", "localhost") in decoded["subjectAltName"]


@needs_openssl
def test_a_certificate_that_cannot_be_used_is_named_with_the_reason(tmp_path, pair):
    certificate, key = pair
    other, locked, expired = tmp_path / "other.pem", tmp_path / "locked.pem", tmp_path / "expired.pem"
    openssl("genpkey", "-algorithm", "RSA", "-out", other)
    openssl("rsa", "-in", key, "-aes128", "-passout", "pass:secret", "-out", locked)
    request = tmp_path / "request.pem"
    openssl("req", "-new", "-key", key, "-subj", "/CN=here", "-out", request)
    openssl("x509", "-req", "-in", request, "-signkey", key, "-days", "-1", "-out", expired)
    noise = tmp_path / "noise.pem"
    noise.write_text("no certificate")
    use = {"certificate": certificate, "private_key": key}
    assert "is not the private key of" in refused(tmp_path, **{**use, "private_key": other})
    assert "no private key that can be used" in refused(tmp_path, **{**use, "private_key": locked})
    assert "holds no certificate" in refused(tmp_path, **{**use, "certificate": noise})
    assert "is valid from" in refused(tmp_path, **{**use, "certificate": expired})
    assert "cannot be read" in refused(tmp_path, **{**use, "certificate": tmp_path / "missing.pem"})


def test_settings_that_contradict_each_other_are_refused(tmp_path, pair):
    certificate, key = pair
    assert "needs its private key" in refused(tmp_path, certificate=certificate)
    assert "exclude each other" in refused(tmp_path, certificate=certificate, private_key=key, plain_http=True)
    assert "exclude each other" in refused(tmp_path, self_signed=True, plain_http=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_plain_http_leaves_this_machine_only_if_it_is_told_to(tmp_path, host):
    assert "unencrypted" in refused(tmp_path, host=host)
    assert tls.open_identity(tmp_path / "data", ServeSettings(host=host, plain_http=True)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.53"])
def test_plain_http_is_for_the_loopback(tmp_path, host):
    assert is_loopback(host)
    assert tls.open_identity(tmp_path / "data", ServeSettings(host=host)) is None


@pytest.mark.parametrize(
    ("host", "on_this_machine", "on_others"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]", "[::1]"),
        ("0.0.0.0", "127.0.0.1", socket.gethostname()),
        ("::", "[::1]", socket.gethostname()),
        ("gpu7", "gpu7", "gpu7"),
    ],
)
def test_the_address_that_is_announced_is_one_that_can_be_asked(host, on_this_machine, on_others):
    assert (here(host), elsewhere(host)) == (on_this_machine, on_others)


def test_an_address_that_cannot_be_had_is_named_with_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for serving, hint in (
            (ServeSettings(port=taken.getsockname()[1]), "--port 0"),
            (ServeSettings(host="192.0.2.1", port=0), "ip address"),
            (ServeSettings(host="no.such.host.invalid", port=0), "0.0.0.0"),
            (ServeSettings(port=70_000), "65535"),
        ):
            with pytest.raises(ServerUnusable) as caught:
                listen(serving)
            assert hint in caught.value.hint


def test_every_address_of_a_host_is_listened_to_on_one_port(monkeypatch):
    addresses = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET, ("127.0.0.2", 0))]
    monkeypatch.setattr(sockets, "_addresses", lambda *_: addresses)
    opened = listen(ServeSettings(port=0))
    try:
        assert len({each.getsockname()[1] for each in opened}) == 1
        assert [each.getsockname()[0] for each in opened] == ["127.0.0.1", "127.0.0.2"]
    finally:
        for each in opened:
            each.close()


def test_allowed_folders_come_from_the_variable_separated_by_colons(monkeypatch, tmp_path):
    monkeypatch.setenv("CRYOMAMBA_SERVE_ALLOW_ROOTS", f"{tmp_path}:/data")
    assert [str(path) for path in load_serve_settings().allow_roots] == [str(tmp_path), "/data"]
    monkeypatch.delenv("CRYOMAMBA_SERVE_ALLOW_ROOTS")
    config = tmp_path / "cryomamba.toml"
    config.write_text('[serve]\nallow_roots = ["/data/a", "/data/b"]\n')
    assert [str(path) for path in load_serve_settings(config).allow_roots] == ["/data/a", "/data/b"]


async def test_an_allowed_folder_in_the_data_directory_is_refused(tmp_path):
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "raw")
    for folder in (tmp_path / "data", tmp_path / "data" / "raw", tmp_path / "link"):
        with pytest.raises(InvalidParameter, match="data directory"):
            async with servers.open_test_server(tmp_path / "data", allow_roots=(folder,)):
                pytest.fail("it must not open what others have sent")


def test_a_server_says_where_it_is_how_to_connect_and_nothing_secret(tmp_path):
    with servers.ServerProcess(tmp_path / "data", "--tls-self-signed") as server:
        said = server.greeting()
        token = (tmp_path / "data" / "first-token").read_text().strip()
        assert f"cryomamba login {server.url} --fingerprint sha256:{server.fingerprint}" in said
        assert str(tmp_path / "data" / "first-token") in said
        assert token not in said
        for name in ("first-token", "server.json", "access/keys.json"):
            assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600, name
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert server.note() == {"url": server.url, "pid": server.process.pid, "fingerprint": server.fingerprint}
        assert server.terminate() == 0
        assert server.note() is None
        assert token not in server.log.read_text()


def test_a_data_directory_that_others_can_read_is_warned_of(tmp_path):
    (tmp_path / "data").mkdir(mode=0o755)
    with servers.ServerProcess(tmp_path / "data") as server:
        assert server.terminate() == 0
        assert "chmod 700" in server.log.read_text()


def test_a_second_server_of_a_data_directory_is_refused_and_the_first_goes_on(tmp_path):
    with servers.ServerProcess(tmp_path / "data") as server:
        second = servers.ServerProcess(tmp_path / "data", wait=False)
        assert second.process.wait(engines.DEADLINE) == ServerUnusable.exit_code
        assert f"process {server.process.pid} at {server.url} already serves" in second.log.read_text()
        assert server.note()["pid"] == server.process.pid
        with urllib.request.urlopen(f"{server.url}/v1/readyz", timeout=60) as answer:
            assert answer.status == 200


def test_what_a_killed_server_noted_of_itself_is_gone_before_the_next_one_listens(tmp_path):
    with servers.ServerProcess(tmp_path / "data") as server:
        server.kill()
        stale = server.note()
        taken = socket.create_server(("127.0.0.1", server.port))
        with taken:
            server.start(wait=False)
            assert server.process.wait(engines.DEADLINE) == ServerUnusable.exit_code
        assert stale is not None
        assert server.note() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("whoever started this ignores that signal, as nohup does, and so does what it starts")
    with servers.ServerProcess(tmp_path / "data") as server:
        for _ in range(2):
            server.process.send_signal(number)
        assert server.process.wait(engines.DEADLINE) == 0


def test_a_second_signal_ends_a_server_that_waits_for_a_request(tmp_path):
    with servers.ServerProcess(tmp_path / "data", "--graceful-seconds", "3600", program="probes.py") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            line.sendall(b"PUT /probe/count HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n")
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + engines.DEADLINE
            while '"stopping"' not in server.log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            while server.process.poll() is None:
                assert time.monotonic() < deadline
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
        assert server.process.poll() == 128 + signal.SIGTERM

"""``cryomamba login`` and ``logout``: said once, kept safely, never shown."""

import io
import json
import os
import pty
import stat
import sys

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from servers import ServerProcess


@pytest.fixture(autouse=True)
def no_keyring(tmp_path, monkeypatch, data_dir):
    """Credentials are kept in a file of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "config" / "cryomamba" / "credentials.json"


@pytest.fixture
def server(tmp_path, data_dir):
    with ServerProcess(tmp_path / "server") as server:
        yield server


@pytest.fixture
def secure_server(tmp_path, data_dir):
    with ServerProcess(tmp_path / "server", "--tls-self-signed") as server:
        yield server


@pytest.fixture
def say(monkeypatch):
    """Give the next command a standard input that is no terminal."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def log_in_at_a_terminal(token, *words):
    """Run the command at a terminal, answer its question; returns its exit status and all that is on the screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "cryomamba_core", "login", *words])
    screen = b""
    while b"Token" not in screen:
        screen += os.read(terminal, 1000)
    os.write(terminal, f"{token}\n".encode())
    try:
        while data := os.read(terminal, 1000):
            screen += data
    except OSError:  # the other end is gone
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode()


def test_a_token_that_is_typed_is_not_shown_and_serves_every_command_to_come(cryomamba, server, kept):
    code, screen = log_in_at_a_terminal(server.token(), server.url)
    assert code == 0, screen
    assert server.token() not in screen
    assert f"logged in to {server.url}" in screen
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert cryomamba("--server", f"{server.url}/", "jobs", "list", "--json").json == {"jobs": []}


def test_a_fingerprint_is_kept_with_the_token_and_survives_the_next_login(cryomamba, secure_server, kept, say):
    url, shown = secure_server.url, f"sha256:{secure_server.fingerprint.upper()}"
    say(secure_server.token() + "\n")
    assert cryomamba("login", url, "--fingerprint", shown, "--token-stdin").code == 0
    assert cryomamba("jobs", "list", "--server", url, "--json").json == {"jobs": []}
    say(secure_server.token("bob"))
    assert cryomamba("login", url, "--token-stdin").code == 0
    [entry] = json.loads(kept.read_text())["servers"].values()
    assert entry["fingerprint"] == secure_server.fingerprint
    assert cryomamba("doctor", "--server", url).code == 0


def test_a_server_that_cannot_be_trusted_gets_no_token_and_leaves_none(cryomamba, secure_server, kept, say):
    say(secure_server.token())
    answer = cryomamba("login", secure_server.url, "--token-stdin")
    assert answer.code == 11
    assert "[server/untrusted]" in answer.err
    assert "--fingerprint sha256:" in answer.err
    say(secure_server.token())
    answer = cryomamba("login", secure_server.url, "--token-stdin", "--fingerprint", "ab" * 32)
    assert answer.code == 11
    assert secure_server.fingerprint in answer.err
    assert not kept.exists()


def test_a_token_that_the_server_refuses_is_not_kept(cryomamba, server, kept, say):
    for token in ("not-a-token", server.token() + "x"):
        say(token)
        answer = cryomamba("--verbose", "login", server.url, "--token-stdin")
        assert answer.code == 10
        assert token not in answer.out + answer.err
    assert not kept.exists()


@pytest.mark.parametrize(
    ("words", "stdin", "code", "said"),
    [
        (["login"], "t", 3, "needs no login"),
        (["login", "http://gpu7:1", "--token-stdin"], "", 3, "there is no token"),
        (["login", "http://gpu7:1", "--token-stdin"], "two words", 3, "characters that none has"),
        (["login", "http://gpu7:1", "--token-stdin"], "a-token", 11, "unencrypted"),
        (["login", "http://gpu7:1"], "a-token", 2, "--token-stdin"),
        (["login", "gopher://gpu7"], "a-token", 5, "no transport"),
        (["login", "https://ada:hunter2@gpu7", "--token-stdin"], "a-token", 3, "user name or password"),
        (["login", "https://gpu7", "--token-stdin", "--fingerprint", "12"], "a-token", 3, "no fingerprint"),
        (["login", "https://gpu7", "--token", "a-token"], "", 2, "no such option"),
    ],
)
def test_what_is_no_login_is_refused_without_a_word_of_the_secret(cryomamba, say, kept, words, stdin, code, said):
    say(stdin)
    answer = cryomamba(*words)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert "hunter2" not in answer.err
    assert not kept.exists()


def test_the_environment_comes_before_what_is_kept(cryomamba, server, say, monkeypatch):
    monkeypatch.setenv("CRYOMAMBA_SERVER", server.url)
    say(server.token())
    assert cryomamba("login", "--token-stdin").code == 0
    assert cryomamba("jobs", "list").code == 0
    monkeypatch.setenv("CRYOMAMBA_TOKEN", "not-a-token")
    assert cryomamba("jobs", "list").code == 10
    say(server.token())
    assert "CRYOMAMBA_TOKEN is set" in cryomamba("login", "--token-stdin").err


def test_a_logout_forgets_everything(cryomamba, server, kept, say):
    say(server.token())
    cryomamba("login", server.url, "--token-stdin")
    assert cryomamba("logout", server.url).code == 0
    assert not kept.exists()
    answer = cryomamba("jobs", "list", "--server", server.url)
    assert answer.code == 10
    assert "cryomamba login" in answer.err
    assert "nothing was kept" in cryomamba("logout", server.url).err

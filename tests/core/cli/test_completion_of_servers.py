"""Completion with ``--server``: what the server has, its address, and nothing where it does not answer."""

import io
import re
import socket
import sys
from contextlib import closing

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from servers import ServerProcess


@pytest.fixture(autouse=True)
def own_folders(tmp_path, data_dir, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with ServerProcess(tmp_path / "server") as server:
        monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token())
        yield server


@pytest.fixture
def complete(cryomamba, monkeypatch):
    """What bash is offered for the last word of a line, which it has torn apart at its colons."""

    def call(*words):
        torn = [piece for word in words for piece in re.split("(:+)", word) if piece]
        with monkeypatch.context() as patch:
            patch.setenv("_CRYOMAMBA_COMPLETE", "bash_complete")
            patch.setenv("COMP_WORDS", "\n".join(["cryomamba", *torn]))
            patch.setenv("COMP_CWORD", str(len(torn)))
            answer = cryomamba()
        assert answer.err == ""
        return [line.partition(",")[2] for line in answer.out.splitlines() if line.startswith("plain,")]

    return call


def test_jobs_are_those_of_the_server(complete, cryomamba, server, tomogram, data_dir):
    (data_dir / "jobs" / "0123").mkdir(parents=True)
    cryomamba("--server", server.url, "segment", tomogram(), "--runner", "threshold", "--out", "OUT")
    [job] = cryomamba("--server", server.url, "jobs", "list", "--json").json["jobs"]
    assert complete("--server", server.url, "jobs", "show", "0") == [job["id"]]
    assert complete("jobs", "show", "--server", server.url, "0") == [job["id"]]
    assert complete("jobs", "show", "0") == ["0123"]


def test_the_environment_names_the_server_here_too(complete, cryomamba, server, tomogram, monkeypatch):
    cryomamba("--server", server.url, "segment", tomogram(), "--runner", "threshold", "--out", "OUT")
    monkeypatch.setenv("CRYOMAMBA_SERVER", server.url)
    assert len(complete("jobs", "fetch", "0")) == 1


def test_models_runners_and_parameters_are_those_of_the_server(complete, server):
    server_first = ["--server", server.url, "segment", "a.mrc"]
    assert "threshold" in complete(*server_first, "--model", "thr")
    assert complete(*server_first, "--runner", "ste") == ["steps"]
    assert "dark=" in complete(*server_first, "--model", "threshold", "--param", "d")


def test_a_server_that_does_not_answer_offers_nothing_and_says_nothing(complete, server):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert complete("--server", silent, "jobs", "show", "0") == []
        assert complete("--server", silent, "segment", "--model", "thr") == []
    server.kill()
    assert complete("--server", server.url, "jobs", "show", "0") == []


def test_servers_of_logins_are_completed_until_they_are_left(complete, cryomamba, server, monkeypatch):
    assert complete("--server", "http") == []
    monkeypatch.setattr(sys, "stdin", io.StringIO(server.token()))
    assert cryomamba("login", server.url, "--token-stdin").code == 0
    for words in (["--server"], ["login"], ["logout"], ["jobs", "list", "--server"]):
        assert complete(*words, "http") == [server.url]
        assert complete(*words, server.url[:12]) == [server.url.removeprefix("http:")]
    assert cryomamba("logout", server.url).code == 0
    assert complete("--server", "http") == []


def test_servers_whose_tokens_are_in_a_keyring_are_completed_too(complete, cryomamba, server, monkeypatch):
    kept = {}

    class Keyring(NoKeyring):
        def set_password(self, service, name, text):
            kept[name] = text

        def get_password(self, service, name):
            return kept.get(name)

    keyring.set_keyring(Keyring())
    monkeypatch.setattr(sys, "stdin", io.StringIO(server.token()))
    assert cryomamba("login", server.url, "--token-stdin").code == 0
    assert list(kept) == [server.url]
    assert complete("login", "http") == [server.url]

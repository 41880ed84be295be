"""``cryomamba doctor --server``: what is wrong, in words, and never a defect of ours."""

import pytest
from servers import ServerProcess


@pytest.fixture
def folders(tmp_path, data_dir, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    return tmp_path


def examined(cryomamba, url):
    """What is said of the server."""
    answer = cryomamba("--server", url, "doctor", "--json")
    assert answer.code == 1
    [finding] = [each for each in answer.json["findings"] if each["name"] == "server"]
    assert finding["state"] == "problem"
    assert "ExceptionGroup" not in finding["message"]
    assert "defect" not in finding["fix"]
    return finding


def test_a_server_that_is_down(cryomamba, folders):
    finding = examined(cryomamba, "http://127.0.0.1:1")
    assert finding["message"] == "127.0.0.1:1 cannot be reached: connection refused"
    assert "check the address" in finding["fix"]


def test_a_server_that_nobody_vouches_for(cryomamba, folders):
    with ServerProcess(folders / "server", "--tls-self-signed") as server:
        finding = examined(cryomamba, server.url)
    assert "nobody vouches" in finding["message"]
    assert "--fingerprint" in finding["fix"]


def test_a_server_that_does_not_know_the_token(cryomamba, folders, monkeypatch):
    with ServerProcess(folders / "server") as server:
        monkeypatch.setenv("CRYOMAMBA_TOKEN", "nobody-made-this")
        finding = examined(cryomamba, server.url)
    assert "token" in finding["message"]
    assert finding["fix"]

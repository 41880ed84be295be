"""Tokens that allow too little: said before anything is sent."""

import pytest
from servers import SCOPES, ServerProcess

from cryomamba_core.cli.scopes import require_scopes
from cryomamba_core.interfaces import ServerInfo


@pytest.fixture
def server(tmp_path, data_dir, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with ServerProcess(tmp_path / "server") as server:
        yield server


@pytest.fixture
def segment(cryomamba, server, tomogram, monkeypatch):
    """Segment with a token of some scopes only."""

    def call(*scopes, words=()):
        monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token(scopes=scopes))
        tomogram(f"{len(scopes)}.mrc")
        words = [f"{len(scopes)}.mrc", "--runner", "threshold", "--out", "OUT", *words]
        return cryomamba("--server", server.url, "segment", *words)

    return call


def test_all_scopes_that_are_missing_are_named_before_anything_is_sent(segment, server):
    answer = segment("jobs:read", "jobs:write")
    assert answer.code == 10
    assert "does not have the scopes uploads:write, artifacts:read  [access/forbidden]" in answer.err
    assert 'cryomamba token create --scope "jobs:read jobs:write uploads:write artifacts:read"' in answer.err
    assert "uploading" not in answer.err
    assert not list((server.data_dir / "raw").glob("*"))


def test_one_that_is_missing_is_named_alone(segment):
    assert "the scope artifacts:read  [" in segment("jobs:read", "jobs:write", "uploads:write").err


def test_a_plan_needs_no_results(segment):
    assert segment("jobs:read", "jobs:write", "uploads:write", words=["--plan"]).code == 0


def test_a_token_that_may_not_even_ask_is_told_all_that_is_needed(segment):
    answer = segment("uploads:write")
    assert answer.code == 10
    assert '"jobs:read jobs:write uploads:write artifacts:read"' in answer.err


def test_fetching_without_the_scope_names_it(segment, cryomamba, server, monkeypatch):
    assert segment(*SCOPES).code == 0
    monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token(scopes=("jobs:read",)))
    [job] = cryomamba("--server", server.url, "jobs", "list", "--json").json["jobs"]
    answer = cryomamba("--server", server.url, "jobs", "fetch", job["id"], "--out", "AGAIN")
    assert answer.code == 10
    assert "artifacts:read" in answer.err


def test_an_engine_without_tokens_refuses_nobody():
    info = ServerInfo(version="1", api_version=1, shares_files=True, devices=(), runners=(), exporters=())
    require_scopes(info, *SCOPES)


def test_the_doctor_names_what_a_token_lacks(cryomamba, server, monkeypatch):
    monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token(scopes=("jobs:read", "jobs:write")))
    answer = cryomamba("--server", server.url, "doctor", "--json")
    assert answer.code == 1
    [token] = [each for each in answer.json["findings"] if each["name"] == "token"]
    assert "uploads:write, artifacts:read" in token["message"]

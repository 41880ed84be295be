"""Addresses of servers that are offered again."""

import json

import pytest

from cryomamba_core.credentials import CredentialStore, default_file
from cryomamba_core.interfaces import Credentials
from cryomamba_core.known_servers import forget_server, known_servers, note_server

GPU, LAB = "https://gpu7:8765", "https://lab:8765"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def test_servers_are_known_until_they_are_forgotten():
    assert known_servers() == []
    note_server(LAB)
    note_server(GPU)
    note_server(LAB)
    assert known_servers() == [GPU, LAB]
    forget_server(LAB)
    forget_server("https://never.heard")
    assert known_servers() == [GPU]


def test_servers_of_a_file_of_credentials_are_among_them():
    default_file().parent.mkdir(parents=True)
    default_file().write_text(json.dumps({"servers": {GPU: {"token": "t"}}}))
    default_file().chmod(0o600)
    note_server(LAB)
    assert known_servers() == [GPU, LAB]
    assert CredentialStore().find(GPU) == Credentials(token="t")


def test_damage_and_a_folder_that_cannot_be_written_are_no_error(own_folders):
    (own_folders / "XDG_CACHE_HOME" / "cryomamba").mkdir(parents=True)
    (own_folders / "XDG_CACHE_HOME" / "cryomamba" / "servers.json").write_text("{")
    assert known_servers() == []
    note_server(GPU)
    assert known_servers() == [GPU]
    (own_folders / "XDG_CACHE_HOME" / "cryomamba" / "servers.json").unlink()
    (own_folders / "XDG_CACHE_HOME" / "cryomamba").rmdir()
    (own_folders / "XDG_CACHE_HOME" / "cryomamba").write_text("a file")
    note_server(GPU)
    assert known_servers() == []

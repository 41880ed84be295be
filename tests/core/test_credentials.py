"""What logins leave on this computer."""

import json
import stat
import sys
import threading

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.backends.null import Keyring as ForgetfulKeyring

from cryomamba_core.credentials import SERVICE, CredentialStore
from cryomamba_core.errors import StorageError
from cryomamba_core.interfaces import Credentials

ADA = Credentials(token="ada's", fingerprint="f" * 64)
BOB = Credentials(token="bob's")


class MemoryKeyring(KeyringBackend):
    """A keyring as desktops have it."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


class LockedKeyring(MemoryKeyring):
    def get_password(self, service, username):
        raise RuntimeError("the desktop's keyring is locked")


class TalkativeKeyring(MemoryKeyring):
    def set_password(self, service, username, password):
        raise RuntimeError(f"no room for {password}")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config" / "credentials.json"


@pytest.fixture
def use():
    """Set the keyring of this process."""
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def test_a_keyring_takes_the_token_and_no_file_is_written(use, file):
    desktop = MemoryKeyring()
    use(desktop)
    store = CredentialStore(file)
    assert store.keep("https://gpu7:8765/", ADA) == "the system's keyring"
    assert not file.exists()
    assert list(desktop.kept) == [(SERVICE, "https://gpu7:8765")]
    assert store.find("HTTPS://GPU7:8765") == ADA
    assert store.find("https://gpu8:8765") is None
    assert store.forget("https://gpu7:8765")
    assert not desktop.kept
    assert not store.forget("https://gpu7:8765")


@pytest.mark.parametrize("backend", [NoKeyring, ForgetfulKeyring, LockedKeyring])
def test_without_a_keyring_that_works_a_file_is_kept_that_nobody_else_can_read(use, file, backend):
    use(backend())
    store = CredentialStore(file)
    assert str(file) in store.keep("https://gpu7", ADA)
    store.keep("https://gpu8", BOB)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert CredentialStore(file).find("https://gpu7") == ADA
    assert CredentialStore(file).find("https://gpu8") == BOB
    assert store.forget("https://gpu7")
    assert store.find("https://gpu7") is None
    assert store.find("https://gpu8") == BOB
    assert store.forget("https://gpu8")
    assert not file.exists()


def test_a_token_is_in_no_log_though_the_keyring_quotes_it(use, file, caplog):
    caplog.set_level("DEBUG", "cryomamba_core")
    use(TalkativeKeyring())
    assert str(file) in CredentialStore(file).keep("https://gpu7:8765", ADA)
    assert "RuntimeError" in caplog.text
    assert ADA.token not in caplog.text


def test_a_keyring_that_came_later_takes_over_from_the_file(use, file):
    use(NoKeyring())
    CredentialStore(file).keep("https://gpu7", BOB)
    use(MemoryKeyring())
    store = CredentialStore(file)
    assert store.find("https://gpu7") == BOB
    store.keep("https://gpu7", ADA)
    assert not file.exists()
    assert store.find("https://gpu7") == ADA


def test_a_file_that_others_can_read_is_told_of(use, file, caplog):
    use(NoKeyring())
    store = CredentialStore(file)
    store.keep("https://gpu7", ADA)
    file.chmod(0o644)
    assert store.find("https://gpu7") == ADA
    assert "others can read" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"servers": 3}', '{"servers": {"https://gpu7": "token"}}'])
def test_a_file_that_is_damaged_holds_nothing_and_can_be_written_again(use, file, text):
    use(NoKeyring())
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(0o600)
    store = CredentialStore(file)
    assert store.find("https://gpu7") is None
    store.keep("https://gpu7", ADA)
    assert store.find("https://gpu7") == ADA


def test_logins_at_the_same_time_do_not_lose_each_other(use, file):
    use(NoKeyring())
    urls = [f"https://gpu{number}" for number in range(8)]
    threads = [threading.Thread(target=CredentialStore(file).keep, args=(url, BOB)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(file.read_text())["servers"]) == urls


def test_a_place_that_cannot_be_written_is_a_storage_error(use, tmp_path):
    use(NoKeyring())
    (tmp_path / "config").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        CredentialStore(tmp_path / "config" / "credentials.json").keep("https://gpu7", ADA)


def test_a_token_is_never_shown(use, file):
    use(NoKeyring())
    store = CredentialStore(file)
    store.keep("https://gpu7", Credentials(token="hunter2"))
    assert "hunter2" not in repr(store.find("https://gpu7")) + repr(store)


def test_the_keyring_is_not_imported_before_it_is_needed():
    import subprocess

    code = "import sys, cryomamba_core.cli.main, cryomamba_core.credentials; print('keyring' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"

import pytest

from cryomamba_core.errors import InvalidParameter
from cryomamba_core.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    import os

    for name in list(os.environ):
        if name.startswith("CRYOMAMBA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path, monkeypatch):
    file = tmp_path / "settings.toml"
    file.write_text('[cryomamba]\ndata_dir = "/from/file"\nthreads = 3\ndevices = ["cpu", "cuda:1"]\n')
    monkeypatch.setenv("CRYOMAMBA_THREADS", "5")
    settings = load_settings(file)
    assert (str(settings.data_dir), settings.threads, settings.devices) == ("/from/file", 5, ("cpu", "cuda:1"))
    assert settings.max_attempts == Settings().max_attempts


def test_devices_are_separated_by_commas_in_the_environment(monkeypatch):
    monkeypatch.setenv("CRYOMAMBA_DEVICES", "cpu,cuda:0")
    assert load_settings().devices == ("cpu", "cuda:0")


def test_the_file_can_be_named_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "s.toml").write_text("[cryomamba]\nthreads = 7\n")
    monkeypatch.setenv("CRYOMAMBA_CONFIG", str(tmp_path / "s.toml"))
    assert load_settings().threads == 7


def test_a_named_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(InvalidParameter, match="does not exist"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["[cryomamba]\nthraeds = 1\n", "[cryomamba]\nthreads = 'many'\n", "[cryomamba\n"])
def test_settings_that_cannot_be_used_are_refused(tmp_path, text):
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(InvalidParameter):
        load_settings(file)


def test_a_relative_data_directory_becomes_absolute_and_tilde_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(Settings(data_dir="~/x").data_dir) == "/somewhere/x"
    assert Settings(data_dir="x").data_dir.is_absolute()

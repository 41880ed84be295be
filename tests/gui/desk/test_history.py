"""What a window remembers: through restarts, damage, and other windows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cryomamba_core.jobs import JobConfig, Source
from cryomamba_gui.desk.history import History
from cryomamba_gui.desk.history_file import MOST_JOBS, MOST_RECENT, MOST_SUBMISSIONS

URL, OTHER = "https://gpu7:8765", "local:"
CONFIG = JobConfig(source=Source(path="/data/a.mrc"), model="membranes", params={"threshold": 0.5}, label="a.mrc")


@pytest.fixture
def file(settings):
    return settings.data_dir / "desktop" / "history.json"


@pytest.fixture
def new_window(file, journal, troubles):
    """The history as another window finds it."""
    return lambda: History(file, journal, troubles)


async def write(*windows):
    """Let windows write down what they have changed, all at the same time."""
    async with trio.open_nursery() as nursery:
        for window in windows:
            nursery.start_soon(window.run)
        for window in windows:
            await window.written()
        nursery.cancel_scope.cancel()


def test_a_first_window_remembers_nothing_and_writes_nothing(history, file, troubles):
    assert (history.recent, history.engine, history.submissions) == ((), None, ())
    assert (history.job("x"), history.job_path("x"), history.jobs_of(URL)) == (None, None, {})
    assert not file.exists()
    assert troubles.items == ()


async def test_everything_is_there_in_the_next_window(history, new_window, tmp_path):
    history.remember_file(tmp_path / "a.mrc")
    history.remember_engine(URL)
    history.remember_job("1", path=tmp_path / "a.mrc", url=URL, model="membranes")
    history.remember_job("2", path=None, url=OTHER, model=None)
    history.remember_submission("key", path=tmp_path / "a.mrc", url=URL, config=CONFIG, auto=True, asked=True)
    await write(history)
    assert not history.unwritten
    found = new_window()
    for window in (history, found):
        assert window.recent == (tmp_path / "a.mrc",)
        assert window.engine == URL
        assert (window.job_path("1"), window.job_path("2")) == (tmp_path / "a.mrc", None)
        assert window.job("1").model == "membranes"
        assert list(window.jobs_of(OTHER)) == ["2"]
        [note] = window.submissions
        assert (note.key, note.path, note.url, note.config) == ("key", str(tmp_path / "a.mrc"), URL, CONFIG)
        assert note.auto
        assert note.asked


async def test_what_is_forgotten_is_gone_in_the_next_window_too(history, new_window, tmp_path):
    history.remember_file(tmp_path / "a.mrc")
    history.remember_job("1", path=None, url=URL, model=None)
    history.remember_submission("key", path=tmp_path / "a.mrc", url=URL, config=CONFIG)
    await write(history)
    history.forget_file(tmp_path / "a.mrc")
    history.forget_job("1")
    history.forget_submission("key")
    await write(history)
    for window in (history, new_window()):
        assert (window.recent, window.job("1"), window.submissions) == ((), None, ())


async def test_a_file_that_is_opened_again_stands_first_and_once(history, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mrc", "b.mrc", "a.mrc"):
        history.remember_file(Path(name))
    assert history.recent == (tmp_path / "a.mrc", tmp_path / "b.mrc")


async def test_a_voxel_size_that_was_given_is_remembered_until_the_file_is_opened_with_another(
    history, new_window, tmp_path
):
    assert history.file(tmp_path / "a.mrc") is None
    history.remember_file(tmp_path / "a.mrc", voxel_size=(7.0, 8.0, 9.5), shape=(4, 5, 6))
    await write(history)
    found = new_window()
    file = found.file(tmp_path / "a.mrc")
    assert (file.voxel_size, file.shape) == ((7.0, 8.0, 9.5), (4, 5, 6))
    found.remember_file(tmp_path / "a.mrc")
    assert found.file(tmp_path / "a.mrc").voxel_size is None


def test_a_file_that_was_remembered_without_a_voxel_size_is_known(file, new_window, troubles):
    file.parent.mkdir(parents=True)
    file.write_text('{"recent": [{"path": "/data/a.mrc", "at": "2026-01-02T03:04:05Z"}]}')
    assert new_window().recent == (Path("/data/a.mrc"),)
    assert new_window().file(Path("/data/a.mrc")).voxel_size is None
    assert troubles.items == ()


async def test_of_too_much_the_oldest_goes(history, new_window):
    for number in range(MOST_RECENT + 3):
        history.remember_file(Path(f"/data/{number}.mrc"))
    for number in range(MOST_JOBS + 3):
        history.remember_job(str(number), path=None, url=URL, model=None)
    for number in range(MOST_SUBMISSIONS + 3):
        history.remember_submission(str(number), path=Path("/data/a.mrc"), url=URL, config=CONFIG)
    await write(history)
    for window in (history, new_window()):
        assert len(window.recent) == MOST_RECENT
        assert window.recent[0] == Path(f"/data/{MOST_RECENT + 2}.mrc")
        assert len(window.jobs_of(URL)) == MOST_JOBS
        assert window.job("2") is None
        assert window.job(str(MOST_JOBS + 2)) is not None
        assert window.submissions[0].key == "3"


def test_listeners_hear_of_every_change(history):
    heard = []
    history.changed.connect(lambda: heard.append(history.engine))
    history.remember_engine(URL)
    history.remember_engine(URL)
    assert heard == [URL]


async def test_the_last_change_is_written_when_the_window_is_closed(history, new_window):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.testing.wait_all_tasks_blocked()
        history.remember_engine(URL)
        nursery.cancel_scope.cancel()
    assert new_window().engine == URL


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\x00", b'{"recent": ' + b"[" * 100_000, b"nul"])
async def test_a_damaged_file_is_set_aside_and_said(file, new_window, journal, troubles, damage):
    file.parent.mkdir(parents=True)
    file.write_bytes(damage)
    window = new_window()
    assert window.recent == ()
    aside = file.with_name("history.json.damaged")
    assert aside.read_bytes() == damage
    assert any("history.json.damaged" in entry.text for entry in journal.entries)
    window.remember_engine(URL)
    await write(window)
    assert new_window().engine == URL
    assert aside.exists()
    assert troubles.items == ()


async def test_what_can_be_read_of_a_damaged_file_is_kept(history, file, new_window):
    history.remember_engine(URL)
    for number in range(3):
        history.remember_job(str(number), path=None, url=URL, model=None)
        history.remember_file(Path(f"/data/{number}.mrc"))
    history.remember_submission("key", path=Path("/data/a.mrc"), url=URL, config=CONFIG)
    await write(history)
    plain = json.loads(file.read_text())
    plain["jobs"]["1"]["url"] = 7
    plain["recent"][0] = "what"
    plain["submissions"]["key"]["config"]["source"] = {}
    file.write_text(json.dumps(plain))
    found = new_window()
    assert list(found.jobs_of(URL)) == ["0", "2"]
    assert (found.recent, found.engine) == ((Path("/data/1.mrc"), Path("/data/0.mrc")), URL)
    assert found.submissions == ()
    assert file.with_name("history.json.damaged").exists()
    assert new_window().jobs_of(URL) == found.jobs_of(URL)


async def test_damage_that_comes_while_a_window_is_open_costs_nothing_of_what_it_adds(history, file, new_window):
    history.remember_engine(URL)
    await write(history)
    file.write_bytes(b"\x00" * 50)
    history.remember_file(Path("/data/a.mrc"))
    await write(history)
    assert new_window().recent == (Path("/data/a.mrc"),)


async def test_two_windows_at_once_lose_nothing_of_each_other(new_window):
    one, two = new_window(), new_window()
    for number in range(5):
        one.remember_job(f"one-{number}", path=None, url=URL, model=None)
        two.remember_job(f"two-{number}", path=None, url=URL, model=None)
        one.remember_file(Path(f"/data/one-{number}.mrc"))
        two.remember_file(Path(f"/data/two-{number}.mrc"))
    await write(one, two)
    assert len(new_window().jobs_of(URL)) == 10
    assert len(new_window().recent) == 10
    two.forget_job("one-0")
    await write(two)
    one.remember_engine(URL)
    await write(one)
    for window in (one, new_window()):
        assert window.job("one-0") is None
        assert len(window.jobs_of(URL)) == 9
        assert window.engine == URL


WRITER = """
import sys, trio
from pathlib import Path
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_gui.desk.history import History
from cryomamba_gui.desk.journal import Journal
from cryomamba_gui.desk.troubles import Troubles

async def main():
    journal = Journal(PluginHost(Settings()))
    history = History(Path(sys.argv[1]), journal, Troubles(journal))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        for number in range(20):
            history.remember_job(f"{sys.argv[2]}-{number}", path=None, url="u", model=None)
            await history.written()
            print(number, flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def start_writer(file, name):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(file), name], stdout=subprocess.PIPE, text=True)


def test_several_processes_at_once_lose_nothing_of_each_other(file, new_window):
    writers = [start_writer(file, name) for name in "abc"]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(new_window().jobs_of("u")) == 60


def test_what_is_said_to_be_written_survives_a_kill(file, new_window, troubles):
    with start_writer(file, "a") as writer:
        said = [int(writer.stdout.readline()) for _ in range(5)][-1]
        writer.kill()
    found = new_window()
    assert all(found.job(f"a-{number}") for number in range(said + 1))
    assert troubles.items == ()


async def test_a_folder_that_cannot_be_written_is_said_once_and_all_is_written_later(
    history, file, new_window, troubles, until
):
    file.parent.parent.mkdir(parents=True)
    file.parent.write_text("a file where the folder should be")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        history.remember_engine(URL)
        await until(troubles.changed, lambda: troubles.items)
        await history.written()  # it does not wait for what may never come
        history.remember_file(Path("/data/a.mrc"))
        file.parent.unlink()
        history.remember_file(Path("/data/b.mrc"))
        with trio.fail_after(60):
            while history.unwritten:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    [trouble] = troubles.items
    assert trouble.error.code == "storage/error"
    assert trouble.error.hint
    found = new_window()
    assert (found.engine, found.recent) == (URL, (Path("/data/b.mrc"), Path("/data/a.mrc")))

"""What one window works with, without a window: desks and links of a test's own, and real servers."""

from contextlib import asynccontextmanager
from functools import partial

import engines
import numpy as np
import pytest
import servers
import trio

from cryomamba_core.plugins import PluginHost
from cryomamba_gui.desk.attendance import next_news
from cryomamba_gui.desk.desk import Desk
from cryomamba_gui.desk.history import History
from cryomamba_gui.desk.journal import Journal
from cryomamba_gui.desk.link import Link
from cryomamba_gui.desk.troubles import Troubles
from cryomamba_gui.desk.watching import Pace

#: Asks often, and does not wait for long.
HASTY = Pace(ping=0.1, answer=20, first_pause=0.05, longest_pause=0.2)


@pytest.fixture(autouse=True)
def strangers_installed(tmp_path, monkeypatch):
    """Workers and desks find the strangers."""
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture
def settings(tmp_path):
    return engines.make_settings(tmp_path / "desktop-data")


@pytest.fixture
def host(settings):
    """Every installed plugin, and the strangers."""
    return PluginHost.discover(settings)


@pytest.fixture
def journal(host):
    return Journal(host)


@pytest.fixture
def troubles(journal):
    return Troubles(journal)


@pytest.fixture
def history(settings, journal, troubles):
    return History(settings.data_dir / "desktop" / "history.json", journal, troubles)


@pytest.fixture
def open_link(host, history, journal, troubles):
    """Run a link: ``async with open_link() as link``."""

    @asynccontextmanager
    async def open_one(pace=HASTY, **options):
        link = Link(host, history, journal, troubles, pace=pace, **options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            yield link
            nursery.cancel_scope.cancel()

    return open_one


@pytest.fixture
def open_desk(host):
    """Run a desk: ``async with open_desk() as desk``."""

    @asynccontextmanager
    async def open_one(plugins=None):
        desk = Desk(plugins or host)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: desk.run(task_status=task_status))
            yield desk
            nursery.cancel_scope.cancel()

    return open_one


@pytest.fixture
def until():
    """Wait until a condition holds, which is looked at whenever a signal comes."""
    return wait_until


async def wait_until(signal, condition):
    with trio.fail_after(engines.DEADLINE):
        while not condition():
            await next_news(signal)


@pytest.fixture
def open_server(tmp_path):
    """A server in this process: ``async with open_server() as server``."""
    return partial(servers.open_test_server, tmp_path / "data")


@pytest.fixture
def server_process(tmp_path):
    """A server in a process of its own."""
    with servers.ServerProcess(tmp_path / "data") as server:
        yield server


@pytest.fixture
def tomogram(tmp_path):
    return engines.make_tomogram(tmp_path / "a.npy")


@pytest.fixture
def gate(tmp_path):
    """A folder; the strangers' runner goes on to a section when a file of its number is there. Section 0 is open.

    At the end all of it is opened, so that no worker waits for ever.
    """
    folder = tmp_path / "gate"
    folder.mkdir()
    (folder / "0").touch()
    yield folder
    engines.open_gate(folder)


@pytest.fixture
def write_npy(tmp_path):
    """Write a file that the strangers' reader takes, of so many bytes that no compression makes fewer."""

    def write(size, name="large.npy", seed=1):
        path = tmp_path / name
        np.save(path, np.random.default_rng(seed).integers(0, 255, (2, 1, (size - 128) // 2), dtype=np.uint8))
        assert path.stat().st_size == size
        return path

    return write

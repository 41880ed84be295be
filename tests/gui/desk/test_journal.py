"""What happened of late: heard from everywhere, without secrets, and not said to others."""

import logging
import sys
import threading
from pathlib import Path

import pytest
import trio

from cryomamba_core.interfaces import Credentials
from cryomamba_core.plugins import PluginHost
from cryomamba_gui.desk.journal import MOST, MOST_CHARACTERS, Journal

LOGGER = "cryomamba_backends.http_transport.connection"


@pytest.fixture
async def listening(journal, nursery):
    await nursery.start(lambda task_status: journal.run(task_status=task_status))
    return journal


class Terminal(logging.Handler):
    """A handler of somebody else's, at the root."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def terminal():
    root, handler = logging.getLogger(), Terminal()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


def test_entries_are_lines_of_bounded_number_and_length(journal):
    heard = []
    journal.added.connect(heard.append)
    journal.note("link", "two\n  lines", 0.5)
    [entry] = journal.entries
    assert (entry.kind, entry.text, entry.seconds, heard) == ("link", "two lines", 0.5, [entry])
    journal.note("link", "x" * 10 * MOST_CHARACTERS)
    assert len(journal.entries[-1].text) < MOST_CHARACTERS + 10
    for number in range(MOST + 5):
        journal.note("link", str(number))
    assert len(journal.entries) == MOST
    assert journal.entries[-1].text == str(MOST + 4)


def test_secrets_and_the_home_folder_are_left_out(journal):
    journal.hide("opaque-secret")
    journal.hide(None)
    journal.note("x", f"opaque-secret in {Path.home()}/a.mrc, Bearer another-secret, and signature=third-secret")
    text = journal.entries[-1].text
    assert "secret" not in text
    assert "~/a.mrc" in text
    assert str(Path.home()) not in text


async def test_our_loggers_are_heard_from_debug_on_and_only_while_it_runs(journal):
    logging.getLogger(LOGGER).debug("before")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: journal.run(task_status=task_status))
        logging.getLogger(LOGGER).debug("%s %s: %d", "GET", "/v1/jobs", 200, extra={"seconds": 0.25})
        logging.getLogger("cryomamba_server.engine.scheduler").info("a job is taken over")
        logging.getLogger("cryomamba_core.plugins").warning("a plugin is left out")
        logging.getLogger("elsewhere").warning("not ours")
        nursery.cancel_scope.cancel()
    logging.getLogger(LOGGER).debug("after")
    assert [(entry.kind, entry.text, entry.seconds) for entry in journal.entries] == [
        ("request", "GET /v1/jobs: 200", 0.25),
        ("log", "server.engine.scheduler: a job is taken over", None),
        ("warning", "core.plugins: a plugin is left out", None),
    ]


async def test_nobody_else_hears_more_than_before(listening, terminal):
    logging.getLogger(LOGGER).debug("for the journal")
    logging.getLogger(LOGGER).warning("for all")
    assert terminal.lines == ["for all"]
    assert len(listening.entries) == 2


async def test_who_wanted_more_still_hears_it(journal, terminal, nursery):
    logging.getLogger("cryomamba_backends").setLevel(logging.DEBUG)
    try:
        await nursery.start(lambda task_status: journal.run(task_status=task_status))
        logging.getLogger(LOGGER).debug("for both")
    finally:
        nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        logging.getLogger("cryomamba_backends").setLevel(logging.NOTSET)
    assert terminal.lines == ["for both"]
    assert journal.entries[-1].text.endswith("for both")


async def test_two_windows_hear_the_same_and_leave_the_loggers_as_they_were(host, journal):
    other, logger = Journal(host), logging.getLogger("cryomamba_backends")
    before = (logger.level, logger.propagate, list(logger.handlers))
    scopes = {journal: trio.CancelScope(), other: trio.CancelScope()}

    async def run(one, *, task_status):
        with scopes[one]:
            await one.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        for one in scopes:
            await nursery.start(run, one)
        logger.debug("for both")
        scopes[journal].cancel()
        await trio.testing.wait_all_tasks_blocked()
        logger.debug("for one")
        scopes[other].cancel()
    assert [entry.text for entry in journal.entries] == ["backends: for both"]
    assert [entry.text for entry in other.entries] == ["backends: for both", "backends: for one"]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


async def test_what_threads_say_is_told_in_the_windows_own(listening):
    told, heard = [], trio.Event()

    def hear(entry):
        told.append((entry.text, threading.get_ident()))
        heard.set()

    listening.added.connect(hear)
    await trio.to_thread.run_sync(listening.note, "plane", "read")
    await heard.wait()
    assert told == [("read", threading.get_ident())]


async def test_a_thread_that_speaks_after_the_end_harms_nobody(journal):
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: journal.run(task_status=task_status))
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(journal.note, "plane", "read")
    assert journal.entries[-1].text == "read"


def test_a_listener_that_raises_harms_nobody(journal):
    def broken(_):
        raise ZeroDivisionError("one by nought")

    journal.added.connect(broken)
    journal.note("link", "first")
    assert [entry.kind for entry in journal.entries] == ["link", "error"]
    assert "one by nought" in journal.entries[-1].text


def test_what_takes_time_is_noted_with_how_it_ended(journal):
    with journal.timing("task", "opening"):
        pass
    with pytest.raises(OSError, match="no disk"), journal.timing("task", "saving"):
        raise OSError("no disk")
    assert [entry.text for entry in journal.entries] == ["opening", "saving: no disk"]
    assert all(entry.seconds >= 0 for entry in journal.entries)


async def test_a_real_talk_is_noted_with_times_and_without_the_token(
    listening, open_link, open_server, until, tomogram
):
    async with open_server() as server, open_link() as link:
        token = server.token()
        link.connect(server.url, Credentials(token=token))
        await until(link.changed, lambda: link.connected)
        await link.session.upload(tomogram)
        report = listening.report()
    kinds = {entry.kind: entry for entry in listening.entries}
    assert {"link", "call", "request"} <= set(kinds)
    assert any(entry.text == "GET /v1/models: 200" and entry.seconds > 0 for entry in listening.entries)
    assert any(entry.text == "upload a.npy" for entry in listening.entries)
    assert token not in report
    assert "eyJ" not in report
    assert f"{server.url}: CryoMamba" in report
    assert "upload a.npy (" in report


class Broken:
    """Registers nothing, and fails at it."""

    def cryomamba_register_nonsense(self):
        return None


def test_a_report_says_what_one_needs_to_know_and_not_who_one_is(settings):
    host = PluginHost(settings)
    host.register(Broken(), name="broken")
    journal = Journal(host)
    journal.note("x", "the last word")
    journal.hide("opaque-secret")
    journal.engine = None
    report = journal.report()
    for words in ("version ", f"Python {sys.version.split()[0]}", " MB of this process", "broken", "LEFT OUT"):
        assert words in report
    assert "the last word" in report
    assert str(Path.home()) not in report


def test_a_report_names_the_qt_that_is_loaded_and_loads_none(journal):
    assert ("Qt: none is loaded" in journal.report()) is not any(name.startswith("PyQt") for name in sys.modules)
    import importlib

    binding = next((name for name in ("PyQt5", "PyQt6") if importlib.util.find_spec(name)), None)
    if binding is None:
        pytest.skip("there is no Qt")
    importlib.import_module(f"{binding}.QtCore")
    assert f"{binding} " in journal.report()
    assert "with Qt " in journal.report()

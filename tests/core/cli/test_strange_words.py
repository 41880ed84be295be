"""Words that come from a server, or a file's name, on the terminal: they are seen, and steer nothing."""

import io
import json

import pytest
from rich.text import Text

from cryomamba_core import wording
from cryomamba_core.artifacts import Artifact
from cryomamba_core.cli import state
from cryomamba_core.cli.boards import LineBoard, LiveBoard
from cryomamba_core.cli.failures import print_json, show_error
from cryomamba_core.cli.rows import Row
from cryomamba_core.cli.state import make_console
from cryomamba_core.cli.tables import new_form, new_table
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.jobs import JobProgress

#: Clear the screen, set the title, make a link, go up, C1 control, turn the writing, ring.
ORDERS = "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil\x1b\\\x1b[5A\x9b31m\u202e\x08"
STRANGE = f"good{ORDERS}[red]bad[/red][link=http://evil]here[/link] :boom:"
SEEN = "[red]bad[/red][link=http://evil]here[/link] :boom:"


@pytest.fixture(params=["terminal", "pipe"])
def console(request, monkeypatch):
    """A console that writes into memory, as on a terminal and as into a pipe."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    console = make_console(stderr=False)
    console.file = io.StringIO()
    console.width = 400
    assert console.is_terminal is (request.param == "terminal")
    return console


def row(**values):
    return Row(name=STRANGE, job_id=STRANGE, **values)


def in_a_row(console):
    running = row(state="running")
    running.take_progress(JobProgress(stage=STRANGE, done=1, total=2, unit=STRANGE, fraction=0.5))
    failed = row(state="failed", error=ErrorInfo(code=STRANGE, message=STRANGE, hint=STRANGE))
    done = row(state="completed", result=STRANGE)
    console.print(LiveBoard(console, [running, failed, done])._table())


def in_a_line(console):
    board = LineBoard(console)
    for each in (row(state="queued"), row(state="failed", error=ErrorInfo(code=STRANGE, message=STRANGE))):
        board.changed(each)
    board.say(STRANGE)


def in_a_table(console):
    table, form = new_table("a", STRANGE), new_form()
    table.add_row(STRANGE, Text(STRANGE))
    form.add_row(STRANGE, STRANGE)
    console.print(table)
    console.print(form)


def in_an_error(console):
    show_error(console, ErrorInfo(code=STRANGE, message=STRANGE, hint=STRANGE), subject=STRANGE)


def in_a_colour(console):
    console.print(Text.assemble(("■ ", "link http://evil\x1b[2J"), STRANGE), style="dim")


PLACES = (in_a_row, in_a_line, in_a_table, in_an_error, in_a_colour)


def steered(text):
    """Whether a terminal would do more than colour what it shows."""
    return any(order in text for order in ("\x1b[2J", "\x1b]", "\x1b[5A", "\x9b", "\u202e", "\x08", "\x07"))


@pytest.mark.parametrize("place", PLACES)
def test_strange_words_are_shown_as_they_are_and_steer_nothing(console, place):
    place(console)
    shown = console.file.getvalue()
    assert not steered(shown)
    assert SEEN in shown
    assert ("\x1b" in shown) is (console.is_terminal and place is not in_a_line)


@pytest.mark.parametrize("place", PLACES)
def test_without_the_protection_they_would(console, place, monkeypatch):
    monkeypatch.setattr(state, "_tamed", lambda segment: segment)
    place(console)
    assert steered(console.file.getvalue())


def test_a_line_for_a_log_is_one_line(console):
    LineBoard(console).changed(Row(name="a.mrc\nb.mrc: completed", state="running"))
    assert len(console.file.getvalue().splitlines()) == 1


def test_json_says_the_same_and_steers_nothing(capfd):
    print_json({STRANGE: [STRANGE, "Membran ä 膜"]})
    shown = capfd.readouterr().out
    assert not steered(shown)
    assert json.loads(shown) == {STRANGE: [STRANGE, "Membran ä 膜"]}
    assert "Membran ä 膜" in shown


def test_lines_and_tabs_and_letters_stay():
    assert wording.harmless("a\tb\nMembran ä 膜 ■") == "a\tb\nMembran ä 膜 ■"


def test_a_file_with_a_strange_name_is_segmented_listed_and_fetched(cryomamba, tomogram, tmp_path):
    path = tomogram("a\x1b[2J\x9b31m\n[red].mrc")
    answers = [cryomamba("info", path), cryomamba("segment", path, "--runner", "threshold", "--out", "OUT")]
    job_id = cryomamba("jobs", "list", "--json").json["jobs"][0]["id"]
    answers += [cryomamba("jobs", *words) for words in (["list"], ["show", job_id], ["watch", job_id])]
    answers.append(cryomamba("jobs", "fetch", job_id, "--out", "AGAIN"))
    answers += [cryomamba("segment", "missing\x1b[2J.mrc", "--runner", "threshold"), cryomamba("info", "\x1b[2J.mrc")]
    answers += [cryomamba("--bad\x1b[2J"), cryomamba("jobs", "show", "\x1b[2J")]
    assert [answer.code for answer in answers[:6]] == [0] * 6
    assert not [answer for answer in answers if steered(answer.out + answer.err) or "\x1b" in answer.out + answer.err]
    names = sorted(file.name for file in (tmp_path / "OUT").iterdir())
    assert "a_[2J_31m_[red].mask.mrc" in names
    assert sorted(file.name for file in (tmp_path / "AGAIN").iterdir()) == names


def test_an_artifact_has_no_strange_name():
    with pytest.raises(ValueError, match="no plain file name") as caught:
        Artifact(name=ORDERS, media_type="", size=0, sha256="00" * 32)
    assert not steered(str(caught.value))

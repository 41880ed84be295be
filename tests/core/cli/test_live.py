"""The live table, on a terminal that is real but for its glass."""

import re
import time

import engines
import pytest
from rich.console import Console
from terminals import Terminal

from cryomamba_core import wording
from cryomamba_core.cli.boards import LiveBoard, choose_rows
from cryomamba_core.cli.rows import Row, covered_fraction
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.jobs import JobProgress
from cryomamba_core.previews import Preview


def test_a_terminal_gets_a_live_table_that_leaves_it_tidy(process, gated, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    words, gate = gated
    (tmp_path / "bad.mrc").write_bytes(b"no tomogram" * 200)
    terminal = Terminal()
    running = process("segment", "bad.mrc", *words, "--out", "OUT", stderr=terminal.writing)
    engines.open_gate(gate, 0, 1, 2)
    for word in ("slow.npy", "running", "━", "segmenting", "preview", "of the volume", "1 refused"):
        terminal.wait_for(word)
    engines.open_gate(gate)
    out, _ = running.communicate(timeout=engines.DEADLINE)
    text = terminal.close()
    assert running.returncode == 8
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "\x1b" not in out
    assert "1 of 2 files completed" in out


def make_rows(**states):
    rows = []
    for name, state in states.items():
        error = ErrorInfo(code="x", message="broken") if state == "failed" else None
        rows.append(Row(name=name, state=state, error=error))
    return rows


def test_what_moves_is_shown_first_and_in_its_own_place():
    rows = make_rows(a="completed", b="completed", c="failed", d="running", e="queued", f="queued")
    shown, hidden = choose_rows(rows, 3)
    assert ([row.name for row in shown], hidden) == (["c", "d", "e"], 3)


def test_all_rows_are_shown_where_there_is_room():
    rows = make_rows(a="completed", b="queued")
    assert choose_rows(rows, 2) == (rows, 0)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_row_is_one_line_however_narrow_the_terminal(width):
    rows = make_rows(a="running", b="failed", c="completed")
    rows[0].take_progress(
        JobProgress(stage="segmenting", done=98, total=245, unit="tiles", fraction=0.4, eta_seconds=75.0)
    )
    rows[0].preview, rows[0].covered = 3, 0.42
    console = Console(width=width, height=30, force_terminal=True)
    with console.capture() as capture:
        console.print(LiveBoard(console, rows)._table())
    assert len(capture.get().splitlines()) == 4


def table_of(rows, width):
    console = Console(width=width, height=30, force_terminal=True)
    with console.capture() as capture:
        console.print(LiveBoard(console, rows)._table())
    return re.sub("\x1b\\[[0-9;]*m", "", capture.get())


def test_name_state_and_stage_are_whole_before_there_is_room_for_a_bar():
    row = Row(name="TS_001_rec_bin4_denoised.mrc", state="previewing", preview=3, covered=0.42)
    row.take_progress(JobProgress(stage="segmenting", done=98, total=245, unit="tiles", fraction=0.4, eta_seconds=75.0))
    shown = table_of([row], 100)
    assert "TS_001_rec_bin4_denoised.mrc  previewing   40 %  segmenting 98/245 tiles  1:15 left" in shown
    assert "━" not in shown
    assert "━" in table_of([row], 140)


def test_an_upload_is_counted_in_one_kind_of_unit_and_loses_its_rate_when_it_stalls():
    row = Row(name="big.mrc", state="uploading", rate=98.3e6, note="160.0 MB are there already")
    row.take_progress(JobProgress(stage="uploading", done=161, total=3200, unit="MB", fraction=0.05, eta_seconds=125.0))
    shown = table_of([row], 140)
    assert "uploading 161/3200 MB, 98.3 MB/s  2:05 left  160.0 MB are there already" in shown
    row.reported_at -= 20
    shown = table_of([row], 140)
    assert "uploading 161/3200 MB  160.0 MB are there already" in shown


def test_a_silent_server_takes_the_place_of_everything_that_was_expected(monkeypatch):
    rows = make_rows(a="running", b="uploading", c="completed", d="queued", e="waiting")
    rows[0].take_progress(
        JobProgress(stage="segmenting", done=98, total=245, unit="tiles", fraction=0.4, eta_seconds=75.0)
    )
    console = Console(width=100, height=30, force_terminal=True)
    board = LiveBoard(console, rows)

    def shown():
        with console.capture() as capture:
            console.print(board._table())
        return capture.get()

    now = time.monotonic()
    board.waiting(ErrorInfo(code="server/unreachable", message="the line was cut"))
    assert "left" in shown(), "a line that is cut is mostly there again at once"
    monkeypatch.setattr(time, "monotonic", lambda: now + 42.5)
    assert shown().count("the server does not answer, trying again (0:42)") == 3
    assert "left" not in shown()
    board.waiting(None)
    assert "left" in shown()
    board.waiting(ErrorInfo(code="access/rate-limited", message="too many"))
    monkeypatch.setattr(time, "monotonic", lambda: now + 50)
    assert "left" in shown()
    assert shown().count("the server wants fewer requests a minute, waiting (0:07)") == 1


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (33.5e6, "33.5 MB"), (2e15, "2000.0 TB")],
)
def test_sizes_are_counted_as_rates_are(size, words):
    assert wording.byte_size(size) == words


def test_the_covered_part_of_a_volume_reaches_all_of_it_though_the_last_block_overhangs():
    grid = VoxelGrid(shape=(10, 9, 7), voxel_size=(1, 1, 1))
    coarse = grid.coarsen(4)

    def covering(rows):
        covered = Region(start=(0, 0, 0), stop=(rows, 9, 7))
        return Preview(sequence=1, factor=4, grid=coarse, covered=covered, provisional=True, dtype="uint8", payload=b"")

    assert covered_fraction(covering(10)) == 1.0
    assert covered_fraction(covering(4)) == pytest.approx(1 / 3)

"""The live table, on a terminal that is real but for its glass."""

import os
import pty
import threading

import engines
import pytest
from rich.console import Console

from cryomamba_core.cli.boards import LiveBoard, choose_rows
from cryomamba_core.cli.rows import Row, covered_fraction
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.jobs import JobProgress
from cryomamba_core.previews import Preview


class Terminal:
    """Reads what a process writes to a terminal."""

    def __init__(self):
        self._reading, self.writing = pty.openpty()
        self._text = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._reading, 65536)
            except OSError:
                data = b""
            with self._changed:
                self._text += data.decode(errors="replace")
                self._closed = not data
                self._changed.notify_all()
            if not data:
                return

    def wait_for(self, word):
        with self._changed:
            assert self._changed.wait_for(lambda: word in self._text, engines.DEADLINE), self._text[-2000:]

    def close(self):
        """Wait for the end of the text, and return it."""
        os.close(self.writing)
        self._reader.join()
        os.close(self._reading)
        return self._text


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


def test_the_covered_part_of_a_volume_reaches_all_of_it_though_the_last_block_overhangs():
    grid = VoxelGrid(shape=(10, 9, 7), voxel_size=(1, 1, 1))
    coarse = grid.coarsen(4)

    def covering(rows):
        covered = Region(start=(0, 0, 0), stop=(rows, 9, 7))
        return Preview(sequence=1, factor=4, grid=coarse, covered=covered, provisional=True, dtype="uint8", payload=b"")

    assert covered_fraction(covering(10)) == 1.0
    assert covered_fraction(covering(4)) == pytest.approx(1 / 3)

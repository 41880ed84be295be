"""What processes say while they run: line by line, or on a terminal that is real but for its glass."""

import os
import pty
import threading

import engines


def wait_for_line(stream, word):
    """Read lines up to the one that holds `word`."""
    for line in stream:
        if word in line:
            return line
    raise AssertionError(f"{word!r} was never written")


class Terminal:
    """Reads what a process writes to a terminal."""

    def __init__(self):
        self._reading, self.writing = pty.openpty()
        self._text = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
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

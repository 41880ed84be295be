"""Words on the canvas: what is not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import napari
from napari.components.overlays import TextOverlay

#: Name of the overlay among those of the canvas.
OVERLAY = "cryomamba"


class _Board:
    """What all notices of one viewer say, oldest first, by who says it and about what."""

    def __init__(self) -> None:
        self.sentences: dict[tuple[object, object], str] = {}
        self.hushes = 0


_boards: WeakKeyDictionary[napari.Viewer, _Board] = WeakKeyDictionary()


class Notice:
    """Sentences in the upper left corner, one for each subject; notices of one viewer stand below each other.

    Parameters
    ----------
    viewer
        Whose canvas.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._board = _board_of(viewer)
        self._voice = object()

    def say(self, subject: object, sentence: str | None) -> None:
        """Show a sentence about a subject instead of the one before; None for nothing."""
        sentences, key = self._board.sentences, (self._voice, subject)
        if sentences.get(key) == sentence:
            return
        if sentence is None:
            del sentences[key]
        else:
            sentences[key] = sentence
        _show(self._viewer)

    def clear(self) -> None:
        """Show nothing more; what other notices say stays."""
        for voice, subject in list(self._board.sentences):
            if voice is self._voice:
                self.say(subject, None)


def anything_said(viewer: napari.Viewer) -> bool:
    """Whether something of what is to be seen is not there yet."""
    return bool(_board_of(viewer).sentences)


@contextmanager
def hushed(viewer: napari.Viewer) -> Iterator[None]:
    """Show no notice meanwhile; what is said meanwhile is shown afterwards."""
    board = _board_of(viewer)
    board.hushes += 1
    _show(viewer)
    try:
        yield
    finally:
        board.hushes -= 1
        _show(viewer)


def _board_of(viewer: napari.Viewer) -> _Board:
    return _boards.setdefault(viewer, _Board())


def _show(viewer: napari.Viewer) -> None:
    board, overlays = _board_of(viewer), viewer.canvas.overlays
    if OVERLAY not in overlays:
        overlays[OVERLAY] = TextOverlay()
    overlays[OVERLAY].text = "\n".join(board.sentences.values())
    overlays[OVERLAY].visible = bool(board.sentences) and not board.hushes

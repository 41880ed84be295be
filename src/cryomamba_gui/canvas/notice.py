"""Words on the canvas: what is not there yet."""

from __future__ import annotations

import napari
from napari.components.overlays import TextOverlay

#: Name of the overlay among those of the canvas.
OVERLAY = "cryomamba"


class Notice:
    """Sentences in the upper left corner, one for each subject.

    Parameters
    ----------
    viewer
        Whose canvas.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._sentences: dict[object, str] = {}

    def say(self, subject: object, sentence: str | None) -> None:
        """Show a sentence about a subject instead of the one before; None for nothing."""
        if self._sentences.get(subject) == sentence:
            return
        if sentence is None:
            del self._sentences[subject]
        else:
            self._sentences[subject] = sentence
        overlay = self._overlay()
        overlay.text = "\n".join(self._sentences.values())
        overlay.visible = bool(self._sentences)

    @property
    def text(self) -> str:
        """What is shown."""
        return "\n".join(self._sentences.values())

    def clear(self) -> None:
        """Show nothing."""
        for subject in list(self._sentences):
            self.say(subject, None)

    def _overlay(self) -> TextOverlay:
        overlays = self._viewer.canvas.overlays
        if OVERLAY not in overlays:
            overlays[OVERLAY] = TextOverlay()
        return overlays[OVERLAY]

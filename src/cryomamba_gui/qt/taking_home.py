"""Taking home what was made: masks in any format, pictures, films."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QRadioButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from cryomamba_core.errors import OutputExists
from cryomamba_gui.canvas.filming import film_suffixes, screenshot, turning_movie
from cryomamba_gui.masks.disk import told_as_storage
from cryomamba_gui.masks.exporting import Exported, take_home
from cryomamba_gui.masks.review import load_review
from cryomamba_gui.qt.pieces import alive, copy, named, wrapped

if TYPE_CHECKING:
    from cryomamba_gui.canvas.place import Place, Work
    from cryomamba_gui.qt.workplace import Workplace


#: Ending of a screenshot.
PICTURE = ".png"


class TakeHomeBox(QWidget):
    """Export, screenshot, film, and the command that does the same.

    Parameters
    ----------
    workplace
        Has the exporters.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._workplace = workplace
        self._place: Place | None = None
        self._dialog: QFileDialog | None = None
        self._filming: Work | None = None
        self._format = named(QComboBox(), "home.format", tip="What to write", spoken="format")
        self._format.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for exporter in workplace.desk.host.exporters:
            self._format.addItem(f"{exporter.artifact} ({exporter.name})", exporter.artifact)
        self._edited = named(QRadioButton("as edited"), "home.edited", tip="The mask as it is now")
        self._original = named(QRadioButton("as the job made it"), "home.original", tip="Without your edits")
        self._edited.setChecked(True)
        self._export = self._button("E&xport…", "export", "Write the mask to a file", self._choose_target)
        self._copy = self._button(
            "Cop&y command", "copy-command", "Copy the command that does the same in a terminal", self._copy_command
        )
        self._picture = self._button("&Screenshot…", "screenshot", "Write the canvas as it is", self._choose_picture)
        self._film = self._button("Movie…", "movie", "Film the volume turning once", self._choose_film)
        self._done = named(wrapped(selectable=True), "home.done")
        label = QLabel("For&mat")
        label.setBuddy(self._format)
        formats, versions, buttons = QHBoxLayout(), QHBoxLayout(), QGridLayout()
        formats.addWidget(label)
        formats.addWidget(self._format, 1)
        versions.addWidget(self._edited)
        versions.addWidget(self._original)
        versions.addStretch()
        for place, button in enumerate((self._export, self._copy, self._picture, self._film)):
            buttons.addWidget(button, *divmod(place, 2))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (formats, versions, buttons):
            layout.addLayout(part)
        layout.addWidget(self._done)
        self.attend(None)

    @property
    def filming(self) -> Work | None:
        """The film that was begun last, which is not about the mask."""
        return self._filming

    def attend(self, place: Place | None) -> None:
        """Turn to another tomogram, or take in that its mask has come."""
        if place is not self._place:
            self._say("")
        self._place = place
        mask = place.mask if place is not None else None
        for widget in (self._format, self._edited, self._original, self._export):
            widget.setEnabled(mask is not None)
        self._picture.setEnabled(place is not None)
        self._film.setEnabled(
            place is not None and place.tomogram.overview is not None and self._filming not in place.works
        )
        self._copy.setEnabled(place is not None and place.item is not None)

    def _button(self, text: str, name: str, tip: str, slot: Callable[[], object]) -> QPushButton:
        button = named(QPushButton(text), f"home.{name}", tip=tip)
        button.clicked.connect(lambda _=False: slot())
        return button

    def _choose_target(self) -> None:
        if self._place is not None:
            artifact = str(self._format.currentData())
            exporter = self._workplace.desk.host.exporter_for(artifact)
            name = f"{self._place.stage.name}.{artifact}"
            then = partial(self._begin_export, self._place, artifact)
            self._ask("Export the mask", name, {exporter.suffix: f"{exporter.name} (*{exporter.suffix})"}, then)

    def _choose_picture(self) -> None:
        if self._place is not None:
            name = f"{self._place.stage.name}{PICTURE}"
            self._ask(
                "Save a screenshot", name, {PICTURE: f"PNG (*{PICTURE})"}, partial(self._begin_picture, self._place)
            )

    def _choose_film(self) -> None:
        if self._place is not None:
            kinds = {suffix: f"{suffix[1:].upper()} (*{suffix})" for suffix in film_suffixes()}
            name = f"{self._place.stage.name}{next(iter(kinds))}"
            self._ask("Save a movie", name, kinds, partial(self._begin_film, self._place))

    def _ask(self, title: str, name: str, kinds: dict[str, str], then: Callable[[Path, bool], object]) -> None:
        """Let the user choose a file; the window goes on meanwhile.

        Parameters
        ----------
        title
            Of the dialog.
        name
            That it proposes.
        kinds
            Ending → words for it.
        then
            Called with the path and whether the user knows that it is replaced.
        """
        assert self._place is not None, "the buttons are off without one"
        if self._dialog is not None:
            self._dialog.deleteLater()
        self._dialog = dialog = QFileDialog(self, title, str(self._place.path.parent / name), ";;".join(kinds.values()))
        named(dialog, "home.dialog")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)  # asks before a file is replaced
        dialog.selectFile(name)

        def answer(file: str) -> None:
            chosen = Path(file)
            known = chosen.name.lower().endswith(tuple(kinds))
            path = chosen if known else chosen.with_name(chosen.name + next(iter(kinds)))
            then(path, path == chosen)

        dialog.fileSelected.connect(answer)
        dialog.open()

    def _begin_export(self, place: Place, artifact: str, target: Path, overwrite: bool) -> None:  # noqa: FBT001  # an answer
        self._say("")
        write = partial(self._write, place, artifact, target, original=self._original.isChecked(), overwrite=overwrite)
        place.begin_work(f"writing {target.name}", write, about_mask=True)

    async def _write(
        self, place: Place, artifact: str, target: Path, work: Work, *, original: bool, overwrite: bool
    ) -> None:
        mask, manifest = place.mask, place.manifest
        if mask is None or manifest is None:
            return
        review = await trio.to_thread.run_sync(load_review, mask.folder)
        try:
            exported = await trio.to_thread.run_sync(
                partial(
                    take_home,
                    self._workplace.desk.host,
                    artifact,
                    mask,
                    manifest.run,
                    target,
                    partial(place.report_from_thread, work),
                    original=original,
                    review=review,
                    overwrite=overwrite,
                    spared=(place.path,),
                )
            )
        except trio.Cancelled:
            self._say(f"stopped; {target.name} was not written", place)
            raise
        self._say(written(exported), place)

    def _begin_picture(self, place: Place, target: Path, overwrite: bool) -> None:  # noqa: FBT001  # an answer
        if self._is_free(target, overwrite=overwrite):
            self._workplace.desk.soon(partial(self._take_picture, place, target), name=f"writing {target.name}")

    async def _take_picture(self, place: Place, target: Path) -> None:
        with told_as_storage(f"{target} cannot be written"):
            await screenshot(place.stage.viewer, target)
        self._say(f"wrote {target}", place)

    def _begin_film(self, place: Place, target: Path, overwrite: bool) -> None:  # noqa: FBT001  # an answer
        if self._is_free(target, overwrite=overwrite):
            self._say("")
            self._filming = place.begin_work(f"filming {target.name}", partial(self._take_film, place, target))
            self.attend(self._place)

    async def _take_film(self, place: Place, target: Path, work: Work) -> None:
        try:
            with told_as_storage(f"{target} cannot be written"):
                await turning_movie(place.stage.viewer, target, on_progress=partial(place.progress, work))
        except trio.Cancelled:
            self._say(f"stopped; {target.name} was not written", place)
            raise
        self._say(f"wrote {target}", place)

    def _is_free(self, target: Path, *, overwrite: bool) -> bool:
        """Whether a file may be written; if not, that is said."""
        if target.exists() and not overwrite:
            error = OutputExists(f"{target} exists", hint="choose another name, or overwrite it")
            self._workplace.desk.troubles.report(error, what=f"writing {target.name}")
            return False
        return True

    def _copy_command(self) -> None:
        if self._place is not None and self._place.item is not None:
            copy(self._place.item.command)
            self._say("copied the command that segments this tomogram")

    def _say(self, words: str, place: Place | None = None) -> None:
        """Show what came of something, unless the user has turned to another tomogram than `place` since."""
        if alive(self) and (place is None or place is self._place):
            self._done.setText(words)
            self._done.setVisible(bool(words))


def written(exported: Exported) -> str:
    """What an export has left, in a few lines."""
    lines = [f"wrote {exported.path}"]
    if exported.sidecar is not None:
        lines.append(f"wrote {exported.sidecar.name} beside it")
    return "\n".join((*lines, *exported.notes))

"""The tools that correct a mask: napari's own, at hand where the labels are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QGridLayout, QLabel, QPushButton, QSpinBox, QWidget

from cryomamba_gui.canvas.layers import TOO_LARGE
from cryomamba_gui.qt.pieces import alive, named, wrapped

if TYPE_CHECKING:
    from cryomamba_gui.canvas.stage import Stage

#: Name of napari's mode → words on the button, and what it does.
TOOLS = {
    "pan_zoom": ("Move", "Move and zoom the picture"),
    "paint": ("Paint", "Paint the selected label"),
    "erase": ("Erase", "Take labels away"),
    "fill": ("Fill", "Fill what is connected with the selected label"),
    "polygon": ("Polygon", "Draw around what is to have the selected label, in 2D; a double click ends it"),
    "pick": ("Pick", "Select the label under the mouse"),
}
#: The tool that changes nothing, the one that works in a section only, and the one that does so in large masks.
MOVE, POLYGON, FILL = "pan_zoom", "polygon", "fill"
#: Buttons in a row, and the largest brush in voxels.
IN_A_ROW, LARGEST_BRUSH = 3, 400
#: Words of the button that reverts, before and after it was pressed once, and for how many ms it waits then.
REVERT, CONFIRM, PATIENCE = "&Revert all", "&Really?", 5000


class ToolBox(QWidget):
    """Tools, brush, undo and redo for one mask.

    Attributes
    ----------
    reverting
        Emitted when the user wants back what the job made.
    """

    reverting = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._stage: Stage | None = None
        self._asked = QTimer(self)
        self._asked.setSingleShot(True)  # a setter of Qt
        self._asked.setInterval(PATIENCE)
        self._asked.timeout.connect(self._calm)
        self._buttons: dict[str, QPushButton] = {}
        self._group = QButtonGroup(self)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for place, (mode, (words, tip)) in enumerate(TOOLS.items()):
            button = named(QPushButton(words), f"mask.tool.{mode}", tip=tip)
            button.setCheckable(True)
            button.clicked.connect(lambda _=False, mode=mode: self._use(mode))
            self._group.addButton(button)
            self._buttons[mode] = button
            layout.addWidget(button, *divmod(place, IN_A_ROW))
        self._draw_brush(layout)
        self._draw_history(layout)
        self._note = named(wrapped(), "mask.tool-note")
        layout.addWidget(self._note, 4, 0, 1, IN_A_ROW)
        for column in range(IN_A_ROW):
            layout.setColumnStretch(column, 1)
        self._show()

    def attend(self, stage: Stage | None) -> None:
        """Work on the mask of another tomogram."""
        if self._stage is not None:
            for event in _events_of(self._stage):
                event.disconnect(self._show)
        self._stage = stage
        if stage is not None:
            for event in _events_of(stage):
                event.connect(self._show)
        self._calm()
        self._show()

    def show_edited(self, *, edited: bool) -> None:
        """Take in whether there is something to revert."""
        self._revert.setEnabled(edited)

    def _draw_brush(self, layout: QGridLayout) -> None:
        self._brush = named(QSpinBox(), "mask.brush", tip="Width of the brush in voxels", spoken="width of the brush")
        self._brush.setRange(1, LARGEST_BRUSH)
        self._brush.valueChanged.connect(self._set_brush)
        label = QLabel("&Brush")
        label.setBuddy(self._brush)
        self._volume = named(QCheckBox("in 3D"), "mask.brush-3d", tip="Paint and fill neighbouring sections, too")
        self._volume.toggled.connect(self._set_volume)
        layout.addWidget(label, 2, 0)
        layout.addWidget(self._brush, 2, 1)
        layout.addWidget(self._volume, 2, 2)

    def _draw_history(self, layout: QGridLayout) -> None:
        self._undo = named(QPushButton("&Undo"), "mask.undo", tip="Take the last edit back")
        self._redo = named(QPushButton("R&edo"), "mask.redo", tip="Make the edit again that was taken back")
        self._revert = named(
            QPushButton(REVERT), "mask.revert", tip="Bring back what the job made; press twice to confirm"
        )
        self._undo.clicked.connect(self._undo_edit)
        self._redo.clicked.connect(self._redo_edit)
        self._revert.clicked.connect(self._ask_revert)
        for column, button in enumerate((self._undo, self._redo, self._revert)):
            layout.addWidget(button, 3, column)

    def _show(self, _: object = None) -> None:
        """Show what napari is set to, by whomever."""
        stage = self._stage
        if stage is None or not alive(self):
            return
        mask = stage.mask
        barred = mask.wanted and not mask.visible
        unfit = set(self._buttons) - {MOVE} if barred else _unfit(stage)
        for mode, button in self._buttons.items():
            button.setEnabled(mode not in unfit)
        self._group.setExclusive(False)  # napari has modes without a button of ours
        for mode, button in self._buttons.items():
            button.setChecked(mode == str(mask.mode))
        self._group.setExclusive(True)
        self._brush.blockSignals(True)  # noqa: FBT003  # Qt's
        self._brush.setValue(round(mask.brush_size))
        self._brush.blockSignals(False)  # noqa: FBT003  # Qt's
        self._volume.blockSignals(True)  # noqa: FBT003  # Qt's
        self._volume.setChecked(mask.n_edit_dimensions == 3)
        self._volume.blockSignals(False)  # noqa: FBT003  # Qt's
        note = "This mask is too large to be corrected in 3D: turn to 2D." if barred else ""
        if not barred and not mask.can_be_filled:
            note = TOO_LARGE
        self._note.setText(note)
        self._note.setVisible(bool(note))

    def _use(self, mode: str) -> None:
        """Take a tool; the mask is shown and made active, so that it is the mask that is painted on."""
        stage = self._stage
        if stage is not None:
            if stage.mask not in stage.viewer.layers and stage.shown_mask is not None:
                stage.show_mask(stage.shown_mask)  # the user had taken the layer away
            if not stage.mask.wanted:
                stage.mask.visible = True
            stage.viewer.layers.selection.active = stage.mask
            stage.mask.mode = mode
            self._show()
        self._calm()

    def _set_brush(self, width: int) -> None:
        if self._stage is not None:
            self._stage.mask.brush_size = width

    def _set_volume(self, wanted: bool) -> None:  # noqa: FBT001  # a slot
        if self._stage is not None:
            self._stage.mask.n_edit_dimensions = 3 if wanted else 2
            if str(self._stage.mask.mode) in _unfit(self._stage):
                self._stage.mask.mode = MOVE

    def _undo_edit(self) -> None:
        if self._stage is not None:
            self._stage.mask.undo()
        self._calm()

    def _redo_edit(self) -> None:
        if self._stage is not None:
            self._stage.mask.redo()
        self._calm()

    def _ask_revert(self) -> None:
        """Ask once more on the button itself: a dialog would stop everything."""
        if self._asked.isActive():
            self._calm()
            self.reverting.emit()
        else:
            self._revert.setText(CONFIRM)
            self._asked.start()

    def _calm(self) -> None:
        self._asked.stop()
        self._revert.setText(REVERT)


def _unfit(stage: Stage) -> set[str]:
    """Tools that cannot be used on as many dimensions as napari is set to."""
    mask = stage.mask
    polygon = stage.viewer.dims.ndisplay == 2 and mask.n_edit_dimensions == 2
    return {mode for mode, fits in ((POLYGON, polygon), (FILL, mask.can_be_filled)) if not fits}


def _events_of(stage: Stage) -> tuple[Any, ...]:
    """What tells that a tool was chosen elsewhere, or cannot be used any more or again."""
    events, ndisplay = stage.mask.events, stage.viewer.dims.events.ndisplay
    return (events.mode, events.brush_size, events.n_edit_dimensions, events.visible, events.data, ndisplay)

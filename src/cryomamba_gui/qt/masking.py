"""The tab of the mask: what is in it, the tools that correct it, the verdict, and the way home."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QLabel, QPushButton, QSlider, QVBoxLayout, QWidget

from cryomamba_core.jobs import JobState
from cryomamba_core.wording import percent
from cryomamba_gui.masks.keeping import revert_mask
from cryomamba_gui.qt.folding import Column, scrolled
from cryomamba_gui.qt.label_table import LabelTable
from cryomamba_gui.qt.painting import ToolBox
from cryomamba_gui.qt.pieces import DOCUMENT_MARGIN, ElidedLabel, ErrorNote, ProgressRow, alive, hear, named, wrapped
from cryomamba_gui.qt.reviewing import ReviewBox
from cryomamba_gui.qt.taking_home import TakeHomeBox

if TYPE_CHECKING:
    from cryomamba_gui.canvas.place import Place, Work
    from cryomamba_gui.canvas.stage import Stage
    from cryomamba_gui.masks.mask import EditedMask
    from cryomamba_gui.masks.measures import Measures
    from cryomamba_gui.qt.workplace import Workplace

#: Steps of the slider of opacity.
OPAQUE = 100


class MaskTab(Column):
    """The mask of the tomogram that the user is at.

    Parameters
    ----------
    workplace
        Has the tomograms.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._place: Place | None = None
        self._mask: EditedMask | None = None
        self._measures: Measures | None = None
        self._stage: Stage | None = None
        self._work: Work | None = None
        self._reverting: Work | None = None
        self._hearing_place: list[Callable[[], None]] = []
        self._hearing_mask: list[Callable[[], None]] = []
        self._file = named(ElidedLabel(mode=Qt.TextElideMode.ElideMiddle), "mask.file")
        self._file.setContentsMargins(DOCUMENT_MARGIN, 0, 0, 0)
        self._state = named(wrapped(), "mask.state")
        self._progress = ProgressRow("mask.progress")
        self._progress.cancelled.connect(self._cancel)
        self._table = LabelTable()
        self._table.toggled.connect(self._show_label)
        self._table.picked.connect(self._pick)
        self._detail = named(wrapped(), "mask.detail")
        self._measured = named(wrapped(), "mask.measured")
        self._error = ErrorNote("mask.error")
        looks = self._draw_looks()
        self._tools = ToolBox()
        self._tools.reverting.connect(self._revert)
        self._review = ReviewBox(workplace)
        self._home = TakeHomeBox(workplace)
        self._boxes = QWidget()
        column = QVBoxLayout(self._boxes)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(_box("Labels", self._table, self._detail, self._measured, self._error, looks))
        column.addWidget(_box("Correct", self._tools))
        column.addWidget(_box("Review", self._review))
        inside = QWidget()
        whole = QVBoxLayout(inside)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(self._boxes)
        self._away = _box("Take home", self._home)
        whole.addWidget(self._away)
        whole.addStretch()
        area = named(scrolled(inside), "mask.area")
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        layout = QVBoxLayout(self)
        layout.addWidget(self._file)
        layout.addWidget(self._state)
        layout.addWidget(self._progress)
        layout.addWidget(area, 1)
        hear(self, workplace.bench.chosen, self._turn_to)
        self._turn_to(workplace.bench.current)

    def _draw_looks(self) -> QWidget:
        """What shows one label fainter, or alone."""
        self._opacity = named(
            QSlider(Qt.Orientation.Horizontal),
            "mask.opacity",
            tip="Opacity of the selected label",
            spoken="opacity of the selected label",
        )
        self._opacity.setRange(0, OPAQUE)
        self._opacity.setValue(OPAQUE)
        self._opacity.setPageStep(OPAQUE // 10)
        self._opacity.valueChanged.connect(self._set_opacity)
        self._isolate = named(QPushButton("&Isolate"), "mask.isolate", tip="Show the selected label alone")
        self._isolate.setCheckable(True)
        self._isolate.clicked.connect(self._isolate_label)
        widget = QWidget()
        row = QHBoxLayout(widget)
        row.setContentsMargins(0, 0, 0, 0)
        label = QLabel("&Opacity")
        label.setBuddy(self._opacity)
        row.addWidget(label)
        row.addWidget(self._opacity, 1)
        row.addWidget(self._isolate)
        return widget

    def _turn_to(self, place: Place | None) -> None:
        _stop(self._hearing_place)
        self._place = place
        if place is not None:
            self._hearing_place.append(hear(self, place.changed, self._show))
        self._show()

    def _show(self) -> None:
        """Show the place as it is now."""
        place = self._place
        mask = place.mask if place is not None else None
        if mask is not self._mask:
            self._take_mask(place, mask)
        self._boxes.setVisible(mask is not None)
        self._away.setVisible(place is not None)
        self._show_works()
        self._show_state()
        self._home.attend(place)

    def _show_works(self) -> None:
        works = self._place.works if self._place is not None else ()
        here = [work for work in works if work.about_mask or work is self._home.filming]
        self._work = here[0] if here else None
        if self._work is None:
            self._progress.show_nothing()
        elif self._work.total:
            self._progress.show_progress(self._work.done, self._work.total, self._work.name)
        else:
            self._progress.show_busy(self._work.name)
        self._tools.setEnabled(self._reverting not in works)

    def _take_mask(self, place: Place | None, mask: EditedMask | None) -> None:
        """Turn to another mask."""
        _stop(self._hearing_mask)
        if self._stage is not None:
            self._stage.mask.events.selected_label.disconnect(self._follow_label)
        self._mask = mask
        self._measures = measures = place.measures if place is not None else None
        self._stage = stage = place.stage if place is not None and mask is not None else None
        if mask is not None and measures is not None and stage is not None:
            stage.mask.events.selected_label.connect(self._follow_label)
            self._hearing_mask += [
                hear(self, mask.changed, self._show_state),
                hear(self, mask.saved, self._show_state),
                hear(self, measures.changed, self._show_measures),
                hear(self, measures.progressed, self._show_measuring),
            ]
        self._tools.attend(stage)
        self._review.attend(place)
        self._show_measures()
        if stage is not None:
            values = self._table.values
            if values and stage.mask.selected_label not in values:
                stage.mask.selected_label = values[0]
            self._follow_label()

    def _show_measures(self) -> None:
        if self._mask is None or self._measures is None or self._stage is None:
            return
        measures = self._measures
        hidden = self._stage.colours.hidden
        self._table.show_labels(self._mask.labels, measures.statistics, current=measures.current, hidden=hidden)
        self._measured.setText("" if measures.current or measures.error else "measuring …")
        self._measured.setVisible(bool(self._measured.text()))
        self._error.show_error(measures.error)
        self._follow_label()

    def _show_measuring(self, done: int, total: int) -> None:
        if self._measures is not None and not self._measures.current:
            self._measured.setText(f"measuring … {percent(done / max(1, total))}")
            self._measured.show()

    def _show_state(self) -> None:
        self._file.setText(self._place.path.name if self._place is not None else "")
        self._file.setVisible(self._place is not None)
        self._state.setText(_words(self._place))
        self._tools.show_edited(edited=self._mask is not None and self._mask.edited)

    def _follow_label(self, _: object = None) -> None:
        """Show the label that napari paints with, whoever has chosen it, and how it looks."""
        if self._stage is None or not alive(self):
            return
        value, colours = int(self._stage.mask.selected_label), self._stage.colours
        listed = value in self._table.values
        self._table.show_selected(value)
        self._detail.setText(self._table.detail)
        self._detail.setVisible(bool(self._detail.text()))
        self._opacity.blockSignals(True)  # noqa: FBT003  # Qt's
        self._opacity.setValue(round(OPAQUE * colours.opacities.get(value, 1.0)))
        self._opacity.blockSignals(False)  # noqa: FBT003  # Qt's
        self._opacity.setEnabled(listed and (value not in colours.hidden or colours.isolated == value))
        if colours.isolated is not None and listed and colours.isolated != value:
            self._stage.isolate(value)
        self._isolate.setChecked(colours.isolated is not None)

    def _pick(self, value: int) -> None:
        if self._stage is not None:
            self._stage.mask.selected_label = value
            self._follow_label()

    def _show_label(self, value: int, shown: bool) -> None:  # noqa: FBT001  # a slot
        if self._stage is not None:
            self._stage.hide_label(value, hidden=not shown)
            self._follow_label()

    def _set_opacity(self, steps: int) -> None:
        value = self._table.value
        if self._stage is not None and value is not None:
            self._stage.set_label_opacity(value, steps / OPAQUE)

    def _isolate_label(self) -> None:
        if self._stage is not None:
            self._stage.isolate(self._table.value if self._isolate.isChecked() else None)
            self._follow_label()

    def _revert(self) -> None:
        """Bring back what the job made; nobody can paint until that is done."""
        place, mask = self._place, self._mask
        if place is not None and mask is not None:
            place.stage.mask.editable = False  # the stage allows it again when it hears that the mask has changed
            self._reverting = place.begin_work(
                f"reverting the mask of {place.path.name}",
                lambda work: revert_mask(mask, partial(place.progress, work)),
                about_mask=True,
            )
            self._show_works()

    def _cancel(self) -> None:
        """Stop what the bar shows."""
        if self._work is not None:
            self._work.scope.cancel()


def _box(title: str, *widgets: QWidget) -> QGroupBox:
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    margin = box.fontMetrics().averageCharWidth()
    layout.setContentsMargins(margin, margin, margin, margin)
    for widget in widgets:
        layout.addWidget(widget)
    return box


def _stop(hearing: list[Callable[[], None]]) -> None:
    for stop in hearing:
        stop()
    hearing.clear()


def _words(place: Place | None) -> str:
    """How it stands with the mask of a tomogram."""
    if place is None:
        return "No tomogram is open."
    if place.mask is not None:
        if not place.mask.edited:
            return "as the job made it"
        return "edited, not saved yet" if place.mask.unsaved else "edited, saved"
    if place.item is None:
        return "It has no mask: segment it, or show one of its jobs."
    state = place.item.state
    if state is JobState.COMPLETED:
        coming = any(work.about_mask for work in place.works)
        return "The mask is on its way." if coming else "The mask is not here: Show in Jobs fetches it."
    if state.ended:
        error = place.item.record.error
        return f"The job is {state}" + (f": {error.message}" if error is not None else "")
    return "The job is not done; its labels are shown as they come."

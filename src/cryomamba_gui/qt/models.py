"""Which model segments: the choice, and what is known of the chosen one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel, QVBoxLayout, QWidget

from cryomamba_core import wording
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.qt.folding import Fold, discard
from cryomamba_gui.qt.pieces import ColourChip, ElidedLabel, hear, named, wrapped

if TYPE_CHECKING:
    from cryomamba_core.models import ModelInfo
    from cryomamba_gui.qt.workplace import Workplace

#: Labels beside each other.
COLUMNS = 2
#: Letters of a model's name that are seen, where there is little room.
FEWEST_LETTERS = 12


class ModelPicker(QWidget):
    """The models of the engine that the window is connected with.

    The one that the user has chosen stays chosen while the engine is away, and is chosen again by
    its name when there are other models than before.

    Parameters
    ----------
    workplace
        Has the connection.

    Attributes
    ----------
    chosen
        Emitted when there is another model to segment with, or none.
    about
        The part that is folded away.
    box
        The choice.
    """

    chosen = Signal()

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._link = workplace.desk.link
        self._models: tuple[ModelInfo, ...] = ()
        self._wanted: tuple[str, str] | None = None
        self.box = named(QComboBox(), "segment.model", tip="What segments the tomogram", spoken="model")
        self.box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.box.setMinimumContentsLength(FEWEST_LETTERS)
        self.box.activated.connect(self._take_choice)
        self._labels = named(QWidget(), "segment.labels", spoken="what the model segments")
        self._grid = QGridLayout(self._labels)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(2)
        for column in range(COLUMNS):
            self._grid.setColumnStretch(2 * column + 1, 1)
        self._expects = named(wrapped(), "segment.model-expects")
        self._description = named(wrapped(selectable=True), "segment.model-about")
        self.about = Fold("About this model", "segment.about", self._description)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.box, self._labels, self._expects, self.about):
            layout.addWidget(widget)
        hear(self, self._link.changed, self._show_models)
        self._show_models()

    @property
    def model(self) -> ModelInfo | None:
        """The chosen model."""
        index = self.box.currentIndex()
        return self._models[index] if 0 <= index < len(self._models) else None

    def choose(self, name: str, runner: str | None = None) -> None:
        """Choose a model by its name, if it is there."""
        for index, model in enumerate(self._models):
            if model.name == name and runner in (None, model.runner):
                self.box.setCurrentIndex(index)
                self._take_choice()
                return

    def _take_choice(self) -> None:
        """Take in what the user has chosen."""
        model = self.model
        self._wanted = None if model is None else (model.name, model.runner)
        self._show_model()

    def _show_models(self) -> None:
        """Show the engine's models, with the wanted one chosen."""
        models = self._link.models
        if models == self._models and models:
            return
        before = self.model
        self._models = models
        names = [model.name for model in models]
        self.box.clear()
        for model in models:
            self.box.addItem(f"{model.name} ({model.runner})" if names.count(model.name) > 1 else model.name)
        if not models:
            self.box.addItem(_no_models(self._link.state))
        self.box.setEnabled(bool(models))
        self.box.setCurrentIndex(self._index())
        if self.model != before or before is None:
            self._show_model()

    def _index(self) -> int:
        """Where the wanted model is, or one of its name; else the first."""
        known = [(model.name, model.runner) for model in self._models]
        if self._wanted in known:
            return known.index(self._wanted)
        names = [name for name, _ in known]
        return names.index(self._wanted[0]) if self._wanted is not None and self._wanted[0] in names else 0

    def _show_model(self) -> None:
        model = self.model
        self._show_labels(model)
        for widget in (self._labels, self._expects, self.about):
            widget.setVisible(model is not None)
        self._expects.setText("" if model is None else expects(model))
        self._description.setText("" if model is None else about(model))
        self.about.summarize("" if model is None else wording.one_line(model.description))
        self.chosen.emit()

    def _show_labels(self, model: ModelInfo | None) -> None:
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                discard(widget)
        for place, label in enumerate(model.labels if model is not None else ()):
            row, column = divmod(place, COLUMNS)
            name = named(ElidedLabel(label.name), f"segment.label.{label.value}")
            self._grid.addWidget(ColourChip(label.color), row, 2 * column)
            self._grid.addWidget(name, row, 2 * column + 1)


def expects(model: ModelInfo) -> str:
    """What a tomogram has to be like."""
    if model.voxel_size is None:
        return f"Any voxel size · runs with {model.runner}"
    return f"Voxels of {wording.lengths(reversed(model.voxel_size), 'Å')} · runs with {model.runner}"


def about(model: ModelInfo) -> str:
    """What else is known of a model, in a few lines."""
    lines = [model.description]
    lines += [f"{name}: {value}" for name, value in model.details.items()]
    lines += [f"Licence: {model.licence}"] if model.licence else []
    lines += [f"Please cite: {model.citation}"] if model.citation else []
    return "\n".join(line for line in lines if line) or "Its authors say nothing about it."


def heading(text: str, buddy: QWidget) -> QLabel:
    """A line above a widget, with a key that leads there."""
    label = QLabel(text)
    label.setBuddy(buddy)
    label.setTextFormat(Qt.TextFormat.PlainText)
    return label


def _no_models(state: LinkState) -> str:
    if state is LinkState.CONNECTED:
        return "the engine has no model"
    return "asking the engine …" if state is LinkState.CONNECTING else "not connected"

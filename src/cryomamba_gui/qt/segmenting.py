"""The tab that segments: which tomograms, by which model, how; what it will cost; and files on their way."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFrame, QHBoxLayout, QPushButton, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from cryomamba_core.errors import CryoMambaError
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.desk.orders import command_line
from cryomamba_gui.desk.submission import SubmissionState
from cryomamba_gui.qt.connection_words import place_of
from cryomamba_gui.qt.folding import Column, Fold, discard
from cryomamba_gui.qt.forms import ParameterForm
from cryomamba_gui.qt.models import ModelPicker, heading
from cryomamba_gui.qt.pieces import copy, hear, named, wrapped
from cryomamba_gui.qt.sending import OnTheirWay
from cryomamba_gui.qt.sources import SourceList

if TYPE_CHECKING:
    from cryomamba_gui.desk.submission import Submission
    from cryomamba_gui.qt.workplace import Workplace

#: What masks of every format are called: without one there is nothing to look at.
MASK = "mask."
#: The mask that is made in any case, where there is a choice.
PREFERRED = "mask.mrc"
#: Parameters that are seen without unfolding them.
MOST_PARAMETERS = 2
#: Lines of the form that are seen, however many files are on their way.
FEWEST_LINES = 14
#: Around what is in the tab, in pixels: a panel may be narrow.
MARGINS = (6, 6, 6, 6)


class SegmentTab(Column):
    """From tomograms to jobs.

    Parameters
    ----------
    workplace
        Has the tomograms, and the engine.
    """

    def __init__(self, workplace: Workplace) -> None:
        super().__init__()
        self._workplace = workplace
        self._link = workplace.desk.link
        self._outbox = workplace.desk.jobs.outbox
        self._runner: str | None = None
        self._values: dict[str, dict[str, Any]] = {}
        self._results: dict[str, QCheckBox] = {}
        self._sources = SourceList(workplace)
        self._picker = ModelPicker(workplace)
        self._form_place = QWidget()
        self._form = ParameterForm(None)
        self._parameters = Fold("Parameters", "segment.parameters", self._form_place)
        self._results_place = QWidget()
        self._results_fold = Fold("Results", "segment.results", self._results_place)
        self._advice = named(wrapped(), "segment.advice")
        self._done = named(wrapped(), "segment.done")
        self._sending = OnTheirWay(self._outbox)
        self._lay_out()
        self._picker.chosen.connect(self._show_model)
        self._sources.changed.connect(self._take_edit)
        self._sending.arrived.connect(self._show_arrival)
        self._sending.rebuilt.connect(self._order_keys)
        hear(self, self._link.changed, self._show_engine)
        self._show_model()

    def _lay_out(self) -> None:
        for place in (self._form_place, self._results_place):
            QVBoxLayout(place).setContentsMargins(0, 0, 0, 0)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(heading("To&mograms", self._sources.entries))
        column.addWidget(self._sources)
        column.addWidget(heading("M&odel", self._picker.box))
        for widget in (self._picker, self._parameters, self._results_fold):
            column.addWidget(widget)
        column.addStretch()
        area = QScrollArea()
        area.setWidgetResizable(True)  # Qt's
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Ignored)  # files on their way come first
        area.setMinimumHeight(FEWEST_LINES * self.fontMetrics().lineSpacing())
        area.setWidget(inside)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(*MARGINS)
        layout.addWidget(area, 1)
        layout.addWidget(self._advice)
        layout.addLayout(self._draw_buttons())
        layout.addWidget(self._done)
        layout.addWidget(self._sending)
        self._done.hide()

    def _draw_buttons(self) -> QHBoxLayout:
        self._plan = named(
            QPushButton("Pla&n"),
            "segment.plan",
            tip="Ask what it will cost, before it is submitted; a server is sent the file for that",
        )
        self._submit = named(QPushButton("&Submit"), "segment.submit", tip="Queue it; a server is sent the file first")
        self._copy = named(
            QPushButton("Cop&y command"),
            "segment.copy-command",
            tip="Copy what does the same in a terminal",
        )
        self._plan.clicked.connect(lambda _=False: self._begin(auto=False))
        self._submit.clicked.connect(lambda _=False: self._begin(auto=True))
        self._copy.clicked.connect(self._copy_command)
        row = QHBoxLayout()
        for button in (self._plan, self._submit, self._copy):
            row.addWidget(button)
        return row

    def _show_model(self) -> None:
        """Show the form of the runner that has the model."""
        model = self._picker.model
        if model is not None and model.runner != self._runner:
            self._show_form(model.runner)
        for fold in (self._parameters, self._results_fold):
            fold.setVisible(model is not None)
        self._show_engine()

    def _show_form(self, runner: str) -> None:
        """Draw the form of a runner, with the values that were in it before."""
        if self._runner is not None and self._form.error is None:
            self._values[self._runner] = self._form.values()
        self._runner = runner
        runners = self._workplace.desk.host.runners
        params_type = runners.get(runner).params_type if runner in runners else None
        form = ParameterForm(params_type, shown=self._shown_section, labels=self._label_names)
        form.fill(self._values.get(runner, {}))
        layout = self._form_place.layout()
        assert layout is not None, "it was given one"
        layout.removeWidget(self._form)
        discard(self._form)
        layout.addWidget(form)
        self._form = form
        form.changed.connect(self._take_edit)
        if len(form.fields) <= MOST_PARAMETERS:
            self._parameters.unfold()

    def _shown_section(self) -> str:
        """The section that the user looks at, e.g. ``z=120``; empty without a tomogram."""
        place = self._workplace.bench.current
        if place is None:
            return ""
        stepper = place.stage.stepper
        return f"{'zyx'[stepper.axis]}={stepper.section}"

    def _label_names(self) -> tuple[str, ...]:
        """Names of the labels of the chosen model."""
        model = self._picker.model
        return () if model is None else tuple(label.name for label in model.labels)

    def _show_engine(self) -> None:
        """Say what stands in the way of a job, and what has to be known of it."""
        self._show_results()
        self._summarize()
        obstacle = self._obstacle()
        advice = obstacle or self._warning()
        self._advice.setText(advice)
        self._advice.setVisible(bool(advice))
        for button in (self._plan, self._submit, self._copy):
            button.setEnabled(not obstacle)
        self._order_keys()

    def _show_results(self) -> None:
        """Offer what the engine can write; all of it, unless the user says otherwise."""
        info, exporters = self._link.info, self._workplace.desk.host.exporters
        if info is None:
            return
        known = {exporter.name: exporter.artifact for exporter in exporters}
        names = [known[name] for name in info.exporters if name in known]
        if list(self._results) == names:
            return
        layout = self._results_place.layout()
        assert layout is not None, "it was given one"
        left_out = {name for name, box in self._results.items() if not box.isChecked()}
        for box in self._results.values():
            layout.removeWidget(box)
            discard(box)
        masks = sorted((name for name in names if name.startswith(MASK)), key=lambda name: name != PREFERRED)
        self._results = {}
        for name in names:
            self._results[name] = box = named(QCheckBox(name), f"segment.result.{name}")
            box.setChecked(name in masks[:1] or name not in left_out)
            if name in masks[:1]:
                box.setEnabled(False)  # Qt's
                box.setToolTip("This is what is shown here")
            box.toggled.connect(self._take_edit)
            layout.addWidget(box)

    def _summarize(self) -> None:
        """Say what is in what is folded away."""
        error = self._form.error
        values = {} if error is not None else self._form.values()
        said = ", ".join(f"{name} = {value}" for name, value in values.items())
        self._parameters.summarize("✕ " + error.message if error is not None else said or "defaults")
        kept = [name for name, box in self._results.items() if box.isChecked()]
        self._results_fold.summarize("all" if len(kept) == len(self._results) else ", ".join(kept))

    def _obstacle(self) -> str:
        """Why nothing can be submitted; empty if it can."""
        link = self._link
        if link.url is None:
            return "Connect first, to a server or to this computer: the field is above."
        if link.state is LinkState.REFUSED:
            return f"Not connected with {place_of(link.url)}" + (f": {link.error.message}." if link.error else ".")
        if link.info is None:
            return f"{place_of(link.url)} has not answered yet.".capitalize()
        if self._picker.model is None:
            return f"There is no model on {place_of(link.url)}."
        if not self._sources.paths:
            return "Open a tomogram, or add files, and tick what is to be segmented."
        error = self._form.error
        return f"A parameter cannot be used: {error.message}." if error is not None else ""

    def _warning(self) -> str:
        """What does not stand in the way, but has to be known."""
        if self._link.state is LinkState.WAITING:
            return f"{place_of(self._link.url or '')} does not answer: what you submit goes there once it does."
        return ""

    def _take_edit(self) -> None:
        """What is asked for is not what was submitted last."""
        self._done.hide()
        self._show_engine()

    def _config(self, path: Path) -> JobConfig:
        """What the form asks for of a tomogram; raises `InvalidParameter`."""
        model = self._picker.model
        assert model is not None, "the buttons are off without one"
        place = self._workplace.bench.at(path)
        kept = tuple(name for name, box in self._results.items() if box.isChecked())
        return JobConfig(
            source=Source(path=str(path)),
            model=model.name,
            runner=model.runner,
            params=self._form.values(),
            artifacts=None if len(kept) == len(self._results) else kept,
            voxel_size=place.voxel_size if place is not None else None,
        )

    def _begin(self, *, auto: bool) -> None:
        """Plan what is ticked, or submit it."""
        self._done.hide()
        paths = self._sources.paths
        if len(paths) == 1:
            self._workplace.bench.turn_to_path(paths[0])
        for path in paths:
            try:
                self._send(path, self._config(path), auto=auto)
            except CryoMambaError as error:
                self._workplace.desk.troubles.report(error, what=f"segmenting {path.name}")

    def _send(self, path: Path, config: JobConfig, *, auto: bool) -> None:
        """Bring one tomogram on its way, or go on with it if it is on its way as a plan."""
        mine = [each for each in self._outbox.items if each.path == path and each.url == self._link.url]
        if any(each.auto and _asks(each, config) and each.state.active for each in mine):
            return  # a second click is not a second job
        planned = next((each for each in mine if not each.auto), None)
        if planned is None:
            self._outbox.prepare(path, config, auto=auto)
            return
        if not _asks(planned, config):
            planned.revise(config)
        if auto:
            planned.submit()
        elif planned.state in (SubmissionState.PAUSED, SubmissionState.FAILED):
            planned.resume()

    def _copy_command(self) -> None:
        url, data_dir = self._link.url, self._workplace.desk.settings.data_dir
        assert url is not None, "the button is off without one"
        try:
            lines = [
                command_line(self._config(path), path=path, url=url, data_dir=data_dir) for path in self._sources.paths
            ]
        except CryoMambaError as error:
            self._workplace.desk.troubles.report(error, what="writing the command")
        else:
            copy("\n".join(lines))

    def _show_arrival(self, submission: Submission) -> None:
        """Say that a file has become a job: it has left this tab then."""
        self._done.setText(f"✓ {submission.name} is queued: see the tab Jobs.")
        self._done.show()

    def _order_keys(self) -> None:
        """Let the tab key go from above to below."""
        widgets = [self._sources.entries, self._sources.add, self._sources.remove, self._picker.box]
        for part in (self._picker.about, self._parameters, self._results_fold):
            widgets += _reached(part)
        widgets += [self._plan, self._submit, self._copy, *_reached(self._sending)]
        for before, after in pairwise(widgets):
            QWidget.setTabOrder(before, after)


def _asks(submission: Submission, config: JobConfig) -> bool:
    """Whether a file on its way is to become the job of a configuration."""
    mine = submission.config
    return evolve(config, source=mine.source, label=mine.label) == mine


def _reached(part: QWidget) -> list[QWidget]:
    """What the tab key reaches in a part of the tab; the list of a combo box is a window of its own."""
    widgets = [widget for widget in part.findChildren(QWidget) if widget.window() is part.window()]
    return [widget for widget in widgets if widget.focusPolicy() & Qt.FocusPolicy.TabFocus]

"""The form of a runner's parameters, drawn from the runner's own class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QPlainTextEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from cryomamba_core.errors import CryoMambaError, ErrorInfo, InvalidParameter
from cryomamba_core.parameters import (
    Parameter,
    describe_parameters,
    format_value,
    parse_assignments,
    parse_untyped,
    parse_value,
)
from cryomamba_gui.qt.pieces import ElidedLabel, ErrorNote, named, wrapped

#: What a parameter that has no value looks like.
NONE = format_value(None)
#: What stands for every label of a model, by itself.
ALL = "all"
#: Lines of the field for parameters of a runner that is not installed here.
FREE_LINES = 4
#: Letters of a name that are seen, where there is little room.
MOST_LETTERS = 14


class ParameterForm(QWidget):
    """Fields for the parameters of a runner, filled with its defaults.

    Parameters
    ----------
    params_type
        The runner's attrs class; None for a runner that is not installed here: then parameters are
        written as ``name=value``, one a line.
    shown
        Names the section that is shown, e.g. ``z=120``, for parameters that take one; empty while none is.
    labels
        Names the labels of the model, for parameters that take some.

    Attributes
    ----------
    changed
        Emitted when anything was edited, or filled in.
    fields
        Name → field; empty for a runner that is not installed here.
    """

    changed = Signal()

    def __init__(
        self,
        params_type: type[Any] | None,
        *,
        shown: Callable[[], str] = str,
        labels: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        super().__init__()
        self._type = params_type
        parameters = () if params_type is None else describe_parameters(params_type)
        self.fields = {parameter.name: _field_of(parameter, shown, labels) for parameter in parameters}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for field in self.fields.values():
            field.changed.connect(self._judge)
            layout.addWidget(field)
        self._free = _free_text()
        if params_type is None:
            layout.addWidget(wrapped("This runner is not installed here: write name=value, one a line."))
            layout.addWidget(self._free)
            self._free.textChanged.connect(self._judge)
        elif not parameters:
            layout.addWidget(wrapped("This runner has no parameters."))
        self._note = ErrorNote("form.error")
        layout.addWidget(self._note)
        layout.addStretch()
        self._align()
        named(self, "form", spoken="parameters")

    @property
    def error(self) -> ErrorInfo | None:
        """Why the values cannot be used; None if they can."""
        try:
            self.values()
        except CryoMambaError as error:
            return ErrorInfo.of(error)
        return None

    def values(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON types, fit for `JobConfig.params`.

        Raises
        ------
        InvalidParameter
            If a value does not fit.
        """
        if self._type is None:
            return parse_untyped(self._assignments())
        return parse_assignments(self._type, self._assignments())

    def command_words(self) -> list[str]:
        """What differs from the defaults as words of a command, e.g. ``["--param", "step=0.25"]``."""
        return [word for assignment in self._assignments() for word in ("--param", assignment)]

    def fill(self, params: Mapping[str, Any]) -> None:
        """Put values into the fields, e.g. those of an earlier job; the others get their defaults."""
        self.reset()
        if self._type is None:
            self._free.setPlainText("\n".join(f"{name}={_written(value)}" for name, value in params.items()))
        for name in self.fields.keys() & params.keys():
            self.fields[name].show_text(_written(params[name]))

    def reset(self) -> None:
        """Go back to the defaults."""
        self._free.clear()
        for field in self.fields.values():
            field.reset()

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        self._align()  # a style of the window makes letters wider

    def _align(self) -> None:
        """Let the values stand below each other."""
        widths = [field.label.sizeHint().width() for field in self.fields.values()]
        most = MOST_LETTERS * self.fontMetrics().averageCharWidth()
        for field in self.fields.values():
            field.label.setFixedWidth(min(most, max(widths)))

    def _assignments(self) -> list[str]:
        if self._type is None:
            return [line.strip() for line in self._free.toPlainText().splitlines() if line.strip()]
        return [f"{name}={field.text().strip()}" for name, field in self.fields.items() if field.differs]

    def _judge(self) -> None:
        """Flag each value that cannot be used, beside its field; what none of them shows, below all."""
        error = self.error  # of all values together: what one alone may not be, it may be beside another
        flagged = [field.judge(self._verdict(field) if error else None) for field in self.fields.values()]
        self._note.show_error(None if any(flagged) else error)
        self.changed.emit()

    def _verdict(self, field: ParameterField) -> ErrorInfo | None:
        """What is wrong with one value among defaults."""
        if self._type is None or not field.differs:
            return None
        try:
            parse_assignments(self._type, [f"{field.parameter.name}={field.text()}"])
        except InvalidParameter as error:
            return ErrorInfo.of(error)
        return None


class ParameterField(QWidget):
    """One parameter: its name, its value, what it does, its default, and what is wrong with the value.

    Parameters
    ----------
    parameter
        As it is described.
    editor
        The widget with the value.
    read, write
        Get the value of the editor as a user would write it, and put one into it.

    Attributes
    ----------
    changed
        Emitted when the value was edited, or filled in: whoever makes the editor connects it.
    label, editor
        The name, and the value.
    """

    changed = Signal()

    def __init__(
        self, parameter: Parameter, editor: QWidget, *, read: Callable[[], str], write: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._read, self._write = read, write
        name = f"form.{parameter.name}"
        self.parameter = parameter
        empty = parameter.default is None and not parameter.choices
        self.default = "" if empty else format_value(parameter.default)
        tip = parameter.help or parameter.type_name
        self.editor = named(editor, name, tip=tip, spoken=parameter.name)
        self.label = ElidedLabel(parameter.name)
        self.label.setBuddy(editor)
        self._reset = named(QToolButton(), f"{name}.reset", spoken=f"reset {parameter.name}")
        self._reset.setText("↺")
        self._reset.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a tool button has none of its own everywhere
        self._reset.setToolTip(f"Back to the default: {self.default or NONE}")
        self._reset.clicked.connect(self.reset)
        self._about = named(wrapped(self._description()), f"{name}.about")
        self._note = ErrorNote(f"{name}.error")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 4)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        if isinstance(editor, QCheckBox):  # it has a label of its own
            self.label.hide()
            grid.addWidget(editor, 0, 0, 1, 2, Qt.AlignmentFlag.AlignLeft)
        else:
            grid.addWidget(self.label, 0, 0)
            grid.addWidget(editor, 0, 1)
        grid.addWidget(self._reset, 0, 2)
        grid.addWidget(self._about, 1, 0, 1, 3)
        grid.addWidget(self._note, 2, 0, 1, 3)
        self.show_text(self.default)
        self.judge(None)

    def text(self) -> str:
        """The value as the user has written it."""
        return self._read()

    def show_text(self, text: str) -> None:
        """Put a value into the field."""
        self._write(text)

    @property
    def differs(self) -> bool:
        """Whether the value is not the default, or none at all."""
        written = self.text().strip()
        if written == self.default:
            return False
        try:
            return bool(parse_value(self.parameter, written) != self.parameter.default)
        except InvalidParameter:
            return True

    def reset(self) -> None:
        """Go back to the default."""
        self.show_text(self.default)

    def judge(self, error: ErrorInfo | None) -> bool:
        """Show what is wrong with the value, and whether it is the default; returns whether anything is wrong."""
        self._note.show_error(error)
        self._reset.setEnabled(self.differs)
        return error is not None

    def _description(self) -> str:
        default = f"Default: {self.default or NONE}"
        about = self.parameter.help
        return f"{about[:1].upper()}{about[1:]}. {default}." if about else f"{default}."


def _field_of(parameter: Parameter, shown: Callable[[], str], labels: Callable[[], Sequence[str]]) -> ParameterField:
    if parameter.kind is bool:
        return _switch(parameter)
    if parameter.section:
        return _section(parameter, shown)
    if parameter.labels:
        return _label_names(parameter, labels)
    return _choice(parameter) if parameter.choices else _line(parameter)


def _switch(parameter: Parameter) -> ParameterField:
    """True or false."""
    box = QCheckBox(parameter.name)
    field = ParameterField(
        parameter,
        box,
        read=lambda: format_value(box.isChecked()),
        write=lambda text: box.setChecked(text == format_value(True)),  # noqa: FBT003  # a value, not an option
    )
    box.toggled.connect(lambda _: field.changed.emit())
    return field


def _choice(parameter: Parameter) -> ParameterField:
    """One of a few values."""
    values = QComboBox()
    values.addItems(parameter.choices)
    values.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    values.setMinimumContentsLength(min(12, max(map(len, parameter.choices))))
    field = ParameterField(parameter, values, read=values.currentText, write=values.setCurrentText)
    values.currentTextChanged.connect(lambda _: field.changed.emit())
    return field


def _line(parameter: Parameter) -> ParameterField:
    """Anything else, as it is written on a command line."""
    line = _text(parameter)
    return _written_in(line, parameter, line)


def _section(parameter: Parameter, shown: Callable[[], str]) -> ParameterField:
    """A section, which may be the one that is shown: `shown` names it, and nothing is taken while that is empty."""
    button = _button(parameter, "shown", tip="Take the section that is shown")
    line, both = _text_beside(button, parameter)
    button.clicked.connect(lambda _=False: line.setText(shown() or line.text()))
    return _written_in(line, parameter, both)


def _label_names(parameter: Parameter, labels: Callable[[], Sequence[str]]) -> ParameterField:
    """Names of labels, which may be picked from a menu of those that the model has now."""
    button = _button(parameter, "labels", tip="Pick labels of the model")
    button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
    line, both = _text_beside(button, parameter)
    menu = named(QMenu(button), f"form.{parameter.name}.menu")
    menu.aboutToShow.connect(lambda: _fill(menu, line, labels()))
    button.setMenu(menu)
    return _written_in(line, parameter, both)


def _fill(menu: QMenu, line: QLineEdit, labels: Sequence[str]) -> None:
    """Offer all labels and each of them, with those ticked that a line names."""
    menu.clear()
    written = _names_in(line.text())
    offered = [ALL, *(name for name in labels if "," not in name)]  # a comma would be read as the end of the name
    for name in dict.fromkeys(offered):
        action = menu.addAction(name.replace("&", "&&"))
        assert action is not None, "Qt makes one"
        action.setCheckable(True)
        action.setChecked(name in written)
        action.triggered.connect(lambda _=False, name=name: line.setText(",".join(_turned(written, name))))


def _turned(written: Sequence[str], name: str) -> list[str]:
    """The names with one more, or without it if it is among them; what stands for all stands by itself."""
    if name in written:
        return [each for each in written if each != name]
    return [name] if name == ALL else [*(each for each in written if each != ALL), name]


def _names_in(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _button(parameter: Parameter, word: str, *, tip: str) -> QToolButton:
    """A button beside the text of a parameter, for what need not be typed."""
    button = named(QToolButton(), f"form.{parameter.name}.{word}", tip=tip, spoken=f"{tip.lower()}: {parameter.name}")
    button.setText(word)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a tool button has none of its own everywhere
    return button


def _text_beside(button: QToolButton, parameter: Parameter) -> tuple[QLineEdit, QWidget]:
    """An empty line, and the widget that has it and a button."""
    name = parameter.name
    line = named(_text(parameter), f"form.{name}.text", tip=parameter.help, spoken=name)
    both = QWidget()
    both.setFocusProxy(line)
    row = QHBoxLayout(both)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(line, 1)
    row.addWidget(button)
    return line, both


def _text(parameter: Parameter) -> QLineEdit:
    """An empty line that says what is written into it."""
    line = QLineEdit()
    line.setPlaceholderText(NONE if parameter.default is None else parameter.type_name)
    line.setMinimumWidth(1)
    return line


def _written_in(line: QLineEdit, parameter: Parameter, editor: QWidget) -> ParameterField:
    """A field whose value is the text of a line, which is its editor or part of it."""
    field = ParameterField(parameter, editor, read=line.text, write=line.setText)
    line.textChanged.connect(lambda _: field.changed.emit())
    return field


def _free_text() -> QPlainTextEdit:
    text = named(QPlainTextEdit(), "form.free", tip="name=value, one a line", spoken="parameters")
    text.setPlaceholderText("step=0.5")
    text.setTabChangesFocus(True)
    text.setFixedHeight((FREE_LINES + 1) * text.fontMetrics().lineSpacing())
    return text


def _written(value: Any) -> str:
    """A value with all digits of its numbers."""
    if isinstance(value, list | tuple):
        return ",".join(map(_written, value))
    return repr(value) if isinstance(value, float) else format_value(value)

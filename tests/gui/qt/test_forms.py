"""Forms that are drawn from a runner's parameters."""

from enum import Enum
from typing import Any, Literal

import pytest
from attrs import Attribute, field, frozen
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QToolButton,
    QWidget,
)

from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.threshold import ThresholdParams
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.parameters import parse_assignments
from cryomamba_gui.qt.forms import ParameterForm


class Speed(Enum):
    SLOW = "slow"
    FAST = "fast"


def positive(_: object, attribute: Attribute, value: float) -> None:
    if value <= 0:
        raise InvalidParameter(f"{attribute.name} must be above 0", hint="use 0.5")


@frozen(kw_only=True)
class Params:
    mirroring: bool = field(default=True, metadata={"help": "average over mirrored tiles"})
    count: int = 3
    step: float = field(default=0.123456789, validator=positive, metadata={"help": "distance of tiles"})
    title: str = field(default="plain", metadata={"help": "what it is called"})
    mode: Literal["exact", "quick"] = "exact"
    speed: Speed = Speed.FAST
    limit: float | None = field(default=None, metadata={"help": "where to stop"})
    maybe: bool | None = None
    folds: tuple[int, ...] | None = None
    spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)
    weights: list[float] = field(factory=lambda: [1.0, 0.5])

    def __attrs_post_init__(self) -> None:
        if self.count > 9 and self.mode == "exact":
            raise ValueError("count is too high for an exact run")
        if self.title == "endless" and self.limit is not None:
            raise ValueError("an endless run has no limit")


@pytest.fixture
def form(qtbot):
    form = ParameterForm(Params)
    qtbot.addWidget(form)
    form.resize(320, 900)
    form.show()
    return form


def child(form: QWidget, kind: type[Any], name: str) -> Any:
    found = form.findChild(kind, f"cryomamba.form.{name}")
    assert found is not None, name
    return found


def write(qtbot, form, name, text):
    line = child(form, QLineEdit, name)
    line.selectAll()
    qtbot.keyClick(line, Qt.Key.Key_Delete)
    qtbot.keyClicks(line, text)


def message(form, name):
    return child(form, QLabel, f"{name}.error.message")


def test_an_untouched_form_says_nothing_and_shows_all_defaults(form):
    assert form.values() == {}
    assert form.command_words() == []
    assert form.error is None
    assert child(form, QLineEdit, "step").text() == "0.123457", "as a person would write it"
    assert child(form, QLineEdit, "limit").placeholderText() == "none"
    assert child(form, QComboBox, "speed").currentText() == "fast"
    assert child(form, QComboBox, "maybe").currentText() == "none"
    assert child(form, QLabel, "spacing.about").text() == "Default: 1,2,3."
    assert child(form, QLabel, "step.about").text() == "Distance of tiles. Default: 0.123457."
    assert child(form, QLineEdit, "step").toolTip() == "distance of tiles"


def test_values_are_what_the_command_line_would_give(form, qtbot):
    qtbot.mouseClick(child(form, QCheckBox, "mirroring"), Qt.MouseButton.LeftButton)
    write(qtbot, form, "count", "5")
    write(qtbot, form, "step", "2.5e-1")
    write(qtbot, form, "title", "a name, with = and spaces")
    qtbot.keyClicks(child(form, QComboBox, "mode"), "q")
    qtbot.keyClicks(child(form, QComboBox, "speed"), "s")
    write(qtbot, form, "limit", "7")
    qtbot.keyClicks(child(form, QComboBox, "maybe"), "t")
    write(qtbot, form, "folds", "0, 1")
    write(qtbot, form, "spacing", "1,1,1.5")
    write(qtbot, form, "weights", "2")
    assert form.error is None
    assert form.values() == {
        "mirroring": False,
        "count": 5,
        "step": 0.25,
        "title": "a name, with = and spaces",
        "mode": "quick",
        "speed": "slow",
        "limit": 7.0,
        "maybe": True,
        "folds": [0, 1],
        "spacing": [1.0, 1.0, 1.5],
        "weights": [2.0],
    }
    words = form.command_words()
    assert words[:4] == ["--param", "mirroring=false", "--param", "count=5"]
    assert set(words[::2]) == {"--param"}
    assert parse_assignments(Params, words[1::2]) == form.values()


def test_a_value_that_does_not_fit_is_flagged_beside_its_field(form, qtbot):
    write(qtbot, form, "count", "many")
    assert message(form, "count").isVisible()
    assert message(form, "count").text() == "✕ parameter count cannot be 'many': expected a whole number"
    assert not message(form, "step").isVisible()
    with pytest.raises(InvalidParameter):
        form.values()
    write(qtbot, form, "count", "4")
    assert not message(form, "count").isVisible()
    assert form.values() == {"count": 4}


def test_what_the_runner_itself_refuses_is_flagged_too(form, qtbot):
    write(qtbot, form, "step", "-1")
    assert message(form, "step").text() == "✕ step must be above 0"
    assert child(form, QLabel, "step.error.hint").text() == "→ use 0.5"
    assert form.error is not None
    assert form.error.code == "input/invalid-parameter"


def test_values_that_do_not_go_together_are_flagged(form, qtbot):
    mode = child(form, QComboBox, "mode")
    qtbot.keyClick(mode, Qt.Key.Key_Down)
    write(qtbot, form, "count", "12")
    assert form.values() == {"count": 12, "mode": "quick"}
    assert not message(form, "count").isVisible(), "it goes with the mode"
    qtbot.keyClick(mode, Qt.Key.Key_Up)
    assert message(form, "count").text() == "✕ count is too high for an exact run"
    assert form.error is not None


def test_what_is_wrong_with_no_value_alone_is_flagged_below_all(form, qtbot):
    write(qtbot, form, "limit", "1")
    write(qtbot, form, "title", "endless")
    assert child(form, QLabel, "error.message").text() == "✕ an endless run has no limit"
    write(qtbot, form, "limit", "")
    assert not child(form, QLabel, "error.message").isVisible()


def test_a_value_goes_back_to_its_default(form, qtbot):
    button = child(form, QToolButton, "step.reset")
    assert not button.isEnabled()
    assert button.toolTip() == "Back to the default: 0.123457"
    write(qtbot, form, "step", "bad")
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert form.values() == {}
    assert not message(form, "step").isVisible()


def test_the_default_written_in_another_way_does_not_differ(form, qtbot):
    write(qtbot, form, "spacing", "1.0, 2.0, 3.00")
    write(qtbot, form, "limit", "none")
    assert form.values() == {}
    assert form.command_words() == []


def test_values_of_an_earlier_job_can_be_filled_in(form, qtbot):
    values = {"step": 0.12345678901, "folds": [0, 2], "mirroring": False, "speed": "slow", "unknown": 1}
    write(qtbot, form, "count", "5")
    form.fill(values)
    assert form.values() == {name: value for name, value in values.items() if name != "unknown"}


def test_listeners_hear_of_every_edit(form, qtbot):
    with qtbot.waitSignal(form.changed):
        qtbot.mouseClick(child(form, QCheckBox, "mirroring"), Qt.MouseButton.LeftButton)
    with qtbot.waitSignal(form.changed):
        qtbot.keyClicks(child(form, QLineEdit, "title"), "x")


def test_the_tab_key_goes_through_the_values(form, qtbot):
    child(form, QCheckBox, "mirroring").setFocus()
    for name in ("count", "step", "title"):
        qtbot.keyClick(form.focusWidget(), Qt.Key.Key_Tab)
        assert form.focusWidget().objectName() == f"cryomamba.form.{name}"


def test_a_form_of_a_real_runner(qtbot):
    form = ParameterForm(ThresholdParams)
    qtbot.addWidget(form)
    form.show()
    write(qtbot, form, "value", "0.5")
    qtbot.mouseClick(child(form, QCheckBox, "dark"), Qt.MouseButton.LeftButton)
    assert form.values() == {"value": 0.5, "dark": True}
    write(qtbot, form, "value", "inf")
    assert message(form, "value").text() == "✕ value = inf is no grey value"


def test_parameters_of_a_runner_from_elsewhere_are_written_freely(qtbot):
    form = ParameterForm(None)
    qtbot.addWidget(form)
    form.show()
    text = child(form, QPlainTextEdit, "free")
    qtbot.keyClicks(text, "step=0.5")
    qtbot.keyClick(text, Qt.Key.Key_Return)
    qtbot.keyClicks(text, "folds=0,1")
    assert form.values() == {"step": 0.5, "folds": [0, 1]}
    assert form.command_words() == ["--param", "step=0.5", "--param", "folds=0,1"]
    qtbot.keyClick(text, Qt.Key.Key_Return)
    qtbot.keyClicks(text, "step")
    assert child(form, QLabel, "error.message").text() == "✕ 'step' gives no value to a parameter"
    form.fill({"mode": "exact", "step": 0.25})
    assert form.values() == {"mode": "exact", "step": 0.25}


@frozen(kw_only=True)
class NoParams:
    pass


def test_a_runner_without_parameters_says_so(qtbot):
    form = ParameterForm(NoParams)
    qtbot.addWidget(form)
    assert form.values() == {}
    assert any("no parameters" in label.text() for label in form.findChildren(QLabel))


def test_the_uncertainty_of_a_network_is_switched_on_by_a_list(qtbot):
    form = ParameterForm(NNUNetParams)
    qtbot.addWidget(form)
    values = child(form, QComboBox, "uncertainty")
    assert [values.itemText(index) for index in range(values.count())] == ["none", "margin", "entropy"]
    assert form.values() == {}
    qtbot.keyClicks(values, "margin")
    assert form.values() == {"uncertainty": "margin"}
    qtbot.keyClicks(child(form, QLineEdit, "uncertainty_binning"), "6")
    assert form.values() == {"uncertainty": "margin", "uncertainty_binning": 16}
    assert form.command_words() == ["--param", "uncertainty=margin", "--param", "uncertainty_binning=16"]


def test_the_probabilities_of_a_network_are_asked_for_by_the_names_of_labels(qtbot):
    form = ParameterForm(NNUNetParams)
    qtbot.addWidget(form)
    write(qtbot, form, "probabilities.text", "membrane, gold bead")
    assert form.values() == {"probabilities": ["membrane", "gold bead"]}
    assert form.command_words() == ["--param", "probabilities=membrane, gold bead"]
    write(qtbot, form, "probabilities.text", "membrane,membrane")
    assert "different names of labels" in message(form, "probabilities").text()
    form.fill({"probabilities": ["all"], "probabilities_binning": 2})
    assert child(form, QLineEdit, "probabilities.text").text() == "all"
    assert form.values() == {"probabilities": ["all"], "probabilities_binning": 2}
    write(qtbot, form, "probabilities.text", "")
    assert form.values() == {"probabilities_binning": 2}


@pytest.fixture
def pick(qtbot):
    """Pick an entry of the menu of labels by the keyboard alone; what the menu holds, with what is ticked."""

    def pick(form, downs):
        button, seen = child(form, QToolButton, "probabilities.labels"), []

        def answer():
            menu = QApplication.activePopupWidget()
            seen.extend((action.text(), action.isChecked()) for action in menu.actions())
            for _ in range(downs):
                qtbot.keyClick(menu, Qt.Key.Key_Down)
            qtbot.keyClick(menu, Qt.Key.Key_Return if downs else Qt.Key.Key_Escape)

        QTimer.singleShot(200, answer)
        qtbot.keyClick(button, Qt.Key.Key_Space)
        return seen

    return pick


def test_labels_of_the_model_are_picked_from_a_menu(qtbot, pick):
    labels = ["membrane", "salt & sugar", "one, two"]
    form = ParameterForm(NNUNetParams, labels=lambda: labels)
    qtbot.addWidget(form)
    with qtbot.waitExposed(form):
        form.show()
    line = child(form, QLineEdit, "probabilities.text")
    assert pick(form, 0) == [("all", False), ("membrane", False), ("salt && sugar", False)]
    assert form.values() == {}
    pick(form, 2)
    assert form.values() == {"probabilities": ["membrane"]}
    pick(form, 3)
    assert line.text() == "membrane,salt & sugar"
    assert pick(form, 2) == [("all", False), ("membrane", True), ("salt && sugar", True)]
    assert form.values() == {"probabilities": ["salt & sugar"]}, "what was ticked is so no more"
    pick(form, 1)
    assert line.text() == "all"
    labels[:] = ["ribosome"]
    assert pick(form, 2) == [("all", True), ("ribosome", False)], "those of the model that is chosen now"
    assert line.text() == "ribosome"


def test_the_menu_of_labels_is_reached_by_the_tab_key(qtbot):
    form = ParameterForm(NNUNetParams)
    qtbot.addWidget(form)
    with qtbot.waitExposed(form):
        form.show()
    line, button = child(form, QLineEdit, "probabilities.text"), child(form, QToolButton, "probabilities.labels")
    line.setFocus()
    qtbot.keyClick(form.focusWidget(), Qt.Key.Key_Tab)
    assert form.focusWidget() is button
    assert button.accessibleName() == "pick labels of the model: probabilities"

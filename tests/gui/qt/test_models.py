"""The choice of a model, at a real server."""

import pytest
from qtpy.QtWidgets import QComboBox, QLabel

from cryomamba_gui.qt.models import ModelPicker
from cryomamba_gui.qt.pieces import ColourChip


@pytest.fixture
def picker(seat, show, see):
    return see(show(ModelPicker(seat)))


def names(picker):
    box = picker.child("segment.model", QComboBox)
    return [box.itemText(place) for place in range(box.count())]


def chosen(picker):
    return picker.child("segment.model", QComboBox).currentText()


def test_there_is_nothing_to_choose_while_there_is_no_engine(picker, seat, eventually):
    assert names(picker) == ["not connected"]
    assert not picker.child("segment.model").isEnabled()
    assert not picker.seen("segment.about")
    assert picker.widget.model is None


def test_a_model_is_shown_with_what_it_segments_and_expects(picker, seat, server, eventually):
    seat.connect(server)
    eventually(lambda: "threshold" in names(picker))
    picker.choose("segment.model", "threshold")
    [model] = [model for model in seat.desk.link.models if model.name == "threshold"]
    assert picker.widget.model == model
    [label] = model.labels
    eventually(lambda: picker.text(f"segment.label.{label.value}") == "foreground")
    assert [chip.color for chip in picker.widget.findChildren(ColourChip) if chip.isVisible()] == [label.color]
    assert picker.text("segment.model-expects") == "Any voxel size · runs with threshold"


def test_what_else_is_known_of_a_model_is_folded_away(picker, seat, server, eventually):
    seat.connect(server)
    eventually(lambda: "threshold" in names(picker))
    picker.choose("segment.model", "threshold")
    assert picker.text("segment.model-about") is None
    assert picker.text("segment.about.summary").startswith("every voxel from a grey value on")
    picker.click("segment.about.fold")
    assert "Please cite: Otsu" in picker.text("segment.model-about")
    picker.click("segment.about.fold")
    assert picker.text("segment.model-about") is None


def test_the_labels_are_those_of_the_chosen_model(picker, seat, server, eventually):
    seat.connect(server)
    eventually(lambda: {"threshold", "steps"} <= set(names(picker)))
    for model, label in (("threshold", "foreground"), ("steps", "positive"), ("threshold", "foreground")):
        picker.choose("segment.model", model)
        eventually(lambda label=label: picker.text("segment.label.1") == label)
        assert len(picker.widget.findChildren(QLabel, "cryomamba.segment.label.1")) == 1


def test_a_choice_survives_an_engine_that_is_left_and_found_again(picker, seat, server, eventually):
    seat.connect(server)
    eventually(lambda: "steps" in names(picker))
    picker.choose("segment.model", "steps")
    seat.desk.link.disconnect()
    assert names(picker) == ["not connected"]
    seat.connect(server)
    eventually(lambda: "steps" in names(picker))
    assert chosen(picker) == "steps"


def test_a_choice_is_kept_when_there_are_other_models_than_before(picker, seat, server, eventually):
    seat.connect(server)
    eventually(lambda: "steps" in names(picker))
    picker.choose("segment.model", "threshold")
    restart_without_strangers(server)
    seat.desk.link.retry_now()
    eventually(lambda: "steps" not in names(picker))
    assert chosen(picker) == "threshold"


def test_a_choice_that_is_gone_is_made_again_once_it_is_back(picker, seat, server, eventually):
    seat.connect(server)
    eventually(lambda: "steps" in names(picker))
    picker.choose("segment.model", "steps")
    path = restart_without_strangers(server)
    seat.desk.link.retry_now()
    eventually(lambda: "steps" not in names(picker))
    assert picker.widget.model is not None
    assert picker.widget.model.name != "steps"
    server.terminate()
    server.environment["PYTHONPATH"] = path
    server.restart()
    seat.desk.link.retry_now()
    eventually(lambda: "steps" in names(picker))
    assert chosen(picker) == "steps"


def restart_without_strangers(server):
    """Restart a server with fewer models; returns where the plugins are that it lacks."""
    server.terminate()
    path = server.environment.pop("PYTHONPATH")
    server.restart()
    return path

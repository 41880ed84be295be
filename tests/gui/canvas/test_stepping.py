"""Going through sections by keyboard."""

from pathlib import Path

import numpy as np
import pytest
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from staged import make_mask, noise

from cryomamba_gui.canvas import stepping
from cryomamba_gui.qt.bridge import Bridge

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "howto" / "desktop.md"
SHAPE = (60, 70, 80)
PLAIN, SHIFT = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def labels():
    array = np.zeros(SHAPE, np.uint8)
    array[50:55, 8, 8] = 1
    array[3, 60:65, 2:75] = 2
    return array


@pytest.fixture
def press(viewer):
    """Press a key on the canvas."""

    def press(key, modifier=PLAIN):
        QTest.keyClick(viewer.window._qt_viewer.canvas.native, key, modifier)

    return press


@pytest.fixture
def bridge():
    bridge = Bridge()
    bridge.start()
    yield bridge
    bridge.drain()


def test_no_key_is_one_of_naparis():
    theirs = {str(key) for keys in default_shortcuts.values() for key in keys}
    assert not {str(coerce_keybinding(key)) for key in stepping.KEYS} & theirs


def test_the_documentation_and_the_panel_name_all_keys_and_no_others():
    _, _, behind = DOCUMENTATION.read_text(encoding="utf-8").partition("| Keys | Do |\n| --- | --- |\n")
    documented = set()
    for row in behind.partition("\n\n")[0].splitlines():
        keys, does = row.strip("|").split("|")
        for key in keys.split(","):
            name = key.strip().replace(" ", "").replace("+", "-")
            documented |= {name, f"Shift-{name}"} if "with Shift" in does else {name}
    assert documented == set(stepping.KEYS)
    words = [key.strip().replace("+", "-") for keys in stepping.WORDS for key in keys.split("/")]
    assert len(words) == len(stepping.KEYS)
    assert {word.removeprefix("Shift-") for word in words} == {key.removeprefix("Shift-") for key in stepping.KEYS}


def test_keys_step_while_they_are_bound(viewer, stand, press):
    stage = stand(noise(SHAPE))
    stage.stepper.go_to(20)
    press(Qt.Key.Key_PageDown)
    assert stage.stepper.section == 20, "they are not bound yet"
    stage.stepper.bind()
    stage.stepper.bind()
    press(Qt.Key.Key_PageDown)
    assert stage.stepper.section == 21
    press(Qt.Key.Key_PageUp)
    press(Qt.Key.Key_PageUp)
    assert stage.stepper.section == 19
    press(Qt.Key.Key_PageDown, SHIFT)
    assert stage.stepper.section == 29
    for _ in range(5):
        press(Qt.Key.Key_PageDown, SHIFT)
    assert stage.stepper.section == 59, "the last one"
    press(Qt.Key.Key_PageUp, SHIFT)
    assert stage.stepper.section == 49
    stage.stepper.unbind()
    assert not stage.stepper.active
    press(Qt.Key.Key_PageDown)
    assert stage.stepper.section == 49


def test_a_key_of_somebody_else_is_given_back(viewer, stand, press):
    pressed = []
    viewer.bind_key("N", lambda _: pressed.append("theirs"))
    stage = stand(noise(SHAPE))
    stage.stepper.bind()
    press(Qt.Key.Key_N)
    assert not pressed
    assert viewer.status == "there is no mask"
    stage.stepper.unbind()
    press(Qt.Key.Key_N)
    assert pressed == ["theirs"]


def test_keys_jump_to_the_selected_label_and_to_what_was_changed(viewer, stand, press, pump, labels, tmp_path, bridge):
    stage = stand(noise(SHAPE))
    bridge.run(stage.attend, name="stage")
    with make_mask(tmp_path / "mask", labels, stage.tomogram.grid) as mask:
        stage.show_mask(mask)
        stage.stepper.bind()
        stage.mask.selected_label = 1
        stage.stepper.go_to(0)
        press(Qt.Key.Key_N)
        pump(lambda: stage.stepper.section == 50)
        pump(lambda: viewer.status == "section 50 with membrane")
        press(Qt.Key.Key_N)
        pump(lambda: stage.stepper.section == 51)
        stage.mask.selected_label = 2
        press(Qt.Key.Key_N, SHIFT)
        pump(lambda: stage.stepper.section == 3)
        press(Qt.Key.Key_N, SHIFT)
        pump(lambda: viewer.status == "no section with ribosome before this one")
        stage.mask.paint((30, 30, 30), 1)
        stage.mask.paint((40, 30, 30), 0)  # changes nothing
        press(Qt.Key.Key_K)
        pump(lambda: stage.stepper.section == 30)
        press(Qt.Key.Key_K)
        pump(lambda: viewer.status == "no section with changes after this one")
        # along the other axes too
        viewer.dims.order = (2, 0, 1)
        stage.stepper.go_to(0)
        press(Qt.Key.Key_N)
        pump(lambda: stage.stepper.section == 2)
        viewer.dims.order = (1, 0, 2)
        stage.stepper.go_to(69)
        press(Qt.Key.Key_N, SHIFT)
        pump(lambda: stage.stepper.section == 64)
        stage.remove()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("direction", [1, -1])
async def test_every_section_that_holds_a_label_is_found(axis, direction, monkeypatch):
    from cryomamba_gui.canvas import sections

    monkeypatch.setattr(sections, "VOXELS", 5000)
    array = (np.random.default_rng(3).random((37, 41, 43)) > 0.9997).astype(np.uint8)
    array[[0, -1]] = 0
    array[:, :, -1] = 0
    array[10, 11, 12] = 1
    expected = np.flatnonzero(array.any(axis=tuple(other for other in range(3) if other != axis)))
    found, section = [], -1 if direction > 0 else array.shape[axis]
    while True:
        section = await sections.find_section(array.shape, axis, section, direction, sections.with_label(array, 1))
        if section is None:
            break
        found.append(section)
    assert found == list(expected[::direction])

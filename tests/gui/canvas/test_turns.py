"""Events of napari whose listeners are told in turns of their own."""

import numpy as np
import pytest
from napari.utils.events import EventEmitter

from cryomamba_gui.canvas.layers import Labels
from cryomamba_gui.canvas.turns import tell_one_by_one


class Listener:
    """Notes what it hears in a list that it shares with others."""

    def __init__(self, name, heard):
        self.name = name
        self.heard = heard

    def hear(self, event):
        self.heard.append((self.name, event.value))


@pytest.fixture
def heard():
    return []


@pytest.fixture
def listeners(heard):
    return [Listener(name, heard) for name in "abc"]


@pytest.fixture
def emitter(listeners, heard):
    """Tells three methods and a function, in this order."""
    emitter = EventEmitter(type_name="data")
    for listener in listeners:
        emitter.connect(listener.hear, position="last")
    emitter.connect(lambda event: heard.append(("d", event.value)), position="last")
    return emitter


def test_each_step_tells_one_listener(emitter, heard):
    steps = tell_one_by_one(emitter, value=7)
    counts = [len(heard) for _ in steps]
    assert counts == [0, 1, 2, 3]
    assert heard == [("a", 7), ("b", 7), ("c", 7), ("d", 7)]
    emitter(value=8)
    assert heard[4:] == [("a", 8), ("b", 8), ("c", 8), ("d", 8)], "none is blocked any more"


def test_steps_that_are_left_tell_the_rest_at_once(emitter, heard):
    steps = tell_one_by_one(emitter, value=7)
    next(steps)
    next(steps)
    steps.close()
    assert [name for name, _ in heard] == ["a", "b", "c", "d"]


def test_a_listener_that_is_gone_meanwhile_is_not_told(emitter, heard, listeners):
    steps = tell_one_by_one(emitter, value=7)
    next(steps)
    emitter.disconnect(listeners[1].hear)
    assert sum(1 for _ in steps) == 3
    assert [name for name, _ in heard] == ["a", "c", "d"]


def test_a_layer_that_appears_tells_one_listener_in_each_step():
    layer = Labels(np.zeros((2, 2, 2), np.uint8))
    heard = []
    listeners = [lambda event, name=name: heard.append((name, event.source.visible)) for name in "ab"]
    for listener in listeners:
        layer.events.visible.connect(listener, position="last")
    layer.bar(lambda: False)
    counts = [len(heard) for _ in layer.tell_steps()]
    assert counts[-2:] == [0, 1], "napari's own come first, if there are any"
    assert heard == [("a", True), ("b", True)]
    assert not list(layer.tell_steps()), "they know"

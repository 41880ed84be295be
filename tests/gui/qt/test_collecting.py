"""Garbage that is searched for while the user rests."""

import gc
import weakref

import pytest
from qtpy.QtCore import QPoint
from qtpy.QtGui import QCursor

from cryomamba_gui.qt import collecting
from cryomamba_gui.qt.collecting import IdleCollector


class Garbage:
    """Refers to itself, so that only a search finds it."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def collector(qapp, monkeypatch):
    """Looks when it is told to; a search is due at any time."""
    monkeypatch.setattr(collecting, "PAUSE", 3_600_000)
    monkeypatch.setattr(collecting, "DUE", 0)
    thresholds = gc.get_threshold()
    collector = IdleCollector(qapp)
    yield collector
    gc.set_threshold(*thresholds)
    collector.deleteLater()


def old_garbage():
    """Garbage in the oldest generation, which searches of the others leave alone."""
    garbage = Garbage()
    gc.collect()
    return weakref.ref(garbage)


def test_python_does_not_search_all_by_itself(collector):
    assert gc.get_threshold()[2] > 100_000
    assert gc.get_threshold()[:2] > (0, 0)


def test_garbage_is_found_while_the_mouse_rests(collector):
    garbage = old_garbage()
    gc.collect(1)
    assert garbage() is not None
    collector.look()
    assert garbage() is None


def test_nobody_who_moves_the_mouse_waits_for_it_but_not_for_ever(collector, monkeypatch):
    monkeypatch.setattr(collecting, "PATIENCE", 3)
    garbage = old_garbage()
    for step in (1, 2):
        QCursor.setPos(QCursor.pos() + QPoint(step, 0))
        collector.look()
        assert garbage() is not None
    QCursor.setPos(QCursor.pos() - QPoint(3, 0))
    collector.look()
    assert garbage() is None


def test_nothing_is_done_before_it_is_due(collector, monkeypatch):
    monkeypatch.setattr(collecting, "DUE", 1_000_000)
    garbage = old_garbage()
    collector.look()
    assert garbage() is not None

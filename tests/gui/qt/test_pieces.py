"""Small widgets that several tabs are made of."""

import pytest
from psygnal import Signal
from qtpy.QtCore import QCoreApplication, QEvent, Qt
from qtpy.QtWidgets import QLabel, QProgressBar, QPushButton, QWidget

from cryomamba_core.errors import ErrorInfo
from cryomamba_gui.qt.connection_words import devices, grouped, place_of
from cryomamba_gui.qt.pieces import ColourChip, ElidedLabel, ErrorNote, PartBar, ProgressRow, hear


class Speaker:
    said = Signal(str, int)


class Listener(QWidget):
    def __init__(self):
        super().__init__()
        self.heard = []

    def take(self, word):
        self.heard.append(word)

    def take_nothing(self):
        self.heard.append("something")


def test_a_part_bar_is_drawn_when_qt_comes_to_it(qtbot):
    """Qt's own draws the whole window at each new value, in the middle of whatever goes on."""
    drawn = []

    class Watched(PartBar):
        def paintEvent(self, event):  # noqa: N802  # Qt calls it so
            drawn.append(self.value())
            super().paintEvent(event)

    bar = Watched()
    qtbot.addWidget(bar)
    bar.show()
    qtbot.waitUntil(lambda: bool(drawn))
    drawn.clear()
    bar.show_part(3, 4)
    bar.show_part(7, 8)
    assert (drawn, bar.value()) == ([], 875)
    qtbot.waitUntil(lambda: drawn == [875])


def test_a_widget_hears_what_it_wants_to_know(qapp):
    speaker, listener = Speaker(), Listener()
    hear(listener, speaker.said, listener.take)
    hear(listener, speaker.said, listener.take_nothing)
    speaker.said.emit("word", 3)
    assert listener.heard == ["word", "something"]


def test_a_widget_that_qt_has_deleted_hears_no_more(qapp):
    speaker, listener = Speaker(), Listener()
    hear(listener, speaker.said, listener.take)
    listener.deleteLater()
    QCoreApplication.sendPostedEvents(listener, QEvent.Type.DeferredDelete)
    speaker.said.emit("word", 3)
    assert listener.heard == []
    assert len(speaker.said) == 0


def test_hearing_keeps_no_widget_alive(qapp):
    speaker, listener = Speaker(), Listener()
    hear(listener, speaker.said, listener.take)
    del listener
    speaker.said.emit("word", 3)
    assert len(speaker.said) == 0


def test_progress_is_shown_of_what_is_larger_than_qt_can_count(show, find, qtbot):
    holder = show(QWidget())
    row = ProgressRow("job")
    row.setParent(holder)
    assert row.isHidden()
    row.show_progress(30_000_000_000, 40_000_000_000, "30.0 GB of 40.0 GB")
    bar = find(row, QProgressBar, "job.bar")
    assert (bar.value(), bar.maximum()) == (750, 1000)
    assert find(row, QLabel, "job.words").text() == "30.0 GB of 40.0 GB"
    row.show_busy("opening")
    assert (bar.minimum(), bar.maximum()) == (0, 0)
    with qtbot.waitSignal(row.cancelled):
        qtbot.mouseClick(find(row, QPushButton, "job.cancel"), Qt.MouseButton.LeftButton)
    row.show_nothing()
    assert row.isHidden()


def test_a_long_line_is_cut_and_shown_whole_as_a_tooltip(show, qtbot):
    label = show(ElidedLabel("/data/of/somebody/" * 20 + "tomo.mrc"))
    label.grab()
    assert label.toolTip() == label.text()
    assert label.minimumSizeHint().width() < 30
    label.setText("short")
    label.grab()
    assert label.toolTip() == ""


def test_an_error_is_shown_with_its_hint_until_it_is_gone(show, find):
    holder = show(QWidget())
    note = ErrorNote("some")
    note.setParent(holder)
    note.show_error(ErrorInfo(code="a/b", message="it is wrong", hint="mend it"))
    assert find(note, QLabel, "some.message").text() == "✕ it is wrong"
    assert find(note, QLabel, "some.hint").isVisible()
    note.show_words("it is wrong")
    assert not find(note, QLabel, "some.hint").isVisible()
    note.show_error(None)
    assert note.isHidden()


def test_a_chip_has_the_colour_of_its_label(show):
    chip = show(ColourChip("#22aa44"))
    image = chip.grab().toImage()
    ratio = image.devicePixelRatio()
    middle = chip.sizeHint().width() / 2
    assert image.pixelColor(int(middle * ratio), int(chip.height() / 2 * ratio)).name() == "#22aa44"
    assert chip.accessibleName() == "colour #22aa44"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("cpu",), "CPU"),
        (("cuda:0",), "1 GPU"),
        (("cuda:0", "cuda:1", "cpu"), "2 GPUs, CPU"),
        (("mps",), "1 GPU"),
        ((), "no device"),
    ],
)
def test_devices_are_worded(names, words):
    assert devices(names) == words


def test_a_fingerprint_is_grouped_for_eyes():
    lines = grouped("0123456789abcdef" * 4).splitlines()
    assert lines == ["0123 4567 89ab cdef"] * 4


@pytest.mark.parametrize(
    ("url", "words"),
    [("local:", "this computer"), ("https://lab:8765", "lab:8765"), ("https://lab/", "lab"), ("nonsense", "nonsense")],
)
def test_places_are_worded(url, words):
    assert place_of(url) == words

"""What somebody thinks of a mask: said by clicks, kept with the job, and there again."""

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QPlainTextEdit, QPushButton

from cryomamba_gui.masks import draft
from cryomamba_gui.masks.draft import DRAFT, load_draft
from cryomamba_gui.masks.review import LONGEST_NOTE, REVIEW, Verdict, load_review
from cryomamba_gui.qt.reviewing import VERDICTS, ReviewBox


@pytest.fixture
def place(masked):
    return masked.bench.current


def chosen(desktop):
    return [verdict for verdict in Verdict if desktop.find(f"mask.verdict.{verdict}").isChecked()]


@pytest.fixture
def reopen(masked, place, pump):
    """Put the tomogram away, and open it and its mask again."""

    def again():
        masked.bench.close(place)
        pump(lambda: masked.bench.current is None)
        found = masked.open(place.path)
        pump(lambda: found.mask is not None and masked.find("mask.note").isEnabled())
        return found

    return again


def test_a_verdict_and_its_note_are_kept_and_shown_again(masked, place, reopen, pump):
    assert chosen(masked) == []
    masked.type("mask.note", "a membrane is broken")
    assert not masked.find("mask.keep-note").isEnabled(), "there is no verdict yet"
    masked.click("mask.verdict.needs-work")
    pump(lambda: "kept" in masked.text("mask.verdict-kept"))
    review = load_review(place.mask.folder)
    assert (review.verdict, review.note) == (Verdict.NEEDS_WORK, "a membrane is broken")
    assert review.reviewer in masked.text("mask.verdict-kept")
    found = reopen()
    pump(lambda: chosen(masked) == [Verdict.NEEDS_WORK])
    assert masked.find("mask.note").toPlainText() == "a membrane is broken"
    assert load_review(found.mask.folder) == review


def test_of_several_verdicts_the_last_one_is_kept(masked, place, pump):
    for verdict in VERDICTS:
        masked.click(f"mask.verdict.{verdict}")
    pump(lambda: (place.mask.folder / REVIEW).exists() and load_review(place.mask.folder).verdict is Verdict.REJECTED)
    assert chosen(masked) == [Verdict.REJECTED]


def test_a_note_can_be_kept_later(masked, place, pump):
    masked.click("mask.verdict.accepted")
    pump(lambda: "kept" in masked.text("mask.verdict-kept"))
    assert not masked.find("mask.keep-note").isEnabled()
    masked.type("mask.note", "after all")
    masked.click("mask.keep-note")
    pump(lambda: not masked.find("mask.keep-note").isEnabled())
    assert load_review(place.mask.folder).note == "after all"


def test_a_note_that_was_not_kept_yet_is_there_when_the_tomogram_is(masked, place, write_tomogram, pump):
    masked.type("mask.note", "I was about to")
    masked.open(write_tomogram("other.mrc"))
    masked.bench.turn_to(place)
    pump(lambda: masked.find("mask.note").isEnabled())
    assert masked.find("mask.note").toPlainText() == "I was about to"
    assert load_review(place.mask.folder) is None


@pytest.fixture
def another_window(masked, place, pump, show, find):
    """Opens what another window shows of the review."""

    def begin():
        box = show(ReviewBox(masked.panel.workplace))
        box.attend(place)
        pump(lambda: find(box, QPlainTextEdit, "mask.note").isEnabled())
        return box

    return begin


def test_a_note_without_a_verdict_is_there_in_the_next_window(masked, place, pump, find, another_window):
    masked.type("mask.note", "begun\nand not ended")
    pump(lambda: load_draft(place.mask.folder) == "begun\nand not ended")
    box = another_window()
    note = find(box, QPlainTextEdit, "mask.note")
    assert note.toPlainText() == "begun\nand not ended"
    assert load_review(place.mask.folder) is None
    find(box, QPushButton, "mask.verdict.accepted").click()
    pump(lambda: not (place.mask.folder / DRAFT).exists())
    assert load_review(place.mask.folder).note == "begun\nand not ended"
    assert find(another_window(), QPlainTextEdit, "mask.note").toPlainText() == "begun\nand not ended"


def test_a_note_is_written_down_when_the_window_is_closed(masked, place, monkeypatch):
    monkeypatch.setattr(draft, "MOMENT", 1e6)
    folder = place.mask.folder
    masked.type("mask.note", "just typed")
    assert load_draft(folder) is None
    masked.panel.workplace.bridge.drain()
    assert load_draft(folder) == "just typed"


def test_a_change_of_a_note_that_was_kept_is_a_draft_until_it_is_taken_back(
    masked, place, pump, find, another_window, monkeypatch
):
    monkeypatch.setattr(draft, "MOMENT", 0)
    masked.type("mask.note", "good")
    masked.click("mask.verdict.accepted")
    pump(lambda: "kept" in masked.text("mask.verdict-kept"))
    masked.type("mask.note", "not so good")
    pump(lambda: load_draft(place.mask.folder) == "not so good")
    box = another_window()
    note, keep = find(box, QPlainTextEdit, "mask.note"), find(box, QPushButton, "mask.keep-note")
    assert note.toPlainText() == "not so good"
    assert keep.isEnabled()
    note.setPlainText("good")
    pump(lambda: not (place.mask.folder / DRAFT).exists())
    assert load_review(place.mask.folder).note == "good"


def test_a_note_that_cannot_be_written_down_is_said_and_stays(masked, place, pump):
    (place.mask.folder / DRAFT).mkdir()
    masked.type("mask.note", "typed")
    pump(lambda: masked.find("messages").isVisible())
    assert "the note that was begun cannot be kept" in masked.text("messages.error.message")
    assert masked.find("mask.note").toPlainText() == "typed"
    (place.mask.folder / DRAFT).rmdir()
    masked.type("mask.note", "typed again")
    pump(lambda: load_draft(place.mask.folder) == "typed again")


def test_a_note_that_is_too_long_is_refused_and_stays(masked, place, pump):
    masked.find("mask.note").setPlainText("n" * (LONGEST_NOTE + 1))
    masked.click("mask.verdict.accepted")
    pump(lambda: masked.find("messages").isVisible())
    assert masked.text("mask.verdict-kept") == "not kept"
    assert len(masked.find("mask.note").toPlainText()) == LONGEST_NOTE + 1
    assert load_review(place.mask.folder) is None


def test_a_review_that_cannot_be_kept_is_said_to_be_so(masked, place, pump):
    (place.mask.folder / REVIEW).mkdir()
    masked.click("mask.verdict.accepted")
    pump(lambda: masked.text("mask.verdict-kept") == "not kept")
    assert masked.find("messages").isVisible()


def test_a_damaged_review_is_said_and_replaced_by_the_next_one(masked, place, reopen, pump):
    (place.mask.folder / REVIEW).write_text("{")
    found = reopen()
    pump(lambda: masked.find("messages").isVisible())
    assert "judge the mask again" in masked.text("messages.error.hint")
    masked.click("mask.verdict.accepted")
    pump(lambda: "kept" in masked.text("mask.verdict-kept"))
    assert load_review(found.mask.folder).verdict is Verdict.ACCEPTED


def test_keys_step_through_sections_as_long_as_review_mode_is_on(masked, place, pump):
    stepper, canvas = place.stage.stepper, masked.viewer.window._qt_viewer.canvas.native
    stepper.go_to(2, axis=0)
    QTest.keyClick(canvas, Qt.Key.Key_PageDown)
    assert stepper.section == 2, "the keys are napari's"
    masked.click("mask.review-mode")
    assert "PageDown" in masked.text("mask.review-keys")
    assert masked.find("mask.review-keys").isVisible()
    QTest.keyClick(canvas, Qt.Key.Key_PageDown)
    assert stepper.section == 3
    QTest.keyClick(canvas, Qt.Key.Key_PageUp, Qt.KeyboardModifier.ShiftModifier)
    assert stepper.section == 0
    QTest.keyClick(canvas, Qt.Key.Key_N)
    pump(lambda: stepper.section == 1)
    masked.click("mask.review-mode")
    assert not stepper.active
    QTest.keyClick(canvas, Qt.Key.Key_PageDown)
    assert stepper.section == 1
    assert not masked.find("mask.review-keys").isVisible()


def test_review_mode_ends_when_another_tomogram_is_turned_to(masked, place, write_tomogram):
    masked.click("mask.review-mode")
    masked.open(write_tomogram("other.mrc"))
    assert not place.stage.stepper.active
    masked.bench.turn_to(place)
    assert not masked.find("mask.review-mode").isChecked()

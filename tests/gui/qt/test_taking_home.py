"""Masks in every format that can be written, pictures and films: begun by clicks, judged by other programs."""

import json
import os
import shlex
import threading
from functools import partial

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMessageBox

from cryomamba_gui.masks import exporting
from cryomamba_gui.masks.review import Verdict
from cryomamba_gui.qt import taking_home

READERS = {
    "mask.mrc": lambda path: mrcfile.read(path),
    "mask.nii.gz": lambda path: np.asanyarray(nibabel.load(path).dataobj).T,
    "mask.nrrd": lambda path: nrrd.read(str(path))[0].T,
}


@pytest.fixture
def place(masked):
    return masked.bench.current


@pytest.fixture
def edit(masked, place, pump):
    """Paint some voxels, and wait until they are measured."""
    place.stage.mask.brush_size = 7
    place.stage.mask.paint((5, 20, 25), 5)
    pump(lambda: place.measures.current)
    return place.mask.array.copy()


def formats(desktop):
    box = desktop.find("home.format")
    return {box.itemText(row): box.itemData(row) for row in range(box.count())}


def export(desktop, path, pump, *, words="wrote"):
    desktop.click("home.export")
    desktop.save_as(path)
    pump(lambda: words in desktop.text("home.done"))


def test_there_is_an_entry_for_each_exporter_that_is_installed(masked, host):
    assert list(formats(masked).values()) == [exporter.artifact for exporter in host.exporters]


def test_what_was_edited_and_what_the_job_made_are_written_in_every_format(masked, place, edit, tmp_path, pump):
    original = np.array(place.mask.original[:])
    assert np.count_nonzero(original != edit) > 9
    for words, artifact in formats(masked).items():
        masked.choose("home.format", words)
        for version, expected in (("edited", edit), ("original", original)):
            path = tmp_path / version / f"home.{artifact}"
            path.parent.mkdir(exist_ok=True)
            masked.click(f"home.{version}")
            export(masked, path, pump)
            if artifact in READERS:
                np.testing.assert_array_equal(READERS[artifact](path), expected)
            else:
                counts = {entry["value"]: entry["voxels"] for entry in json.loads(path.read_text())["labels"]}
                values = [value for value in np.unique(expected) if value]
                assert counts == {int(value): np.count_nonzero(expected == value) for value in values}
    beside = json.loads((tmp_path / "edited" / "home.mask.review.json").read_text())
    assert {entry["voxels_changed"] for entry in beside["exports"]} == {np.count_nonzero(original != edit)}
    assert not list((tmp_path / "original").glob("*.review.json"))


def test_the_verdict_goes_with_the_mask(masked, tmp_path, pump):
    masked.click("mask.verdict.rejected")
    pump(lambda: "kept" in masked.text("mask.verdict-kept"))
    export(masked, tmp_path / "home.mask.mrc", pump)
    assert "home.mask.review.json" in masked.text("home.done")
    beside = json.loads((tmp_path / "home.mask.review.json").read_text())
    assert beside["review"]["verdict"] == Verdict.REJECTED


def test_a_file_that_the_user_agrees_to_replace_is_replaced(masked, place, tmp_path, pump):
    path = tmp_path / "home.mask.mrc"
    path.write_bytes(b"something old")
    asked = []
    agree = QTimer()
    agree.timeout.connect(lambda: asked.extend(said_yes()))
    agree.start(10)  # the question holds the call that asks it
    masked.click("home.export")
    masked.save_as(path)
    agree.stop()
    pump(lambda: "wrote" in masked.text("home.done"))
    assert len(asked) == 1
    np.testing.assert_array_equal(mrcfile.read(path), place.mask.array)


def said_yes():
    """Agree to what Qt asks."""
    for box in QApplication.topLevelWidgets():
        if isinstance(box, QMessageBox) and box.isVisible():
            box.button(QMessageBox.StandardButton.Yes).click()
            yield box


def test_an_ending_that_was_left_out_is_put_there_and_replaces_nothing_unasked(masked, tmp_path, pump):
    export(masked, tmp_path / "home", pump)
    assert (tmp_path / "home.mrc").exists()
    before = (tmp_path / "home.mrc").read_bytes()
    masked.click("home.export")
    masked.save_as(tmp_path / "home")
    pump(lambda: masked.find("messages").isVisible())
    assert "exists" in masked.text("messages.error.message")
    assert (tmp_path / "home.mrc").read_bytes() == before


def test_the_tomogram_itself_is_never_replaced(masked, place, pump):
    before = place.path.read_bytes()
    masked.click("home.export")
    masked.find("home.dialog").fileSelected.emit(str(place.path))
    masked.find("home.dialog").reject()
    pump(lambda: masked.find("messages").isVisible())
    assert "still needed" in masked.text("messages.error.message")
    assert place.path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_said(masked, tmp_path, pump):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    masked.click("home.export")
    masked.save_as(folder / "home.mask.mrc")
    pump(lambda: masked.find("messages").isVisible())
    assert "cannot be written to" in masked.text("messages.error.message")


def test_a_folder_that_is_gone_is_said_with_a_hint(masked, tmp_path, pump):
    masked.click("home.export")
    masked.find("home.dialog").fileSelected.emit(str(tmp_path / "gone" / "home.mask.mrc"))
    masked.find("home.dialog").reject()
    pump(lambda: masked.find("messages").isVisible())
    assert "cannot be written to" in masked.text("messages.error.message")
    assert "choose another one" in masked.text("messages.error.hint")


def test_an_export_shows_how_far_it_is_and_leaves_nothing_when_it_is_cancelled(masked, tmp_path, pump, monkeypatch):
    gate = threading.Event()
    count = exporting._count_changed

    def wait(mask, passes):
        passes.report(3)
        while not gate.wait(0.01):
            passes.report(3)
        return count(mask, passes)

    monkeypatch.setattr(exporting, "_count_changed", wait)
    place = masked.bench.current
    place.stage.mask.paint((5, 20, 25), 5)
    masked.click("home.export")
    masked.save_as(tmp_path / "home.mask.mrc")
    pump(lambda: masked.find("mask.progress.bar").value() == round(1000 * 3 / 40))
    assert "writing home.mask.mrc" in masked.text("mask.progress.words")
    masked.click("mask.progress.cancel")
    pump(lambda: not place.works)
    gate.set()
    assert "was not written" in masked.text("home.done")
    assert not [path for path in tmp_path.iterdir() if "home" in path.name]
    assert not masked.panel.workplace.desk.troubles.items


def test_the_canvas_is_written_as_a_picture(masked, tmp_path, pump):
    masked.click("home.screenshot")
    masked.save_as(tmp_path / "picture")
    pump(lambda: "wrote" in masked.text("home.done"))
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == masked.picture().shape[1::-1]
        assert len(np.unique(np.asarray(picture))) > 9


def test_a_film_of_the_turning_volume_is_written_and_one_can_be_stopped(masked, place, tmp_path, pump, monkeypatch):
    masked.click("home.movie")
    masked.save_as(tmp_path / "stopped.png")
    pump(lambda: "filming" in masked.text("mask.progress.words") and place.works[0].done > 0)
    assert not masked.find("home.movie").isEnabled(), "one film at a time"
    masked.click("mask.progress.cancel")
    pump(lambda: not place.works)
    assert not (tmp_path / "stopped.png").exists()
    assert masked.viewer.dims.ndisplay == 2
    masked.viewer.window.resize(700, 500)
    monkeypatch.setattr(taking_home, "turning_movie", partial(taking_home.turning_movie, seconds=2))
    masked.click("home.movie")
    masked.save_as(tmp_path / "turning.png")
    pump(lambda: "wrote" in masked.text("home.done"))
    with Image.open(tmp_path / "turning.png") as film:
        assert film.n_frames == 50
        first = np.asarray(film.convert("RGB")).copy()
        film.seek(12)
        assert np.any(np.asarray(film.convert("RGB")) != first)


def test_the_command_that_does_the_same_is_copied(masked, place):
    masked.click("home.copy-command")
    words = shlex.split(QApplication.clipboard().text())
    assert words[:4] == ["cryomamba", "--data-dir", str(masked.host.settings.data_dir), "segment"]
    assert words[4] == str(place.path)
    assert "copied" in masked.text("home.done")

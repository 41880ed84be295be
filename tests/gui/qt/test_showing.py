"""Which job's labels are shown on a tomogram, where they are laid, and when they are fetched."""

from functools import partial

import engines
import numpy as np
import pytest
import trio
from qtpy.QtWidgets import QMenu

from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import PreviewPolicy
from cryomamba_gui.desk import fetching
from cryomamba_gui.desk.link import LinkState

SPOT = (5, 20, 25)


@pytest.fixture
def host(strangers_installed, tmp_path):
    """Every installed plugin, and the strangers."""
    return PluginHost.discover(engines.make_settings(tmp_path / "desktop-data"))


@pytest.fixture
def gate(tmp_path):
    """A folder that holds the strangers' runner back; at the end it is opened."""
    folder = tmp_path / "gate"
    folder.mkdir()
    yield folder
    engines.open_gate(folder, *range(100))


@pytest.fixture
def submit(desktop, pump):
    """Submit a job, as any other window could; returns it once it is in the list."""

    def submit(path, runner="threshold", *, voxel_size=None, **params):
        config = JobConfig(
            source=Source(path=str(path)),
            runner=runner,
            params=params,
            voxel_size=voxel_size,
            preview=PreviewPolicy(interval_seconds=0, max_voxels=4000),
        )
        submission = desktop.jobs.outbox.prepare(path, config, auto=True)
        pump(lambda: submission.item or submission.error)
        assert submission.error is None, submission.error
        return submission.item

    return submit


@pytest.fixture
def finished(desktop, write_tomogram, submit, pump):
    """A place with the mask of a finished job."""
    place = desktop.open(write_tomogram(voxel_size=1.0))
    desktop.connect("local:")
    item = submit(place.path)
    pump(lambda: place.mask is not None and not place.works)
    assert place.item is item
    return place


@pytest.fixture
def troubles(desktop):
    return desktop.panel.workplace.desk.troubles


def has_ended(item):
    return item.state.ended


def shows_mask_of(place, item):
    return place.item is item and place.mask is not None and not place.works


def reopen(desktop, place, pump, **options):
    """Close a tomogram, and open it again."""
    desktop.bench.close(place)
    pump(lambda: not place.works)
    desktop.bench.open(place.path, **options)
    pump(lambda: desktop.bench.at(place.path) is not None)
    return desktop.bench.at(place.path)


def test_a_mask_that_was_edited_stays_whatever_newer_jobs_do(desktop, finished, submit, gate, pump, troubles):
    place, first, mask = finished, finished.item, finished.mask
    desktop.turn_to("Mask")
    desktop.click("mask.tool.paint")
    before = mask.array.copy()
    place.stage.mask.paint(SPOT, 5)
    second = submit(place.path, "steps", gate=str(gate))
    engines.open_gate(gate, *range(5))
    pump(lambda: second.preview is not None)
    assert place.item is first
    engines.open_gate(gate, *range(10))
    pump(partial(has_ended, second))
    assert (place.item, place.mask, place.stage.shown_mask) == (first, mask, mask)
    assert str(place.stage.mask.mode) == "paint"
    desktop.click("mask.undo")
    np.testing.assert_array_equal(mask.array, before)
    desktop.bench.show(second)
    pump(partial(shows_mask_of, place, second))
    assert not troubles.items


def test_a_mask_that_was_not_edited_stays_until_a_newer_job_has_a_preview(desktop, finished, submit, gate, pump):
    place, first, mask = finished, finished.item, finished.mask
    second = submit(place.path, "steps", gate=str(gate))
    pump(lambda: second.state.active)
    assert (place.item, place.stage.shown_mask) == (first, mask)
    engines.open_gate(gate, *range(5))
    pump(lambda: place.item is second and place.stage.preview.visible)
    engines.open_gate(gate, *range(10))
    pump(partial(shows_mask_of, place, second))


def test_a_job_that_the_user_has_chosen_stays(desktop, finished, submit, pump):
    place, first = finished, finished.item
    second = submit(place.path)
    pump(partial(shows_mask_of, place, second))
    desktop.bench.show(first)
    pump(partial(shows_mask_of, place, first))
    third = submit(place.path)
    pump(partial(has_ended, third))
    assert place.item is first
    desktop.bench.open(place.path, voxel_size=(2.0, 2.0, 2.0))
    pump(lambda: desktop.bench.at(place.path) is not place)
    assert desktop.bench.at(place.path).item is first


def test_what_is_done_for_a_mask_is_done_before_a_newer_job_takes_its_place(finished, submit, pump):
    place, first, gate = finished, finished.item, trio.Event()
    work = place.begin_work("exporting", lambda _: gate.wait(), about_mask=True)
    second = submit(place.path)
    pump(partial(has_ended, second))
    assert place.item is first
    assert not work.scope.cancel_called
    gate.set()
    pump(partial(shows_mask_of, place, second))


def test_a_tomogram_is_opened_with_the_newest_job_that_was_completed(desktop, finished, submit, pump):
    first = finished.item
    second = submit(finished.path, "steps", fault="raises")
    pump(partial(has_ended, second))
    assert second.state is JobState.FAILED
    place = reopen(desktop, finished, pump)
    pump(partial(shows_mask_of, place, first))


def test_edits_of_another_day_are_not_passed_over_for_a_preview(desktop, finished, submit, gate, pump, monkeypatch):
    first = finished.item
    finished.stage.mask.paint(SPOT, 5)
    second = submit(finished.path, "steps", gate=str(gate))
    fetch, come = desktop.jobs.fetch, trio.Event()

    async def held(item, on_progress=None):
        await come.wait()
        return await fetch(item, on_progress)

    monkeypatch.setattr(desktop.jobs, "fetch", held)
    place = reopen(desktop, finished, pump)
    engines.open_gate(gate, *range(5))
    pump(lambda: second.preview is not None)
    assert place.item is first
    come.set()
    pump(partial(shows_mask_of, place, first))
    assert place.mask.edited


def test_labels_made_with_another_voxel_size_lie_voxel_on_voxel_and_that_is_said(
    desktop, finished, submit, gate, pump, troubles
):
    engines.open_gate(gate, *range(5))
    true = (7.84, 7.84, 7.84)
    item = submit(finished.path, "steps", gate=str(gate), voxel_size=true, doubt=2)
    place, grid = finished, finished.tomogram.grid
    pump(lambda: place.item is item and place.stage.preview.visible and place.stage.companions.layers)
    coarse = grid.coarsen(item.preview.factor)
    np.testing.assert_allclose(place.stage.preview.scale, coarse.voxel_size)
    np.testing.assert_allclose(place.stage.preview.translate, coarse.origin)
    [layer] = place.stage.companions.layers
    layer.visible = True
    engines.open_gate(gate, *range(10))
    pump(lambda: shows_mask_of(place, item) and place.companions.files)
    assert place.mask.grid.voxel_size == true, "what the job made is as it made it"
    np.testing.assert_allclose(place.stage.mask.world_to_data(grid.position(SPOT)), SPOT)
    np.testing.assert_allclose(layer.scale, grid.coarsen(2).voxel_size)
    [trouble] = troubles.items
    assert "7.84" in trouble.error.message
    assert "nm³" in trouble.error.hint


def test_labels_of_another_file_that_had_this_name_are_not_laid(
    desktop, finished, write_tomogram, submit, gate, pump, troubles
):
    engines.open_gate(gate, *range(5))
    second = submit(finished.path, "steps", gate=str(gate))
    pump(lambda: second.preview is not None)
    desktop.bench.close(finished)
    finished.path.unlink()
    write_tomogram(shape=(12, 30, 32))
    place = desktop.open(finished.path)
    pump(lambda: troubles.items and not place.works)
    assert "12 × 30 × 32" in troubles.items[-1].error.message
    assert troubles.items[-1].error.hint
    assert place.mask is None
    desktop.bench.show(second)
    pump(lambda: place.item is second and not place.works)
    assert all("12 × 30 × 32" in trouble.error.message for trouble in troubles.items)
    assert not place.stage.preview.visible


def test_a_voxel_size_that_was_given_is_remembered_for_the_file(desktop, write_tomogram, pump):
    path = write_tomogram(voxel_size=1.0)
    desktop.bench.open(path, voxel_size=(7.0, 8.0, 9.5))
    pump(lambda: desktop.bench.at(path) is not None)
    desktop.bench.close(desktop.bench.at(path))
    menu = desktop.find("tomogram.recent-menu", QMenu)
    menu.aboutToShow.emit()
    menu.actions()[0].trigger()
    pump(lambda: desktop.bench.at(path) is not None)
    assert desktop.bench.at(path).voxel_size == (7.0, 8.0, 9.5)
    np.testing.assert_allclose(desktop.bench.at(path).stage.image.scale, (7.0, 8.0, 9.5))
    desktop.bench.close(desktop.bench.at(path))
    path.unlink()
    write_tomogram(voxel_size=4.0, shape=(12, 30, 32))
    desktop.bench.open(path)
    pump(lambda: desktop.bench.at(path) is not None)
    assert desktop.bench.at(path).voxel_size is None
    np.testing.assert_allclose(desktop.bench.at(path).stage.image.scale, [4.0] * 3)


@pytest.fixture
def left_on_server(desktop, server_process, write_tomogram, submit, pump):
    """A tomogram that is not open, and its finished job, of which nothing was fetched; the window is apart."""
    path = write_tomogram()
    desktop.connect(server_process.url, server_process.token())
    item = submit(path)
    pump(partial(has_ended, item))
    desktop.link.disconnect()
    return path, item


def test_a_mask_is_fetched_once_the_connection_stands(desktop, server_process, left_on_server, pump, troubles):
    path, item = left_on_server
    server_process.kill()
    desktop.link.connect(server_process.url)
    pump(lambda: desktop.link.state is LinkState.WAITING)
    place = desktop.open(path)
    pump(lambda: any(work.about_mask and work.begun for work in place.works))
    server_process.restart()
    desktop.link.retry_now()
    pump(partial(shows_mask_of, place, item))
    assert not troubles.items


def test_a_mask_that_was_not_to_be_had_is_fetched_once_the_window_is_connected(
    desktop, server_process, left_on_server, pump, troubles
):
    path, item = left_on_server
    place = desktop.open(path)
    pump(lambda: troubles.items and not any(work.about_mask for work in place.works))
    assert "not connected" in troubles.items[-1].error.message
    desktop.link.connect(server_process.url)
    pump(partial(shows_mask_of, place, item))


def test_a_mask_whose_download_was_cut_off_is_fetched_by_the_next_session(
    desktop, server_process, left_on_server, pump, monkeypatch
):
    path, item = left_on_server
    fetch, begun = fetching.fetch, []

    async def stuck_once(*args, **options):
        begun.append(1)
        if len(begun) == 1:
            await trio.sleep_forever()
        await fetch(*args, **options)

    monkeypatch.setattr(fetching, "fetch", stuck_once)
    desktop.link.connect(server_process.url)
    place = desktop.open(path)
    pump(lambda: begun)
    desktop.link.connect(server_process.url)
    pump(partial(shows_mask_of, place, item))
    assert len(begun) == 2

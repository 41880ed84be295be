"""Statistics follow the edits."""

from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio
from drawn_labels import NAMES, some_labels
from scipy import ndimage

from cryomamba_core.errors import StorageDamaged
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_gui.masks import measures as measures_module
from cryomamba_gui.masks.measures import Measures
from cryomamba_gui.masks.values import named, values_in

DEADLINE = 60


def of_job(mask):
    return measure_labels(mask.original, mask.grid, NAMES)


@asynccontextmanager
async def running(mask, statistics=(), settled=0.01):
    measures = Measures(mask, statistics, settled=settled)
    async with trio.open_nursery() as nursery:
        await nursery.start(measures.run)
        yield measures
        nursery.cancel_scope.cancel()


async def until(measures, condition):
    with trio.fail_after(DEADLINE):
        while not condition():
            heard = trio.Event()
            measures.changed.connect(heard.set)
            await heard.wait()
            measures.changed.disconnect(heard.set)


async def test_what_the_job_measured_is_shown_at_once_and_nothing_is_measured(mask, autojump_clock, monkeypatch):
    monkeypatch.setattr(measures_module, "measure_labels", None)
    statistics = of_job(mask)
    async with running(mask, statistics) as measures:
        assert (measures.statistics, measures.current) == (statistics, True)
        await trio.sleep(100)
        assert measures.current
        assert measures.error is None


async def test_after_an_edit_the_statistics_are_those_of_what_is_there_now(mask):
    async with running(mask, of_job(mask)) as measures:
        mask.array[...] = 0
        mask.array[2:4, 3:8, 5:9] = 2
        mask.array[9, 9, 9] = 2
        mask.touched()
        assert not measures.current
        await until(measures, lambda: measures.current)
        membrane, ribosome = measures.statistics
        assert (membrane.voxels, membrane.components) == (0, 0)
        assert (ribosome.voxels, ribosome.components) == (2 * 5 * 4 + 1, ndimage.label(mask.array == 2)[1])
        assert ribosome.volume_nm3 == pytest.approx(41 * 10 * 11 * 12 / 1000)


async def test_a_value_that_the_model_does_not_know_is_measured_too(mask):
    async with running(mask, of_job(mask)) as measures:
        mask.array[0, :2, 0] = 250
        mask.touched()
        await until(measures, lambda: measures.current)
        assert [(each.value, each.name) for each in measures.statistics] == [
            (1, "membrane"),
            (2, "ribosome"),
            (250, "label 250"),
        ]
        assert measures.statistics[2].voxels == 2


async def test_a_mask_that_was_edited_before_is_measured_anew(mask):
    statistics = of_job(mask)
    mask.array[0] = 1
    mask.touched()
    async with running(mask, statistics) as measures:
        assert not measures.current
        await until(measures, lambda: measures.current)
        assert measures.statistics == of_current(mask)


def of_current(mask):
    return measure_labels(mask.current, mask.grid, NAMES)


async def test_a_further_edit_stops_the_measuring_and_starts_it_anew(mask, monkeypatch):
    token = trio.lowlevel.current_trio_token()
    begun = []

    def edit_in_the_middle(labels, grid, names, *, on_slab):
        begun.append(len(begun))
        if len(begun) < 3:
            trio.from_thread.run_sync(paint, len(begun), trio_token=token)
        on_slab(1)
        return measure_labels(labels, grid, names, on_slab=on_slab)

    def paint(section):
        mask.array[section] = 1
        mask.touched()

    monkeypatch.setattr(measures_module, "measure_labels", edit_in_the_middle)
    async with running(mask, of_job(mask)) as measures:
        paint(0)
        await until(measures, lambda: measures.current)
        assert len(begun) == 3
        assert measures.statistics == of_current(mask)


async def test_a_run_of_edits_is_measured_once(mask, autojump_clock, monkeypatch):
    begun = []

    def count(*arguments, **options):
        begun.append(1)
        return measure_labels(*arguments, **options)

    monkeypatch.setattr(measures_module, "measure_labels", count)
    autojump_clock.autojump_threshold = 0.2
    async with running(mask, of_job(mask), settled=0.5) as measures:
        for _ in range(8):
            mask.touched()
            await trio.sleep(0.3)
        assert not begun
        await until(measures, lambda: measures.current)
        assert len(begun) == 1


async def test_measuring_that_is_cancelled_stops_within_a_slab(mask, monkeypatch):
    entered = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def endless(labels, grid, names, *, on_slab):
        trio.from_thread.run_sync(entered.set, trio_token=token)
        while True:
            on_slab(1)

    monkeypatch.setattr(measures_module, "measure_labels", endless)
    with trio.fail_after(DEADLINE):
        async with running(mask):
            await entered.wait()


async def test_what_cannot_be_measured_is_said_and_the_next_edit_tries_again(mask, monkeypatch):
    def damaged(*_, **__):
        raise StorageDamaged("the label file ends before the volume does")

    monkeypatch.setattr(measures_module, "measure_labels", damaged)
    async with running(mask, of_job(mask)) as measures:
        mask.touched()
        await until(measures, lambda: measures.error)
        assert measures.error.code == "storage/damaged"
        assert not measures.current
        monkeypatch.setattr(measures_module, "measure_labels", measure_labels)
        mask.touched()
        await until(measures, lambda: measures.current)
        assert measures.error is None


async def test_how_far_it_is_is_told_in_this_thread(mask):
    told = []
    async with running(mask) as measures:
        measures.progressed.connect(lambda *at: told.append((trio.lowlevel.current_trio_token(), *at)))
        await until(measures, lambda: measures.current)
    assert told[-1] == (trio.lowlevel.current_trio_token(), 24, 24)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_values_of_a_mask_are_found(dtype):
    labels = some_labels(dtype=dtype)
    labels[3, 4, 5] = 251
    assert values_in(labels) == (1, 2, 251)
    assert [label.name for label in named(NAMES, (1, 251))] == ["membrane", "ribosome", "label 251"]
    assert len({label.color for label in named(NAMES, (3, 4))}) == 4

"""Masks are saved by themselves, and once more at the end."""

import os

import numpy as np
import trio
from drawn_labels import some_labels

from cryomamba_gui.masks.keeping import keep_saved, revert_mask

DEADLINE = 60


def fail(error):
    raise AssertionError(error)


async def test_an_edit_is_saved_after_a_while_without_being_asked(mask):
    saved = trio.Event()
    mask.saved.connect(saved.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: keep_saved(mask, on_failure=fail, interval=0.01))
        mask.touched()
        with trio.fail_after(DEADLINE):
            await saved.wait()
        assert not mask.unsaved
        nursery.cancel_scope.cancel()


async def test_a_mask_that_nobody_edits_is_not_saved(mask, autojump_clock):
    saved = []
    mask.saved.connect(lambda: saved.append(1))
    with trio.move_on_after(100):
        await keep_saved(mask, on_failure=fail)
    assert not saved


async def test_what_is_unsaved_at_the_end_is_saved_then(mask):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: keep_saved(mask, on_failure=fail, interval=10**6))
        await trio.testing.wait_all_tasks_blocked()
        mask.touched()
        nursery.cancel_scope.cancel()
    assert not mask.unsaved


async def test_a_disk_that_refuses_is_told_once_and_tried_until_it_takes_the_edits(mask, monkeypatch):
    told, saved, sync = [], trio.Event(), os.fdatasync
    refusals = iter([True, True, True])

    def refuse(descriptor):
        if next(refusals, False):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", refuse)
    mask.saved.connect(saved.set)
    mask.touched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: keep_saved(mask, on_failure=told.append, interval=0.01))
        with trio.fail_after(DEADLINE):
            await saved.wait()
        nursery.cancel_scope.cancel()
    assert [error.code for error in told] == ["storage/error"]
    assert not mask.unsaved


async def test_reverting_off_the_thread_tells_everybody_in_this_one(mask):
    mask.array[...] = 1
    mask.touched()
    heard, told = [], []
    mask.changed.connect(lambda: heard.append(trio.lowlevel.current_task()))
    await revert_mask(mask, lambda *at: told.append((trio.lowlevel.current_trio_token(), *at)))
    np.testing.assert_array_equal(mask.array, some_labels())
    assert heard == [trio.lowlevel.current_task()]
    assert told[-1] == (trio.lowlevel.current_trio_token(), 12, 12)
    assert not mask.edited

"""Who gets room for a part, and when."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cryomamba_core.errors import RateLimited, RequestTooSlow
from cryomamba_server.engine import part_slots
from cryomamba_server.engine.part_slots import PartSlots


class Holders:
    """Tasks that hold slots until they are told to let go."""

    def __init__(self, nursery, slots):
        self.nursery, self.slots = nursery, slots
        self.holding = []

    async def hold(self, owner):
        leave = trio.Event()
        self.nursery.start_soon(self._hold, owner, leave)
        await wait_all_tasks_blocked()
        return leave

    async def _hold(self, owner, leave):
        async with self.slots.take(owner, 10) as slot:
            assert len(slot.view) == 10
            self.holding.append(owner)
            await leave.wait()
            self.holding.remove(owner)


@pytest.fixture
async def holders():
    async with trio.open_nursery() as nursery:
        yield Holders(nursery, PartSlots(3, 10))
        nursery.cancel_scope.cancel()


async def test_no_more_than_the_slots_are_held(holders):
    for owner in ("ada", "bob", "eve", "kim"):
        await holders.hold(owner)
    assert holders.holding == ["ada", "bob", "eve"]
    assert holders.slots.held == 3


async def test_one_owner_never_holds_all(holders):
    for _ in range(5):
        await holders.hold("ada")
    assert holders.holding == ["ada", "ada"]
    await holders.hold("bob")
    assert holders.holding == ["ada", "ada", "bob"]


async def test_a_slot_that_is_free_goes_to_who_holds_the_fewest_and_then_to_who_waits_longest(holders):
    first, *_ = [await holders.hold(owner) for owner in ("ada", "ada", "bob")]
    for owner in ("ada", "bob", "eve", "kim"):
        await holders.hold(owner)
    first.set()
    await wait_all_tasks_blocked()
    assert holders.holding == ["ada", "bob", "eve"]


async def test_who_stops_waiting_takes_nothing(holders):
    leaves = [await holders.hold(owner) for owner in ("ada", "bob", "eve")]
    with trio.move_on_after(0):
        async with holders.slots.take("kim", 10):
            pytest.fail("there is no slot")
    for leave in leaves:
        leave.set()
    await wait_all_tasks_blocked()
    assert holders.slots.held == 0
    with trio.fail_after(1):
        async with holders.slots.take("kim", 10):
            assert holders.slots.held == 1


async def test_a_single_slot_is_for_everybody():
    slots = PartSlots(1, 10)
    async with slots.take("ada", 10):
        assert slots.held == 1


async def test_buffers_are_used_again_and_grow_where_a_part_is_larger():
    slots = PartSlots(1, 10)
    async with slots.take("ada", 10) as slot:
        slot.view[:] = b"0123456789"
    async with slots.take("bob", 12) as slot:
        assert len(slot.view) == 12
    async with slots.take("bob", 5) as slot:
        assert len(slot.view) == 5


async def come_slowly(slots, owner, refused):
    """Hold a slot whose part does not come; what it is told then is added to `refused`."""
    try:
        async with slots.take(owner, 10) as slot:
            with slot.filling():
                await trio.sleep_forever()
    except RequestTooSlow as error:
        refused.append(error)


async def test_owners_whose_parts_do_not_come_lose_their_room_to_who_waits(autojump_clock):
    slots, refused = PartSlots(3, 10), []
    async with trio.open_nursery() as nursery:
        for owner in ("ada", "ada", "bob"):
            nursery.start_soon(come_slowly, slots, owner, refused)
        await trio.sleep(3600)
        assert slots.held == 3, "while nobody waits, they may take their time"
        began = trio.current_time()
        async with slots.take("eve", 10):
            assert trio.current_time() - began <= part_slots.LOOK_INTERVAL
        nursery.cancel_scope.cancel()
    assert refused
    assert refused[0].retryable
    assert refused[0].hint


async def test_a_part_may_take_some_time_though_others_wait(autojump_clock):
    slots, refused = PartSlots(1, 10), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_slowly, slots, "ada", refused)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        async with slots.take("bob", 10):
            assert trio.current_time() - began >= part_slots.LEAST_SECONDS
    assert len(refused) == 1


async def test_what_has_come_is_stored_however_long_that_takes(autojump_clock):
    slots, stored = PartSlots(1, 10), trio.Event()

    async def store():
        async with slots.take("ada", 10) as slot:
            with slot.filling():
                await trio.sleep(1)
            await trio.sleep(part_slots.LONGEST_WAIT - 5)
            stored.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store)
        await wait_all_tasks_blocked()
        async with slots.take("bob", 10):
            assert stored.is_set()


async def test_who_waits_for_too_long_is_told_to_come_again(autojump_clock):
    slots = PartSlots(1, 10)
    async with slots.take("ada", 10):
        with pytest.raises(RateLimited) as refused:
            async with slots.take("bob", 10):
                pytest.fail("there is no slot")
    assert refused.value.retryable
    assert slots.held == 0

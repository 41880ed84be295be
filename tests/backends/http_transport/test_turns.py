"""Many questions at the same time: they keep to the server's limit together, as its own counter judges."""

import math

import pytest
import trio

from cryomamba_backends.http_transport.turns import Turns
from cryomamba_core.errors import RateLimited
from cryomamba_server.http.access.limits import RateLimit

#: Requests in a minute.
QUOTA = 60


class Door:
    """A server that counts, without the rest of it; `refused` is how often it said that it was too early."""

    def __init__(self, quota=QUOTA):
        self._limit = RateLimit("control", quota=quota, clock=trio.current_time)
        self.refused = 0

    async def ask(self):
        """Status, headers, and the seconds after which to come again."""
        status, delay = 200, 0.0
        try:
            self._limit.take("ada")
        except RateLimited as error:
            self.refused += 1
            status, delay = 429, math.ceil(error.retry_after)
        headers = {name.lower(): value for name, value in self._limit.headers("ada").items()}
        await trio.sleep(0.05)
        return status, headers, delay


async def ask(door, turns, *, heed=True):
    """Ask until there is an answer."""
    while True:
        async with turns.turn():
            status, headers, delay = await door.ask()
        if heed:
            turns.note(status, headers, delay)
        if status == 200:
            return
        await trio.sleep(delay)


async def ask_at_once(count, door, turns, **options):
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(lambda: ask(door, turns, **options))


@pytest.mark.parametrize("tasks", [1, 32])
async def test_a_cohort_is_refused_a_few_times_at_most(autojump_clock, tasks):
    door, turns = Door(), Turns(lambda _: None)

    async def work():
        for _ in range(160 // tasks):
            await ask(door, turns)

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    assert door.refused <= 3


async def test_whoever_does_not_heed_the_limit_is_refused_again_and_again(autojump_clock):
    door = Door()
    await ask_at_once(100, door, Turns(lambda _: None), heed=False)
    assert door.refused > 40


async def test_all_wait_after_one_has_come_too_early(autojump_clock):
    begun, turns = trio.current_time(), Turns(lambda _: None)
    turns.note(429, {}, 7.0)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: ask(Door(), turns))
    assert trio.current_time() - begun >= 7.0


async def test_questions_wait_for_nobody_far_from_the_limit(autojump_clock):
    begun, door, turns = trio.current_time(), Door(), Turns(lambda _: None)
    await ask_at_once(QUOTA // 2, door, turns)
    await ask_at_once(QUOTA // 2 - 1, door, turns)
    assert trio.current_time() - begun < 1.0


async def test_a_long_wait_is_told_and_its_end_too(autojump_clock):
    told = []
    turns = Turns(told.append)
    turns.note(429, {}, 30.0)
    await ask(Door(), turns)
    assert [None if why is None else why.code for why in told] == ["access/rate-limited", None]


async def test_whoever_gives_up_waiting_lets_the_next_one_through(autojump_clock):
    turns, told = Turns(lambda why: told.append(why)), []
    turns.note(429, {}, 30.0)
    with trio.move_on_after(5):
        await ask(Door(), turns)
    assert told[-1] is None
    await ask(Door(), turns)

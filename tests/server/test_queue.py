"""Whose job runs next."""

import pytest

from cryomamba_server.engine.queue import Waiting, fair_order, helpful_slots


def order_of(owners, served=()):
    waiting = [Waiting(job_id=f"{owner}{place}", owner=owner, order=place) for place, owner in enumerate(owners)]
    return [job.job_id for job in fair_order(reversed(waiting), dict(served))]


def test_one_owners_jobs_run_in_the_order_of_their_submission():
    assert order_of("aaa") == ["a0", "a1", "a2"]


def test_an_owner_with_many_jobs_does_not_keep_the_others_waiting():
    assert order_of("aaabbc") == ["a0", "b3", "c5", "a1", "b4", "a2"]


def test_the_owner_whose_last_turn_is_longest_ago_is_next():
    assert order_of("aabb", {"a": 7, "b": 3}) == ["b2", "a0", "b3", "a1"]
    assert order_of("abc", {"a": 7, "b": 3}) == ["c2", "b1", "a0"]


@pytest.mark.parametrize(
    ("device", "free", "shards", "further"),
    [
        ("cuda:0", ["cuda:1", "cpu", "cuda:2", "cuda:3"], 3, ["cuda:1", "cuda:2"]),
        ("cuda:0", ["cuda:1"], 4, ["cuda:1"]),
        ("cuda:0", ["cuda:1"], 1, []),
        ("cuda:0", ["cpu"], 2, []),
        ("cpu", ["cpu", "cuda:0"], 4, []),
    ],
)
def test_shards_are_given_free_devices_of_one_kind(device, free, shards, further):
    assert helpful_slots(device, free, shards=shards) == further


def test_nothing_waits_in_an_empty_queue():
    assert order_of("") == []

"""How long a silent worker is waited for, and what is quoted of its log. The clock is a mock."""

import trio

from cryomamba_server.engine.looking import CANCEL_GRACE, Look, Patience, last_words


def look(beat, events=()):
    return Look(events=tuple(events), offset=0, beat=beat, cancel_ordered=False)


async def test_a_worker_that_beats_is_never_stale(autojump_clock):
    patience = Patience(stale_seconds=5)
    for beat in range(100):
        await trio.sleep(4)
        assert not patience.lost(look(float(beat)), ordered=False)


async def test_a_worker_that_stops_beating_is_stale_after_that_time(autojump_clock):
    patience = Patience(stale_seconds=5)
    assert not patience.lost(look(1.0), ordered=False)
    await trio.sleep(4.9)
    assert not patience.lost(look(1.0), ordered=False)
    await trio.sleep(0.2)
    assert "no sign of life for 5 s" in patience.lost(look(1.0), ordered=False)


async def test_a_worker_that_never_beat_is_stale_after_that_time(autojump_clock):
    patience = Patience(stale_seconds=5)
    await trio.sleep(5.1)
    assert patience.lost(look(None), ordered=False)


async def test_events_are_signs_of_life_and_the_time_in_the_heartbeat_does_not_matter(autojump_clock):
    patience = Patience(stale_seconds=5)
    await trio.sleep(4)
    assert not patience.lost(look(None, ["event"]), ordered=False)
    await trio.sleep(4)
    assert not patience.lost(look(-1e9), ordered=False)  # a clock that was set back
    await trio.sleep(4)
    assert not patience.lost(look(1e9), ordered=False)


async def test_a_worker_has_a_grace_from_the_order_to_its_end(autojump_clock):
    patience = Patience(stale_seconds=1000)
    await trio.sleep(100)
    assert not patience.lost(look(1.0), ordered=True)
    await trio.sleep(CANCEL_GRACE - 0.1)
    assert not patience.lost(look(2.0), ordered=True)
    await trio.sleep(0.2)
    assert "did not end" in patience.lost(look(3.0), ordered=True)


def test_the_last_lines_of_a_log_are_quoted_in_one(tmp_path):
    log = tmp_path / "worker.log"
    assert last_words(log) == ""
    log.write_bytes(b"one\n\n two \nthree\nfour \xff\n\n")
    assert last_words(log) == "two | three | four \N{REPLACEMENT CHARACTER}"
    log.write_text("x" * 100_000)
    assert 0 < len(last_words(log)) <= 400

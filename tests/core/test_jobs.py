import itertools

import pytest

from cryomamba_core.errors import IllegalTransition
from cryomamba_core.jobs import TRANSITIONS, JobState, check_transition


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, repeat=2)))
def test_only_the_transitions_of_the_table_are_allowed(before, after):
    if after in TRANSITIONS[before]:
        check_transition(before, after)
    else:
        with pytest.raises(IllegalTransition):
            check_transition(before, after)


def test_a_completed_job_stays_completed():
    assert not TRANSITIONS[JobState.COMPLETED]


def test_every_state_can_be_reached_from_queued():
    reached, frontier = {JobState.QUEUED}, [JobState.QUEUED]
    while frontier:
        for state in TRANSITIONS[frontier.pop()] - reached:
            reached.add(state)
            frontier.append(state)
    assert reached == set(JobState)


def test_no_state_is_both_active_and_ended():
    assert not [state for state in JobState if state.active and state.ended]

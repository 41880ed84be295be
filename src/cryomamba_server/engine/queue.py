"""In which order queued jobs run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from attrs import frozen

from cryomamba_core.jobs import JobState
from cryomamba_server.engine.schema import jobs


@frozen(kw_only=True)
class Waiting:
    """A queued job.

    Attributes
    ----------
    job_id, owner
        The job, and whose it is.
    order
        Ascending in the order of submission.
    """

    job_id: str
    owner: str
    order: int


def fair_order(queued: Iterable[Waiting], served: Mapping[str, int]) -> list[Waiting]:
    """Queued jobs in the order in which they will run.

    Owners take turns, the one whose last turn is longest ago first; each owner's jobs run in the
    order of their submission.

    Parameters
    ----------
    queued
        The queued jobs in any order.
    served
        Owner → number of the owner's last start, ascending over all owners; those that had none
        may be left out.
    """
    lines: dict[str, deque[Waiting]] = {}
    for job in sorted(queued, key=lambda job: job.order):
        lines.setdefault(job.owner, deque()).append(job)
    turns = deque(sorted(lines, key=lambda owner: (served.get(owner, 0), lines[owner][0].order)))
    order = []
    while turns:
        owner = turns.popleft()
        order.append(lines[owner].popleft())
        if lines[owner]:
            turns.append(owner)
    return order


def helpful_slots(device: str, free: Iterable[str], *, shards: int) -> list[str]:
    """Those of the free slots that help a job of so many shards on `device`: further devices of its kind.

    Shards on the CPU divide its cores within one slot.
    """
    kind = device.partition(":")[0]
    alike = [other for other in free if other.partition(":")[0] == kind and kind != "cpu"]
    return alike[: shards - 1]


def read_queue(connection: sa.Connection) -> tuple[list[Waiting], dict[str, int]]:
    """The waiting jobs and the owners' last turns, as `fair_order` takes them."""
    query = sa.select(jobs.c.id, jobs.c.owner, jobs.c.queue_order).where(jobs.c.state == JobState.QUEUED.value)
    waiting = [Waiting(job_id=job_id, owner=owner, order=order) for job_id, owner, order in connection.execute(query)]
    turns = sa.select(jobs.c.owner, sa.func.max(jobs.c.served)).group_by(jobs.c.owner)
    return waiting, {row[0]: row[1] for row in connection.execute(turns)}

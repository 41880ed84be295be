"""What five hundred listeners on one job cost the server, and the job.

::

    python benchmarks/listeners.py [--listeners 500] [--repeats 3] [--stalled]

The same job again and again, in turn with nobody and with many listening, each time on a server of its own: what one
run left in memory does not help the next. The listeners hold a WebSocket open from before the job's first block to its
end, in a process of their own, and take what comes: states, progress, the end. With ``--stalled`` they take nothing.
The job keeps one processor busy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import trio
from rig.files import make_volume
from rig.memory import MemoryWatch
from rig.report import Figure, report
from rig.servers import Served, serving
from trio_websocket import ConnectionClosed, open_websocket_url

from cryomamba_core.interfaces import Session
from cryomamba_core.jobs import JobConfig, JobRecord, JobState, Source
from cryomamba_core.previews import PreviewPolicy

#: Of what it is without listeners.
LIMIT = 1.10
#: Blocks of the job, and processor seconds for each.
BLOCKS, WORK = 96, 0.1
#: Connections that are opened at a time.
AT_A_TIME = 20


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listeners", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stalled", action="store_true", help="listeners that read nothing")
    parser.add_argument("--listen", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        trio.run(partial(listen, options.listen, options.listeners, stalled=options.stalled))
        return 0
    rounds = [(run(0), run(options.listeners, stalled=options.stalled)) for _ in range(options.repeats)]
    figures = [
        *compare("resident memory of the server", "MB", [(alone[0], crowd[0]) for alone, crowd in rounds]),
        *compare("time of the job", "s", [(alone[1], crowd[1]) for alone, crowd in rounds]),
    ]
    return report(
        f"a job with {options.listeners} listeners beside one with none, medians of {options.repeats}",
        figures,
        rounds=rounds,
    )


def compare(name: str, unit: str, pairs: list[tuple[float, float]]) -> Iterator[Figure]:
    """Medians of both, and of their ratio."""
    yield Figure(name=f"{name}, nobody listens", value=statistics.median(alone for alone, _ in pairs), unit=unit)
    yield Figure(name=f"{name}, all listen", value=statistics.median(crowd for _, crowd in pairs), unit=unit)
    yield Figure(name="ratio", value=statistics.median(crowd / alone for alone, crowd in pairs), unit="", most=LIMIT)


def run(listeners: int, *, stalled: bool = False) -> tuple[float, float]:
    """One job on a server of its own: the server's peak memory in MB, and the job's seconds."""
    with tempfile.TemporaryDirectory(prefix="cryomamba-bench-") as name, serving(Path(name) / "ours") as server:
        return trio.run(partial(measure, server, Path(name), listeners, stalled=stalled))


async def measure(server: Served, folder: Path, listeners: int, *, stalled: bool) -> tuple[float, float]:
    """Hold a job until everybody listens, and then see it through."""
    random = np.random.default_rng(0)
    voxels = random.integers(-8, 8, (BLOCKS, 64, 64), np.int8)
    tomogram = make_volume(folder / "noise.mrc", voxels)
    gate = folder / "gate"
    async with server.transport.open(server.url, server.credentials) as session:
        source = Source(file_id=(await session.upload(tomogram)).id)
        params = {"gate": str(gate), "depth": 1, "work": WORK}
        config = JobConfig(
            source=source,
            runner="paced",
            params=params,
            artifacts=("stats.json",),
            preview=PreviewPolicy(max_voxels=0),
        )
        job = await session.submit(config)
        while not (await session.job(job.id)).state.active:
            await trio.sleep(0.1)
        with crowd(server, job.id, listeners, stalled=stalled), MemoryWatch(server.process) as memory:
            gate.touch()
            started = time.time()
            record = await ended(session, job.id)
    if record.state is not JobState.COMPLETED or record.finished_at is None:
        sys.exit(f"the job is {record.state}: {record.error}")
    return memory.peak, record.finished_at.timestamp() - started


async def ended(session: Session, job_id: str) -> JobRecord:
    """The record of a job, as soon as it has ended; looks seldom, so as to cost nothing."""
    while not (record := await session.job(job_id)).state.ended:
        await trio.sleep(0.5)
    return record


@contextmanager
def crowd(server: Served, job_id: str, listeners: int, *, stalled: bool) -> Iterator[None]:
    """That many listeners in a process of their own, all connected."""
    if not listeners:
        yield
        return
    address = f"{server.url.replace('http', 'ws', 1)}/v1/ws/jobs/{job_id}"
    command = [sys.executable, __file__, "--listen", address, "--listeners", str(listeners)]
    command += ["--stalled"] if stalled else []
    environment = {**os.environ, "CRYOMAMBA_TOKEN": server.token}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "all listen\n":
                sys.exit("the listeners cannot connect")
            yield
            if not stalled and process.wait(60):
                sys.exit("a listener did not hear the end of the job")
        finally:
            process.kill()


async def listen(address: str, listeners: int, *, stalled: bool) -> None:
    """Connect all listeners, say so, and listen to the job's end."""
    limit = trio.CapacityLimiter(AT_A_TIME)
    token = os.environ["CRYOMAMBA_TOKEN"]
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as opening:
            for _ in range(listeners):
                opening.start_soon(nursery.start, partial(listen_once, address, token, limit, stalled=stalled))
        print("all listen", flush=True)


async def listen_once(
    address: str, token: str, limit: trio.CapacityLimiter, *, stalled: bool, task_status: trio.TaskStatus[None]
) -> None:
    """One connection; it must end by the server's word that the job has ended."""
    async with AsyncExitStack() as opened:
        async with limit:
            opening = open_websocket_url(address, extra_headers=[("Authorization", f"Bearer {token}")])
            websocket = await opened.enter_async_context(opening)
        last = await websocket.get_message()
        task_status.started()
        if stalled:
            await trio.sleep_forever()
        try:
            while True:
                last = await websocket.get_message()
        except ConnectionClosed as closed:
            if '"completed"' not in last or closed.reason.code != 1000:
                sys.exit(f"a listener was left: {closed.reason}")


if __name__ == "__main__":
    sys.exit(main())

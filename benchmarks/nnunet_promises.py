"""What a job shows and says while it runs, against what then comes: first labels everywhere, and the time left.

::

    python benchmarks/nnunet_promises.py [--modes exact fast] [--shape 256 256 256]

The demo's model, with mirrored tiles unless ``--plain``, in jobs of the engine of this computer, from the first byte
that the worker reads to the mask and its measures. A time left is judged from the end of the first row of tiles on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import trio
from attrs import field, frozen
from rig.nnunet.models import DEMO, rows_of, write_volume
from rig.report import Figure, report

from cryomamba_backends.nnunet.installed import read_installed
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import Region
from cryomamba_core.interfaces import Credentials, Session
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

#: Part of a mirrored job after which all of the tomogram has provisional labels.
MOST_COARSE = 0.03
#: By what factor a time left may be wrong.
MOST_WRONG = 1.5
#: Part of the tiles up to which a time left is judged: the little that is left after it is nobody's concern.
LATE = 0.9


@frozen(kw_only=True)
class Heard:
    """What was heard of a job.

    Attributes
    ----------
    seconds
        From the start of its worker to its end.
    coarse
        Seconds after which a preview covered all of the tomogram; None if only the last one did.
    left
        Of each report on the tiles that says how much time is left: part of them that is done, seconds since the start,
        seconds that it says are left.
    """

    seconds: float
    coarse: float | None
    left: list[tuple[float, float, float]] = field(repr=False)

    def wrong(self, first: float) -> list[float]:
        """By what factor times left are wrong, from part `first` of the tiles on."""
        judged = [(at, said) for done, at, said in self.left if first <= done <= LATE]
        return [max(said / (self.seconds - at), (self.seconds - at) / said) for at, said in judged]


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", choices=("exact", "fast"), default=("exact", "fast"))
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 256), help="z y x (default: %(default)s)")
    parser.add_argument("--plain", action="store_true", help="tiles are not mirrored")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    options = parser.parse_args()
    figures, details = [], {}
    with tempfile.TemporaryDirectory(prefix="cryomamba-bench-") as name:
        volume = write_volume(Path(name) / "volume.mrc", tuple(options.shape))
        settings = Settings(data_dir=Path(name) / "data", threads=options.threads)
        for mode in options.modes:
            params = {"mode": mode, "mirroring": not options.plain, "spacing": "voxels"}
            config = JobConfig(source=Source(path=str(volume)), model=DEMO.name, params=params)
            heard = trio.run(follow, settings, config, tuple(options.shape))
            rows = rows_of(read_installed(DEMO), tuple(options.shape), NNUNetParams(**params))
            figures += judge(mode, heard, rows=rows, mirrored=not options.plain)
            details[mode] = {"left": heard.left}
    shape = " × ".join(map(str, options.shape))
    return report(f"jobs over {shape}{', mirrored' * (not options.plain)}", figures, **details)


def judge(mode: str, heard: Heard, *, rows: int, mirrored: bool) -> list[Figure]:
    """What came, beside what was said."""
    wrong = heard.wrong(1 / rows)
    if not wrong:
        sys.exit("nothing was said of the time left: take a larger shape")
    figures = [Figure(name=f"{mode}: the job", value=heard.seconds, unit="s")]
    if heard.coarse is not None:
        most = MOST_COARSE if mirrored else None
        part = heard.coarse / heard.seconds
        figures.append(Figure(name=f"{mode}: part of it until labels are everywhere", value=part, unit="", most=most))
    return [
        *figures,
        Figure(name=f"{mode}: time left after the first row, wrong by", value=wrong[0], unit="×", most=MOST_WRONG),
        Figure(name=f"{mode}: time left later, wrong by at most", value=max(wrong), unit="×", most=MOST_WRONG),
    ]


async def follow(settings: Settings, config: JobConfig, shape: Sequence[int]) -> Heard:
    """Run a job and hear all of it."""
    host = PluginHost.discover(settings)
    async with host.transport_for("local:").open("local:", Credentials()) as session:
        return gather([event async for event in _events(session, config)], Region(start=(0, 0, 0), stop=shape))


async def _events(session: Session, config: JobConfig) -> AsyncIterator[JobEvent]:
    job = await session.submit(config)
    async with aclosing(session.events(job.id)) as events:
        async for event in events:
            if isinstance(event, Failed):
                sys.exit(event.error.message)
            yield event


def gather(events: Sequence[JobEvent], whole: Region) -> Heard:
    """Take what matters out of the events of a job that is done."""
    started = next(event.at for event in events if isinstance(event, StateChanged) and event.state is JobState.RUNNING)
    ended = next(event.at for event in events if isinstance(event, Completed))

    def since(at: datetime) -> float:
        return (at - started).total_seconds()

    covering = [
        since(event.at)
        for event in events
        if isinstance(event, PreviewReady) and event.preview is not None and event.preview.covered == whole
    ]
    left = [
        (event.progress.done / event.progress.total, since(event.at), event.progress.eta_seconds)
        for event in events
        if isinstance(event, Progress) and event.progress.stage == "segmenting" and event.progress.eta_seconds
    ]
    return Heard(seconds=since(ended), coarse=covering[0] if len(covering) > 1 else None, left=left)


if __name__ == "__main__":
    sys.exit(main())

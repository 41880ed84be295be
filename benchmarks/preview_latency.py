"""How long it takes from a block that a worker has to its preview in a client, decoded.

::

    python benchmarks/preview_latency.py [--blocks 64] [--pause 0.3]

The runner of this benchmark notes the time when it hands over a block, before anything is done with it. From there:
block written to the label file, preview coarsened and compressed, job directory, engine, WebSocket, client, labels as
an array of 64 × 256 × 256. Blocks come at irregular times, so that no polling can be in step with them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import numpy as np
import trio
from rig.files import make_volume
from rig.report import Figure, report
from rig.servers import Served, serving
from scipy import ndimage

from cryomamba_core.events import Failed, PreviewReady
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.previews import PreviewPolicy

#: Twice the preview's, on each axis.
SHAPE = (128, 512, 512)
PREVIEW = (64, 256, 256)
#: Seconds, of 95 in 100 previews.
LIMIT = 0.15


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=64, choices=(16, 32, 64, 128), help="blocks of the volume")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between blocks, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cryomamba-bench-") as name:
        folder = Path(name)
        stamps = folder / "stamps"
        tomogram = make_volume(folder / "phantom.mrc", blobs())
        params = {"depth": SHAPE[0] // options.blocks, "pause": options.pause, "stamps": str(stamps)}
        with serving(folder / "ours") as server:
            decoded, sizes = trio.run(watch, server, tomogram, params)
        handed = [float(line) for line in stamps.read_text().split()]
    # the last preview is not of a block: it is made when all are there
    latencies = sorted(decoded[sequence] - handed[sequence - 1] for sequence in decoded if sequence <= len(handed))
    return report(
        f"{len(latencies)} previews of {' × '.join(map(str, PREVIEW))}, {len(handed)} blocks",
        [
            Figure(name="median latency", value=statistics.median(latencies) * 1e3, unit="ms"),
            Figure(
                name="latency of 95 in 100",
                value=latencies[int(0.95 * (len(latencies) - 1))] * 1e3,
                unit="ms",
                most=LIMIT * 1e3,
            ),
            Figure(name="worst latency", value=latencies[-1] * 1e3, unit="ms"),
            Figure(name="compressed preview, median", value=statistics.median(sizes) / 1e3, unit="kB"),
        ],
        latencies=[round(latency, 4) for latency in latencies],
    )


def blobs() -> np.ndarray[tuple[int, int, int], np.dtype[np.int8]]:
    """Round things in noise, about a tenth of the volume."""
    noise = np.random.default_rng(0).normal(size=tuple(size // 8 for size in SHAPE)).astype(np.float32)
    smooth = ndimage.zoom(noise, 8, order=1)
    return np.where(smooth > np.quantile(smooth, 0.9), 1, -1).astype(np.int8)


async def watch(server: Served, tomogram: Path, params: dict[str, object]) -> tuple[dict[int, float], list[int]]:
    """Run the job; gives when each preview was there, by its number, and the sizes of their payloads."""
    decoded, sizes = {}, []
    async with server.transport.open(server.url, server.credentials) as session:
        source = Source(file_id=(await session.upload(tomogram)).id)
        policy = PreviewPolicy(interval_seconds=0)
        config = JobConfig(source=source, runner="paced", params=params, artifacts=("stats.json",), preview=policy)
        job = await session.submit(config)
        async with aclosing(session.events(job.id)) as events:
            async for event in events:
                if isinstance(event, Failed):
                    sys.exit(event.error.message)
                if isinstance(event, PreviewReady) and event.preview is not None:
                    labels = event.preview.labels()
                    decoded[event.preview.sequence] = time.time()
                    sizes.append(len(event.preview.payload))
                    if labels.shape != PREVIEW:
                        sys.exit(f"a preview has the shape {labels.shape}")
    return decoded, sizes


if __name__ == "__main__":
    sys.exit(main())

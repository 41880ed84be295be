"""How much memory the server holds while large files arrive at the same time.

::

    python benchmarks/server_memory.py [--mib 1908] [--files 4]

Our client sends the files from processes of their own: they are full of holes and cost no disk, the server's copies do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from rig.files import make_new, make_tomogram
from rig.memory import MemoryWatch
from rig.report import Figure, report
from rig.servers import serving

from cryomamba_core.interfaces import Credentials
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

#: MB
LIMIT = 250.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1908, help="size of each file; 1908 is 2 GB")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--send", nargs=2, metavar=("URL", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        trio.run(send, *options.send)
        return 0
    with tempfile.TemporaryDirectory(prefix="cryomamba-bench-") as name:
        folder = Path(name)
        tomograms = [
            make_tomogram(folder / f"{number}.mrc", options.mib, sparse=True) for number in range(options.files)
        ]
        for number, path in enumerate(tomograms):
            make_new(path, f"{number}")
        with serving(folder / "ours") as server:
            before = server.process.memory_info().rss / 1e6
            started = time.perf_counter()
            environment = {**os.environ, "CRYOMAMBA_TOKEN": server.token}
            with MemoryWatch(server.process) as memory:
                clients = [
                    subprocess.Popen([sys.executable, __file__, "--send", server.url, str(path)], env=environment)
                    for path in tomograms
                ]
                failed = [client.wait() for client in clients]
            seconds = time.perf_counter() - started
    if any(failed):
        sys.exit("an upload failed")
    return report(
        f"{options.files} uploads of {options.mib * 1.048576:,.0f} MB at the same time",
        [
            Figure(name="resident memory of the server before", value=before, unit="MB"),
            Figure(name="its peak", value=memory.peak, unit="MB", most=LIMIT),
            Figure(name="all uploads together", value=options.files * options.mib * 1.048576 / seconds, unit="MB/s"),
        ],
        samples=len(memory.samples),
    )


async def send(url: str, path: str) -> None:
    """Upload a file by our client."""
    host = PluginHost.discover(Settings(data_dir=Path(path).parent / "client"))
    credentials = Credentials(token=os.environ["CRYOMAMBA_TOKEN"])
    async with host.transport_for(url).open(url, credentials) as session:
        await session.upload(Path(path))


if __name__ == "__main__":
    sys.exit(main())

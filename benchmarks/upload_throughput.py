"""How fast files reach the server and results come back, beside nginx and beside a copy on this computer.

::

    python benchmarks/upload_throughput.py [--mib 512] [--files 2] [--repeats 3]

All in one run with the same files on the same file system (that of TMPDIR), over plain HTTP on the loopback: nginx's
WebDAV module by curl, our server by our client, our server by curl part by part, and a copy with SHA-256 by one thread.
Rates are the best of the repeats, ratios the medians of each repeat's. nginx promises nothing when it answers; our
server has written every part to the disk, so a slow disk bounds it: the rate with a sync behind nginx says how much.
Servers are compared by the same program, curl, and our client with curl at nginx besides: it hashes every byte,
on the same processors.
What was sent is removed after each turn, on both sides, and as much is written and removed at the beginning: memory
that a virtual machine has never used comes slowly, and whoever needs it first would pay for it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import numpy as np
import trio
from rig.curl import Transfer, run_curl
from rig.files import copy_rate, make_new, make_tomogram, make_volume, warm_up
from rig.nginx import nginx
from rig.report import Figure, report
from rig.servers import Served, serving

MIB = 1 << 20
#: Of nginx's rate, for uploads and for downloads.
UPLOAD_SHARE, DOWNLOAD_SHARE = 0.25, 0.8
#: MB/s that are due on a computer that copies and hashes at the second rate.
DUE, DUE_AT = 350.0, 900.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512, help="size of each file")
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=4, help="transfers that curl makes at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cryomamba-bench-") as name:
        folder = Path(name)
        tomograms = [make_tomogram(folder / f"{number}.mrc", options.mib) for number in range(options.files)]
        with serving(folder / "ours") as server, nginx(folder / "nginx") as other:
            warm_up(folder, 4 * options.files * options.mib)
            bench = Bench(folder, tomograms, server, other, options.parallel)
            ups = [bench.upload(number) for number in range(options.repeats)]
            downs = bench.download(options.mib, options.repeats)
    return report(
        f"{options.files} files of {options.mib} MiB, best of {options.repeats}; ratios are medians",
        list(figures(ups, downs)),
        uploads=ups,
        downloads=downs,
    )


def figures(ups: list[dict[str, float]], downs: list[dict[str, float]]) -> Iterator[Figure]:
    """The lines of the report."""
    names = {
        "copy": "copy and SHA-256, one thread",
        "nginx": "upload to nginx by curl",
        "nginx, synced": "upload to nginx by curl, and sync",
        "curl": "upload to our server by curl",
        "client": "upload to our server by our client",
    }
    for key, name in names.items():
        yield Figure(name=name, value=max(up[key] for up in ups), unit="MB/s")
    yield Figure(
        name="upload to ours / to nginx, by curl", value=median(ups, "curl", "nginx"), unit="", least=UPLOAD_SHARE
    )
    yield Figure(name="our client / nginx", value=median(ups, "client", "nginx"), unit="", least=UPLOAD_SHARE)
    yield Figure(
        name=f"our client / ({DUE:g} MB/s × copy rate / {DUE_AT:g})",
        value=median(ups, "client", "copy") * DUE_AT / DUE,
        unit="",
        least=1.0,
    )
    yield Figure(name="our client / nginx, synced", value=median(ups, "client", "nginx, synced"), unit="")
    yield Figure(name="download from nginx by curl", value=max(down["nginx"] for down in downs), unit="MB/s")
    yield Figure(name="download from our server by curl", value=max(down["ours"] for down in downs), unit="MB/s")
    yield Figure(
        name="download from ours / from nginx", value=median(downs, "ours", "nginx"), unit="", least=DOWNLOAD_SHARE
    )


def median(rounds: list[dict[str, float]], part: str, whole: str) -> float:
    """The median of a ratio over the repeats."""
    return statistics.median(each[part] / each[whole] for each in rounds)


class Bench:
    """The files, both servers, and what is done with them."""

    def __init__(self, folder: Path, tomograms: list[Path], server: Served, other: str, parallel: int) -> None:
        self._folder = folder
        self._tomograms = tomograms
        self._server = server
        self._other = other
        self._parallel = parallel
        self._bytes = sum(path.stat().st_size for path in tomograms)

    def upload(self, number: int) -> dict[str, float]:
        """Send all files every way; rates in MB/s."""
        self._renew(f"{number} copy")
        rates = {"copy": copy_rate(self._tomograms, self._folder / "copy")}
        os.sync()
        rates |= self._upload_to_nginx()
        self._renew(f"{number} curl")
        rates["curl"] = self._upload_by_curl()
        self._forget()
        self._renew(f"{number} client")
        started = time.perf_counter()
        trio.run(self._upload_by_client)
        rates["client"] = self._rate(time.perf_counter() - started)
        self._forget()
        return rates

    def _forget(self) -> None:
        """Remove what our server has of the files, as what nginx has of them is removed."""
        for path in (self._server.data_dir / "raw").iterdir():
            if path.is_file():
                path.unlink()

    def _renew(self, name: str) -> None:
        for number, path in enumerate(self._tomograms):
            make_new(path, f"{name} {number}")
        os.sync()

    def _rate(self, seconds: float) -> float:
        return self._bytes / seconds / 1e6

    def _upload_to_nginx(self) -> dict[str, float]:
        transfers = [Transfer(url=f"{self._other}/{path.name}", upload=path) for path in self._tomograms]
        started = time.perf_counter()
        seconds = run_curl(transfers, parallel=self._parallel, folder=self._folder)
        os.sync()
        rates = {"nginx": self._rate(seconds), "nginx, synced": self._rate(time.perf_counter() - started)}
        for path in (self._folder / "nginx" / "files").iterdir():
            path.unlink()
        return rates

    async def _upload_by_client(self) -> None:
        async with self._server.transport.open(self._server.url, self._server.credentials) as session:
            for path in self._tomograms:
                await session.upload(path)

    def _upload_by_curl(self) -> float:
        """Begin all uploads, send their parts, complete them; cutting the files into parts is not counted."""
        headers = {"Authorization": f"Bearer {self._server.token}"}
        with httpx.Client(base_url=self._server.url, headers=headers, timeout=600, trust_env=False) as client:
            started = time.perf_counter()
            begun = [
                _done(client.post("/v1/uploads/init", json={"filename": path.name, "size": path.stat().st_size}))
                for path in self._tomograms
            ]
            seconds = time.perf_counter() - started
            parts = [
                part
                for path, upload in zip(self._tomograms, begun, strict=True)
                for part in self._parts(path, upload["upload_id"], upload["part_size"])
            ]
            os.sync()
            seconds += run_curl(parts, parallel=self._parallel, folder=self._folder)
            started = time.perf_counter()
            for upload in begun:
                _done(client.post(f"/v1/uploads/{upload['upload_id']}/complete"))
            seconds += time.perf_counter() - started
        for part in parts:
            if part.upload is not None:
                part.upload.unlink()
        return self._rate(seconds)

    def _parts(self, path: Path, upload_id: str, size: int) -> Iterator[Transfer]:
        with path.open("rb") as stream:
            index = 0
            while piece := stream.read(size):
                part = self._folder / f"{path.stem}.{index}"
                part.write_bytes(piece)
                digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
                yield Transfer(
                    url=f"{self._server.url}/v1/uploads/{upload_id}/part/{index}",
                    upload=part,
                    headers=(self._server.header, f"Content-Digest: sha-256=:{digest}:"),
                )
                index += 1

    def download(self, mib: int, repeats: int) -> list[dict[str, float]]:
        """Fetch a file of `mib` MiB from both; rates in MB/s."""
        address, path = trio.run(self._make_artifact, mib)
        (self._folder / "nginx" / "files" / "artifact").symlink_to(path)
        size = mib * MIB / 1e6
        rounds = []
        for _ in range(repeats):
            other = run_curl([Transfer(url=f"{self._other}/artifact")], parallel=1, folder=self._folder)
            ours = run_curl([Transfer(url=address)], parallel=1, folder=self._folder)
            rounds.append({"nginx": size / other, "ours": size / ours})
        return rounds

    async def _make_artifact(self, mib: int) -> tuple[str, Path]:
        """A large artifact: its address with a signature, and where it lies."""
        small = make_volume(self._folder / "small.mrc", np.arange(-32, 32, dtype=np.int8).reshape(4, 4, 4))
        headers = {"Authorization": f"Bearer {self._server.token}"}
        async with (
            self._server.transport.open(self._server.url, self._server.credentials) as session,
            httpx.AsyncClient(base_url=self._server.url, headers=headers, trust_env=False) as client,
        ):
            source = {"file_id": (await session.upload(small)).id}
            job = {"source": source, "runner": "paced", "params": {"ballast": mib}, "artifacts": ["ballast.bin"]}
            job_id = _done(await client.post("/v1/jobs", json=job))["job_id"]
            async for _ in session.events(job_id):
                pass
            artifacts = _done(await client.get(f"/v1/jobs/{job_id}"))["artifacts"]
        address = next(each["url"] for each in artifacts if each["name"] == "ballast.bin")
        return urljoin(self._server.url, address), self._server.data_dir / "artifacts" / job_id / "ballast.bin"


def _done(answer: httpx.Response) -> dict[str, object]:
    if answer.is_error:
        sys.exit(f"{answer.request.method} {answer.request.url.path}: {answer.text}")
    return dict(answer.json())


if __name__ == "__main__":
    sys.exit(main())

"""What lies in a data directory and is named by no record. Everything here blocks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from attrs import frozen

from cryomamba_core.interfaces import Storage
from cryomamba_server.engine.expiry import Named


@frozen(kw_only=True)
class Lying:
    """What lies there.

    Attributes
    ----------
    inputs
        Key → bytes of each object that was sent.
    results
        Id of a job → bytes of its objects.
    directories
        Names of job directories.
    """

    inputs: dict[str, int]
    results: dict[str, int]
    directories: frozenset[str]


@frozen(kw_only=True)
class Unnamed:
    """Things of one kind that no record names: where they are, how many, their bytes in all, and one of them."""

    where: str
    count: int
    size: int
    example: str


def look_round(storage: Storage, jobs_dir: Path) -> Lying:
    """Look at what lies there; ask for the records afterwards, and they know of it."""
    results: Counter[str] = Counter()
    for info in storage.list("artifacts/"):
        results[info.key.split("/")[1]] += info.size
    folders = jobs_dir.iterdir() if jobs_dir.exists() else ()
    return Lying(
        inputs={info.key: info.size for info in storage.list("raw/")},
        results=dict(results),
        directories=frozenset(folder.name for folder in folders),
    )


def unnamed(lying: Lying, named: Named, jobs_dir: Path) -> list[Unnamed]:
    """Sum up what no record names."""
    directories = {name: _size_of(jobs_dir / name) for name in lying.directories - named.jobs}
    return [
        Unnamed(where=where, count=len(sizes), size=sum(sizes.values()), example=min(sizes))
        for where, sizes in (
            ("raw/", {key: size for key, size in lying.inputs.items() if key not in named.keys}),
            ("artifacts/", {job_id: size for job_id, size in lying.results.items() if job_id not in named.jobs}),
            (str(jobs_dir), directories),
        )
        if sizes
    ]


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))

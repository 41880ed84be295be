"""Transfers by curl, which takes any number of them at a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class Transfer:
    """One file to send, or an address to fetch and throw away.

    Attributes
    ----------
    url
        Where to.
    upload
        What is sent; None to fetch.
    headers
        Whole lines.
    """

    url: str
    upload: Path | None = None
    headers: tuple[str, ...] = ()


def run_curl(transfers: Iterable[Transfer], *, parallel: int, folder: Path) -> float:
    """Do all transfers, some at a time, and return the seconds that they took; any failure ends the program."""
    blocks = [_block(transfer) for transfer in transfers]
    script = folder / "curl.conf"
    head = f"parallel\nparallel-immediate\nparallel-max = {parallel}\nno-progress-meter\n"
    script.write_text(head + "next\n".join(blocks))
    script.chmod(0o600)
    started = time.perf_counter()
    subprocess.run(["curl", "--disable", "--fail", "--config", str(script)], check=True)
    return time.perf_counter() - started


def _block(transfer: Transfer) -> str:
    lines = [f'url = "{transfer.url}"', "fail", 'output = "/dev/null"']
    if transfer.upload is not None:
        lines.append(f'upload-file = "{transfer.upload}"')
    lines += [f'header = "{header}"' for header in _headers(transfer.headers)]
    return "\n".join(lines) + "\n"


def _headers(given: Sequence[str]) -> list[str]:
    return [*given, "Expect:"]

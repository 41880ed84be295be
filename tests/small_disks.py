"""Small file systems in memory, which tests fill."""

import errno
import os
import subprocess
from contextlib import contextmanager

import pytest

#: How often something else may take room between looking and taking.
TRIES = 20


@contextmanager
def small_disk_at(folder, mib):
    """Have a file system of `mib` MiB at `folder`, which is made; skip where nobody may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and not subprocess.run(command, check=False, capture_output=True).returncode
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a small file system, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, *, leave=0):
    """Take all space but `leave` bytes, although others may write meanwhile; delete the file to give it back."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        for _ in range(TRIES):
            status = os.statvfs(folder)
            room = status.f_bavail * status.f_frsize - leave
            if room <= 0:
                return ballast
            try:
                os.posix_fallocate(stream.fileno(), os.fstat(stream.fileno()).st_size, room)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    raise AssertionError(f"{folder} is not full after {TRIES} tries")

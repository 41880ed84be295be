"""Whether PyTorch convolves bytes exactly on this CPU, kept in the data directory.

To ask takes more than a second, and 300 MiB for as long as the process lives. The worker of a job of shards, which has
no other need of PyTorch, asks once for each version of it on each kind of CPU. Processes that compute ask themselves.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from attrs import frozen

from cryomamba_backends.nnunet.course import CPU_FLAGS
from cryomamba_core.durable import write_whole
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.wire import dump_json, load_json

log = logging.getLogger(__name__)

#: What Linux says of a CPU that tells its kind.
KIND = re.compile(r"^(vendor_id|cpu family|model|model name|stepping|flags)\s*:.*$", re.MULTILINE)

#: What has PyTorch's library leave instructions out.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@frozen(kw_only=True)
class KeptAnswer:
    """What was answered.

    Attributes
    ----------
    torch
        Version of PyTorch.
    cpu
        Digest of what tells the kind of CPU.
    bytes_convolve
        The answer.
    """

    torch: str
    cpu: str
    bytes_convolve: bool


def kept_or_asked(path: Path, ask: Callable[[], bool]) -> bool:
    """The answer that a file has for this PyTorch on this CPU, else the one that is asked for, and kept there.

    Parameters
    ----------
    path
        Of the file; nothing is kept where its folder is not there, or has no room.
    ask
        Finds it out, as `bytes_convolve` does.
    """
    torch, cpu = _torch(), _cpu()
    try:
        kept = load_json(path.read_bytes(), KeptAnswer)
        if (kept.torch, kept.cpu) == (torch, cpu):
            return kept.bytes_convolve
    except (OSError, CryoMambaError):
        pass  # there is none yet, or what there is cannot be understood
    answer = ask()
    try:
        write_whole(path, dump_json(KeptAnswer(torch=torch, cpu=cpu, bytes_convolve=answer)).encode())
    except OSError as error:
        log.info("%s is not kept: %s", path, error)
    return answer


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    try:
        told = CPU_FLAGS.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        told = ""
    kind = [*(match[0] for match in KIND.finditer(told)), *(os.environ.get(name, "") for name in LIMITS)]
    return hashlib.sha256("\n".join(kind).encode()).hexdigest()

"""What is asked of an engine, as the command that asks the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from cryomamba_core.jobs import JobConfig
from cryomamba_core.settings import default_data_dir
from cryomamba_gui.desk.proofs import is_local

#: What stands for a tomogram of which nobody here knows where it is.
UNKNOWN_FILE = "FILE"


def command_line(config: JobConfig, *, path: Path | None, url: str, data_dir: Path) -> str:
    """The command that asks an engine for the same, quoted for a shell; no secret is in it.

    Parameters
    ----------
    config
        What is asked.
    path
        The tomogram on this computer; None where it is not known, or only the engine has it.
    url
        Address of the engine.
    data_dir
        Of the engine of this computer; it is left out where it is the usual one, and of servers.
    """
    return shlex.join(_words(config, path, url, data_dir))


def _words(config: JobConfig, path: Path | None, url: str, data_dir: Path) -> Iterator[str]:
    yield "cryomamba"
    if not is_local(url):
        yield from ("--server", url)
    elif data_dir != default_data_dir():
        yield from ("--data-dir", str(data_dir))
    yield "segment"
    there = config.source.path
    if path is not None:
        yield str(path)
    else:
        yield there or config.label or UNKNOWN_FILE
        if there is not None and not is_local(url):
            yield "--on-server"
    if config.model is not None:
        yield from ("--model", config.model)
    if config.runner is not None:
        yield from ("--runner", config.runner)
    for name, value in config.params.items():
        yield from ("--param", f"{name}={_written(value)}")
    for artifact in config.artifacts or ():
        yield from ("--artifact", artifact)
    if config.voxel_size is not None:
        yield from ("--voxel-size", ",".join(map(repr, config.voxel_size)))


def _written(value: Any) -> str:
    """A parameter as the command line reads it, with all digits of a number."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return ",".join(map(_written, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)

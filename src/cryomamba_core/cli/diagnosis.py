"""What ``cryomamba doctor`` looks at."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from cryomamba_core import wording
from cryomamba_core.cli import scopes
from cryomamba_core.cli.failures import innermost
from cryomamba_core.errors import ErrorInfo

if TYPE_CHECKING:
    from cryomamba_core.cli.state import CliState
    from cryomamba_core.interfaces import ServerInfo, Session
    from cryomamba_core.models import ModelInfo

DISTRIBUTION = "cryomamba"
#: A first import of torch from a slow disk takes this long, and no longer.
_TORCH_SECONDS = 120.0
#: Less free space than this is worth a word: a labelled 4096 × 4096 × 512 tomogram with its artifacts.
_ROOM = 20 * 10**9

_ASK_TORCH = """
import json, torch
devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory // 10**6} MB"
           for i in range(torch.cuda.device_count())]
if getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
    devices.append("mps")
print(json.dumps({"version": torch.__version__, "devices": devices}))
"""


@frozen(kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name
        What.
    state
        ``ok``; ``info``: nothing to judge; ``missing``: something optional is not there;
        ``problem``: the main job cannot run.
    message
        What was found.
    fix
        The command, or the deed, that would change it.
    """

    name: str
    state: Literal["ok", "info", "missing", "problem"]
    message: str
    fix: str = ""


def examine(state: CliState) -> list[Finding]:
    """Look at everything; never raises."""
    checks: tuple[tuple[str, Callable[[CliState], Iterator[Finding]]], ...] = (
        ("python", _python),
        ("machine", _machine),
    )
    if state.remote:
        checks += (("core packages", _core_packages), ("plugins", _plugins), ("server", _server))
    else:
        checks += (
            ("settings", _settings),
            ("data directory", _data_directory),
            ("packages", _packages),
            ("torch", _torch),
            ("plugins", _plugins),
            ("models", _models),
        )
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check(state)
        except Exception as error:  # noqa: BLE001  # a doctor that faints is of no use
            info = ErrorInfo.of(innermost(error))  # a session's errors come in groups
            findings.append(Finding(name=name, state="problem", message=info.message, fix=info.hint))
    return findings


def required(extra: str) -> list[str]:
    """Names of the distributions that an extra of CryoMamba asks for, those of extras that it includes too."""
    names: list[str] = []
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if (wanted.group(1) if wanted else "") != extra:
            continue
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", requirement)
        if match is None:
            continue
        if match.group(1).lower() == DISTRIBUTION:
            for inner in (match.group(2) or "").split(","):
                names += required(inner.strip())
        else:
            names.append(match.group(1))
    return list(dict.fromkeys(names))


def _python(_: CliState) -> Iterator[Finding]:
    yield Finding(
        name="cryomamba",
        state="ok",
        message=f"{metadata.version(DISTRIBUTION)}, Python {platform.python_version()} in {sys.prefix}",
    )


def _machine(_: CliState) -> Iterator[Finding]:
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    memory = psutil.virtual_memory()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    limited = f", {allowed} usable" if allowed < cores else ""
    yield Finding(
        name="machine",
        state="info",
        message=f"{platform.system()} {platform.machine()}, {wording.plural(cores, 'physical core')}{limited}, "
        f"{wording.byte_size(memory.total)} of memory, {wording.byte_size(memory.available)} free",
    )


def _settings(state: CliState) -> Iterator[Finding]:
    settings = state.settings
    threads = wording.plural(settings.threads, "thread") if settings.threads else "a thread for each physical core"
    yield Finding(name="jobs run on", state="info", message=f"{', '.join(settings.devices)}; {threads}")


def _data_directory(state: CliState) -> Iterator[Finding]:
    folder = state.settings.data_dir
    place = next(path for path in (folder, *folder.parents) if path.exists())
    fix = "name another folder with CRYOMAMBA_DATA_DIR or --data-dir"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Finding(name="data directory", state="problem", message=f"{folder} cannot be written to", fix=fix)
        return
    free = shutil.disk_usage(place).free
    made = "" if folder.exists() else " (will be made)"
    yield Finding(
        name="data directory",
        state="ok" if free > _ROOM else "missing",
        message=f"{folder}{made}, {wording.byte_size(free)} free",
        fix="" if free > _ROOM else f"a large tomogram needs about {wording.byte_size(_ROOM)}; {fix}",
    )


def _core_packages(_: CliState) -> Iterator[Finding]:
    yield from _group("core packages", "", needed=True, why="")


def _packages(state: CliState) -> Iterator[Finding]:
    yield from _core_packages(state)
    yield from _group("[server]", "server", needed=True, why="jobs on this machine")
    yield from _group("[nnunet]", "nnunet", needed=True, why="nnU-Net models")
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    for extra in sorted(set(extras) - {"server", "nnunet", "all"}):
        yield from _group(f"[{extra}]", extra, needed=False, why="")


def _group(name: str, extra: str, *, needed: bool, why: str) -> Iterator[Finding]:
    missing = [package for package in required(extra) if _version(package) is None]
    if not missing:
        yield Finding(name=name, state="ok", message="installed")
        return
    target = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
    purpose = f", needed for {why}" if why else ""
    yield Finding(
        name=name,
        state="problem" if needed else "missing",
        message=f"not installed: {', '.join(missing)}{purpose}",
        fix=f'{sys.executable} -m pip install "{target}"',
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(state: CliState) -> Iterator[Finding]:
    """Ask another process: a torch that does not fit the driver may take its process down."""
    if _version("torch") is None:
        return
    fix = f'{sys.executable} -m pip install --force-reinstall "{DISTRIBUTION}[nnunet]"'
    try:
        answer = subprocess.run(  # noqa: S603  # our own interpreter and our own words
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
        facts = json.loads(answer.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        yield Finding(name="torch", state="problem", message="it is installed but cannot be imported", fix=fix)
        return
    found = ["cpu", *(device.split(" ")[0] for device in facts["devices"])]
    yield Finding(
        name="torch", state="ok", message=f"{facts['version']}; devices: {', '.join(['cpu', *facts['devices']])}"
    )
    absent = [
        device for device in state.settings.devices if device.split(":")[0] not in {f.split(":")[0] for f in found}
    ]
    if absent:
        yield Finding(
            name="device",
            state="problem",
            message=f"jobs are to run on {', '.join(absent)}, which torch does not see",
            fix=f"set CRYOMAMBA_DEVICES to some of: {', '.join(found)}",
        )
    elif len(found) > 1 and set(state.settings.devices) == {"cpu"}:
        yield Finding(
            name="device",
            state="missing",
            message="a GPU is there, and jobs run on the CPU",
            fix=f"export CRYOMAMBA_DEVICES={','.join(found[1:])}",
        )


def _plugins(state: CliState) -> Iterator[Finding]:
    working = [record for record in state.host.plugins if not record.error]
    yield Finding(name="plugins", state="ok" if working else "problem", message=f"{len(working)} loaded")
    for record in state.host.plugins:
        if record.error:
            ours = record.distribution == DISTRIBUTION
            fix = f"{sys.executable} -m pip install --upgrade {record.distribution}, or uninstall it"
            yield Finding(
                name=f"plugin {record.name}",
                state="problem" if ours else "missing",
                message=f"of {record.distribution} {record.version} is left out: {record.error}",
                fix=f'{sys.executable} -m pip install "{DISTRIBUTION}[all]"' if ours else fix,
            )
    host = state.host
    for registry in (host.readers, host.exporters, host.runners, host.storages, host.executors, host.transports):
        if not len(registry):
            yield Finding(
                name=f"{registry.kind}s", state="problem", message="there are none", fix="see the plugins above"
            )


def _models(state: CliState) -> Iterator[Finding]:
    names = [info.name for runner in state.host.runners for info in runner.models()]
    yield Finding(
        name="models",
        state="ok" if names else "missing",
        message=", ".join(names) or "none installed",
        fix="" if names else "cryomamba models install FOLDER --name NAME",
    )


def _server(state: CliState) -> Iterator[Finding]:
    """Ask the server, since it is there that jobs run."""

    async def ask(session: Session) -> tuple[ServerInfo, Sequence[ModelInfo]]:
        return await session.server_info(), await session.models()

    server, known = state.ask(ask)
    yield Finding(
        name="server",
        state="ok",
        message=f"CryoMamba {server.version} at {state.server}; jobs run on {', '.join(server.devices)}",
    )
    missing = scopes.missing_scopes(server, *scopes.EVERYTHING)
    if missing:
        fix = "ask whoever runs the server for another token, then log in again"
        yield Finding(name="token", state="problem", message=scopes.missing_words(missing), fix=fix)
    for problem in server.problems:
        yield Finding(name="server", state="missing", message=problem)
    yield Finding(
        name="models",
        state="ok" if known else "missing",
        message=", ".join(model.name for model in known) or "none installed on the server",
        fix="" if known else "there: cryomamba models install FOLDER --name NAME",
    )

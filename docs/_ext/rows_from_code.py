"""The rows of tables that are read off the code; needs no Sphinx, so that tests can look at them too."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from cryomamba_core import errors, hookspecs, job_directory
from cryomamba_core.cli.failures import EXIT_CODES
from cryomamba_core.jobs import TRANSITIONS
from cryomamba_core.settings import Settings


def error_codes() -> Iterable[Sequence[str]]:
    """Each error that has a code of its own."""
    yield "Code", "Meaning", "Exit code", "Worth retrying", "Class"
    for error in _classes_below(errors.CryoMambaError):
        if isinstance(error.code, str):
            meaning = inspect.getdoc(error) or ""
            retry = "yes" if error.retryable else ""
            yield f"``{error.code}``", meaning.split("\n")[0], str(error.exit_code), retry, f"``{error.__name__}``"
    yield "``internal/fault``", "Anything else: a defect of CryoMamba or of a plugin.", "1", "", ""


def exit_codes() -> Iterable[Sequence[str]]:
    """What the command's exit status says."""
    yield "Exit code", "Meaning"
    for code, meaning in EXIT_CODES.items():
        yield str(code), meaning


def worker_exit_codes() -> Iterable[Sequence[str]]:
    """What the exit status of a worker says."""
    yield "Exit code", "Meaning"
    yield "0", "The last event is ``Completed``."
    yield str(job_directory.EXIT_CANCELED), "It found the order to cancel and stopped."
    yield str(job_directory.EXIT_FAILED), "The last event is ``Failed`` and says why."
    yield "anything else", "It died; a new worker is started while attempts are left."


def settings() -> Iterable[Sequence[str]]:
    """Each setting with its variable, its key, its default and its meaning."""
    meanings = _attributes(Settings)
    yield "Variable", "Key in the file", "Default", "Meaning"
    for setting in attrs.fields(Settings):
        default = "the user's data folder" if setting.name == "data_dir" else f"``{_shown(setting.default)}``"
        variable = f"``CRYOMAMBA_{setting.name.upper()}``"
        yield variable, f"``{setting.name}``", default, meanings[setting.name]


def hooks() -> Iterable[Sequence[str]]:
    """Each hook with its arguments."""
    yield "Hook", "Arguments", "Meaning"
    for name, hook in vars(hookspecs).items():
        if name.startswith("cryomamba_"):
            meaning = (inspect.getdoc(hook) or "").split("\n")[0]
            yield f"``{name}``", ", ".join(f"``{p}``" for p in inspect.signature(hook).parameters), meaning


def transitions() -> Iterable[Sequence[str]]:
    """Which states may follow each."""
    yield "State", "May become"
    for before, after in TRANSITIONS.items():
        yield f"``{before}``", ", ".join(f"``{state}``" for state in sorted(after)) or "nothing else"


TABLES = {
    "error-codes": error_codes,
    "exit-codes": exit_codes,
    "hooks": hooks,
    "job-states": transitions,
    "settings": settings,
    "worker-exit-codes": worker_exit_codes,
}


def _classes_below(base: type[errors.CryoMambaError]) -> Iterable[type[errors.CryoMambaError]]:
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _classes_below(child)


def _attributes(described: type) -> dict[str, str]:
    """Name → text of the Attributes section of a numpydoc docstring, on one line each."""
    section = (inspect.getdoc(described) or "").partition("Attributes\n----------\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line.startswith(" "):
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
        elif line:
            names = [name.strip() for name in line.split(",")]
            found |= dict.fromkeys(names, "")
    return found


def _shown(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)

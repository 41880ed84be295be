"""The report that somebody copies for whoever is to mend something."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from cryomamba_core.interfaces import ServerInfo
    from cryomamba_gui.desk.journal import Entry, Journal

#: Entries that stand in a report.
MOST_ENTRIES = 200
#: Packages whose versions tell something.
PACKAGES = ("napari", "numpy", "psygnal", "qtpy", "trio", "vispy")
#: Modules that bring Qt.
BINDINGS = ("PyQt5", "PyQt6", "PySide2", "PySide6")


def report_of(journal: Journal) -> str:
    """What this process is, what it is connected with, and what happened of late."""
    sections = (
        ("CryoMamba", _itself(journal)),
        ("Engine", _engine(journal.engine)),
        ("Plugins", _plugins(journal)),
        ("Of late", map(_line, journal.entries[-MOST_ENTRIES:])),
    )
    return "\n\n".join("\n".join((f"## {title}", *lines)) for title, lines in sections) + "\n"


def _itself(journal: Journal) -> Iterator[str]:
    yield f"version {_version('cryomamba')}, Python {platform.python_version()}, {platform.platform()}"
    yield f"Qt: {_qt()}"
    found = {package: _version(package) for package in PACKAGES if package in sys.modules}
    yield ", ".join(f"{package} {version}" for package, version in found.items())
    memory, process = psutil.virtual_memory(), psutil.Process().memory_info()
    yield (
        f"memory: {_megabytes(process.rss)} of this process; "
        f"{_megabytes(memory.available)} of {_megabytes(memory.total)} free; {psutil.cpu_count()} processors"
    )
    settings = journal.host.settings
    yield f"data directory: {settings.data_dir}; devices: {', '.join(settings.devices)}"


def _qt() -> str:
    """The binding that is loaded, and its Qt; nothing is loaded for it."""
    loaded = [binding for binding in BINDINGS if f"{binding}.QtCore" in sys.modules]
    words = []
    for binding in loaded:
        core = sys.modules[f"{binding}.QtCore"]
        version = getattr(core, "QT_VERSION_STR", None) or getattr(core, "__version__", "?")
        words.append(f"{binding} {_version(binding)} with Qt {version}")
    return ", ".join(words) or "none is loaded"


def _engine(engine: tuple[str, ServerInfo] | None) -> Iterator[str]:
    if engine is None:
        yield "none"
        return
    url, info = engine
    yield f"{url}: CryoMamba {info.version}, jobs run on {', '.join(info.devices)}"
    yield f"runners: {', '.join(info.runners)}; exporters: {', '.join(info.exporters)}"
    if info.scopes is not None:
        yield f"the token allows: {' '.join(info.scopes)}"
    yield from info.problems


def _plugins(journal: Journal) -> Iterator[str]:
    for record in journal.host.plugins:
        provides = ", ".join(f"{kind} {' '.join(names)}" for kind, names in record.provides.items())
        state = f"LEFT OUT: {record.error}" if record.error else provides
        yield f"{record.name} of {record.distribution} {record.version}: {state}"


def _line(entry: Entry) -> str:
    time = "" if entry.seconds is None else f" ({entry.seconds:.3f} s)"
    return f"{entry.at:%H:%M:%S.%f}"[:-3] + f" {entry.kind}: {entry.text}{time}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"

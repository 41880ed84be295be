"""How numbers are worded for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def byte_size(size: float) -> str:
    """Bytes in the unit that fits, e.g. ``15.6 MiB``."""
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as ``8 s``, ``3:20`` or ``1:02:30``; empty for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shape(numbers: Iterable[int]) -> str:
    """A shape, e.g. ``128 × 256 × 256``."""
    return " × ".join(str(number) for number in numbers)


def lengths(numbers: Iterable[float], unit: str) -> str:
    """Three lengths, or one where all are equal, e.g. ``10 Å``."""
    words = [f"{number:.6g}" for number in numbers]
    return f"{words[0]} {unit}" if len(set(words)) == 1 else f"{' × '.join(words)} {unit}"


def percent(fraction: float) -> str:
    """A fraction in whole per cent; 100 % only for the whole."""
    return f"{int(min(1.0, max(0.0, fraction)) * 100 + 1e-9)} %"


def moment(time: datetime | None) -> str:
    """A time in the reader's own zone; empty for None."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


def measured(value: float) -> str:
    """A measure with as many digits as one wants to read."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def plural(count: int, noun: str) -> str:
    """A count with its noun, e.g. ``1 file``, ``3 files``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shown_path(path: Path) -> str:
    """A path, relative to the current folder where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

"""How numbers are worded for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

_UNITS = ("B", "kB", "MB", "GB", "TB")
#: Characters that are not seen but steer a terminal, or turn the direction of what stands behind them.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def byte_size(size: float) -> str:
    """Bytes in the unit that fits, powers of 1000 as those of a rate, e.g. ``15.6 MB``."""
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:
        if abs(value) < 999.95 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def rate(bytes_a_second: float) -> str:
    """A rate as networks are sold, e.g. ``98.3 MB/s``."""
    return f"{bytes_a_second / 1e6:.1f} MB/s" if bytes_a_second >= 1e5 else f"{bytes_a_second / 1e3:.1f} kB/s"


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


def clock(seconds: float) -> str:
    """Seconds that pass, as ``0:42`` or ``1:02:30``."""
    whole = max(0, int(seconds))
    return duration(whole) if whole >= 60 else f"0:{whole:02}"


def place(position: int | None, seconds: float | None) -> str:
    """Where a job stands in the queue, e.g. ``after 3 jobs, in about 2:26``; empty where that is not known.

    Parameters
    ----------
    position
        How many jobs run first.
    seconds
        Expected time to its start; None while it is not known.
    """
    if position is None:
        return ""
    soon = "" if seconds is None or seconds < 0.5 else f", in about {duration(seconds)}"
    return (f"after {plural(position, 'job')}" if position else "next") + soon


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
    return f"{count:,} {noun_of(count, noun)}"


def noun_of(count: int, noun: str) -> str:
    """The noun alone, as it stands behind a count."""
    return noun if count == 1 else f"{noun}s"


def harmless(text: str) -> str:
    """Words that may come from a stranger, without what would steer the terminal; lines and tabs stay."""
    return _STEERING.sub("", text)


def harmless_json(text: str) -> str:
    """The same JSON with what would steer the terminal written as numbers."""
    return _STEERING.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def one_line(text: str) -> str:
    """Words that may come from a stranger, as one line."""
    return " ".join(text.splitlines())


def shown_path(path: Path) -> str:
    """A path, relative to the current folder where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

"""How a connection stands, in words and by a sign whose shape alone tells it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from cryomamba_core.errors import ErrorInfo, InputError, Unauthenticated
from cryomamba_core.protocol.addresses import ServerAddress
from cryomamba_core.wording import duration, plural
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.desk.proofs import is_local

if TYPE_CHECKING:
    from cryomamba_gui.desk.link import Link

#: The engine of this computer, as it is called on the screen.
THIS_COMPUTER = "this computer"
#: Digits of a fingerprint in a group, and groups in a line.
GROUP, GROUPS = 4, 4

_MARKS = {
    LinkState.APART: "○",
    LinkState.CONNECTING: "◌",
    LinkState.CONNECTED: "●",
    LinkState.WAITING: "◐",
    LinkState.REFUSED: "✕",
}


def mark_of(state: LinkState) -> str:
    """A sign for a state; no two have the same shape."""
    return _MARKS[state]


def words_of(link: Link, *, waited: float = 0.0, left: float | None = None) -> str:
    """How a connection stands.

    Parameters
    ----------
    link
        The connection.
    waited
        For how many seconds the engine has not answered.
    left
        Seconds until it is asked again; None while it is being asked, or where nobody counts.
    """
    place = place_of(link.url or "")
    if link.state is LinkState.CONNECTING:
        return f"connecting to {place} …"
    if link.state is LinkState.WAITING:
        silence = f"has not answered for {duration(waited)}" if waited >= 1 else "does not answer"
        return f"{place} {silence}, trying again" + (f" in {duration(math.ceil(left))}" if left else "")
    if link.state is LinkState.REFUSED:
        return f"not connected to {place}"
    if link.state is LinkState.APART or link.info is None:
        return "not connected"
    said = [f"connected to {place}", f"CryoMamba {link.info.version}", devices(link.info.devices)]
    return " · ".join([*said, "not encrypted"] if _overheard(link.url) else said)


def error_of(link: Link) -> ErrorInfo | None:
    """Why a connection waits or was refused, with hints for people at a window instead of a terminal."""
    error = link.error
    if error is not None and link.strange_certificate:
        return evolve(error, hint="press Log in, and compare its fingerprint with the one that the server printed")
    if error is not None and error.code == Unauthenticated.code:
        return evolve(error, hint="paste a token; whoever runs the server makes one with: cryomamba token create")
    return error


def place_of(url: str, *, whole: bool = False) -> str:
    """Where an engine is: host and port, or this computer; `whole` for the address as it is entered."""
    if is_local(url):
        return THIS_COMPUTER
    try:
        return url if whole else ServerAddress.parse(url).authority
    except InputError:
        return url


def devices(names: Sequence[str]) -> str:
    """What jobs run on, e.g. ``2 GPUs``; devices that are neither CPU nor GPU by their names."""
    gpus = [name for name in names if name.partition(":")[0] in ("cuda", "mps")]
    others = dict.fromkeys("CPU" if name == "cpu" else name for name in names if name not in gpus)
    return ", ".join(filter(None, [plural(len(gpus), "GPU") if gpus else "", *others])) or "no device"


def grouped(fingerprint: str) -> str:
    """A fingerprint in groups of digits, over several lines, so that eyes can compare it."""
    groups = list(_cut(fingerprint, GROUP))
    return "\n".join(" ".join(groups[start : start + GROUPS]) for start in range(0, len(groups), GROUPS))


def _cut(text: str, length: int) -> Iterable[str]:
    return (text[start : start + length] for start in range(0, len(text), length))


def _overheard(url: str | None) -> bool:
    """Whether others on the way can read what is said."""
    try:
        address = ServerAddress.parse(url or "")
    except InputError:
        return False
    return not address.secure and not address.loopback

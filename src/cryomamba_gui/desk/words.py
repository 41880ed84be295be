"""Words and errors as they may be shown: no secrets, no name of a home folder, one error at a time."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryomamba_core.hiding import hide_secrets

#: Characters of a traceback that is kept.
MOST_DETAILS = 20_000


def harmless(text: str) -> str:
    """The same text without secrets, and with ``~`` for the home folder."""
    return hide_secrets(text).replace(_HOME, "~") if len(_HOME) > 1 else hide_secrets(text)


def details_of(error: BaseException) -> str:
    """Where an error came from, for whoever is to mend it."""
    text = harmless("".join(traceback.format_exception(error)))
    return text if len(text) <= MOST_DETAILS else f"{text[: MOST_DETAILS // 2]}\n[…]\n{text[-MOST_DETAILS // 2 :]}"


@contextmanager
def all_errors() -> Iterator[list[Exception]]:
    """Catch what the block raises, the errors of a group one by one; cancellations and interrupts go on.

    Yields
    ------
    errors
        What was caught, once the block has been left.
    """
    errors: list[Exception] = []
    try:
        yield errors
    except BaseExceptionGroup as group:
        caught, rest = group.split(Exception)
        if caught is not None:
            errors.extend(_leaves(caught))
        if rest is not None:
            raise rest from None
    except Exception as error:  # noqa: BLE001  # whoever asked for it says it aloud
        errors.append(error)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


_HOME = str(Path.home())

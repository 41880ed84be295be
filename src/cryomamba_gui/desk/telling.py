"""Signals whose listeners must not take down what they listen to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from psygnal import EmitLoopError

if TYPE_CHECKING:
    from psygnal import SignalInstance

log = logging.getLogger(__name__)


def tell(signal: SignalInstance, *arguments: object) -> None:
    """Emit a signal; what a listener raises is logged, which the journal hears."""
    try:
        signal.emit(*arguments)
    except EmitLoopError as failure:
        log.error("a listener of %s failed: %r", signal.name, failure.__cause__, exc_info=failure.__cause__)

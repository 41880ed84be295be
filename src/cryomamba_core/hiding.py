"""Secrets in text that others will read: a log, a report."""

from __future__ import annotations

import re

#: What stands where a secret stood.
HIDDEN = "[hidden]"

#: Tokens and other credentials, wherever they stand.
_SECRETS = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|(?i:(?<=bearer )|(?<=signature=)|(?<=token=)|(?<=password=))[^\s&\"']+"
)


def hide_secrets(text: str) -> str:
    """The same text without what looks like a token, a signature or a password."""
    return _SECRETS.sub(HIDDEN, text)

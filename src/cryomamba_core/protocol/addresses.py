"""Addresses of servers, and the fingerprints of the certificates that they show."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Self
from urllib.parse import urlsplit

from attrs import frozen

from cryomamba_core.errors import InvalidParameter

#: Schemes of servers → the port that need not be written.
PORTS = {"http": 80, "https": 443}


@frozen(kw_only=True)
class ServerAddress:
    """Where a server listens.

    Attributes
    ----------
    scheme
        ``http`` or ``https``.
    host
        Name or IP address, in lower case, an IPv6 address without brackets.
    port
        TCP port.
    prefix
        Path under which a proxy shows the server, e.g. ``/cryomamba``; empty for none.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """The address that a URL names.

        Raises
        ------
        InvalidParameter
            If it is none, or says more than an address: a password, a query, a fragment.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise InvalidParameter(f"the address of the server cannot be read: {error}", hint=_EXAMPLE) from error
        if parts.scheme not in PORTS or not parts.hostname:
            raise InvalidParameter(f"{_without_secrets(url)!r} is no address of a server", hint=_EXAMPLE)
        if parts.username is not None or parts.password is not None:
            raise InvalidParameter(
                "the address of the server holds a user name or password",
                hint="leave it out, and give the token to: cryomamba login URL",
            )
        if parts.query or parts.fragment or "?" in url or "#" in url:
            raise InvalidParameter("the address of the server holds a query or a fragment", hint=_EXAMPLE)
        if any(character.isspace() or not character.isprintable() for character in parts.netloc + parts.path):
            raise InvalidParameter("the address of the server holds a space", hint=_EXAMPLE)
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=PORTS[parts.scheme] if port is None else port,
            prefix=parts.path.rstrip("/"),
        )

    @property
    def url(self) -> str:
        """The address in the one form that names it."""
        return f"{self.origin}{self.prefix}"

    @property
    def origin(self) -> str:
        """The address without its prefix."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, as in a ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def secure(self) -> bool:
        """Whether what is said there is encrypted."""
        return self.scheme == "https"

    @property
    def loopback(self) -> bool:
        """Whether it is this computer, so that nobody else hears what is said."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER), in lower-case hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def shown_fingerprint(fingerprint: str) -> str:
    """A fingerprint as people see it and give it back: ``sha256:HEX``."""
    return f"sha256:{fingerprint}"


def parse_fingerprint(text: str) -> str:
    """A fingerprint in lower-case hexadecimal, from any of the ways in which programs write it.

    Raises
    ------
    InvalidParameter
        If it is not 64 hexadecimal digits, with or without ``sha256:`` and colons.
    """
    digits = text.strip().lower().removeprefix("sha256:").removeprefix("sha256 fingerprint=").replace(":", "")
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise InvalidParameter(
            f"{text!r} is no fingerprint",
            hint="copy the one that cryomamba serve printed: sha256: and 64 hexadecimal digits",
        )
    return digits


_EXAMPLE = "write it as https://HOST:PORT, as cryomamba serve printed it"


def _without_secrets(url: str) -> str:
    """A URL as it may be shown."""
    return url.rpartition("@")[2].partition("?")[0]

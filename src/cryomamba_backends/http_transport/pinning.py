"""Whom to believe that it is the server: the certificate that was pinned, else what authorities vouch for."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx

from cryomamba_core.errors import ServerUntrusted
from cryomamba_core.protocol.addresses import ServerAddress, fingerprint_of, shown_fingerprint


class WrongCertificate(ssl.SSLError):
    """The certificate is not the one that was pinned.

    Attributes
    ----------
    found
        Fingerprint of the certificate that was shown.
    """

    def __init__(self, found: str) -> None:
        super().__init__("the certificate is not the one that was pinned")
        self.found = found


def tls_context(fingerprint: str | None) -> ssl.SSLContext:
    """A context for one kind of connection; make one for each, since protocols are negotiated by it.

    Parameters
    ----------
    fingerprint
        SHA-256 (hexadecimal) of the only certificate that is accepted, whoever signed it and
        whatever name is in it; None to check name and signature as browsers do.
    """
    if fingerprint is None:
        paths = ssl.get_default_verify_paths()
        known = paths.cafile or paths.capath  # neither in Python from python.org on macOS
        context = ssl.create_default_context() if known else httpx.create_ssl_context(trust_env=False)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslobject_class = _pinned_to(fingerprint)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _pinned_to(fingerprint: str) -> type[ssl.SSLObject]:
    """A connection that ends in its handshake, before anything is said, unless the certificate is the pinned one."""

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            certificate = self.getpeercert(binary_form=True)
            found = fingerprint_of(certificate or b"")
            if found != fingerprint:
                raise WrongCertificate(found)

    return PinnedObject


def untrusted(error: BaseException, address: ServerAddress) -> ServerUntrusted | None:
    """What to say if `error`, or what led to it, is that the server could not be trusted; else None."""
    for cause in _causes(error):
        if isinstance(cause, WrongCertificate):
            return ServerUntrusted(
                f"the server at {address.authority} shows another certificate than the one that was pinned: "
                f"{shown_fingerprint(cause.found)}",
                hint="somebody may be listening in; if the server has a new certificate, compare this fingerprint with "
                "what it printed when it started, then log in again with it",
                fingerprint=cause.found,
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message.lower().rstrip(".") or "the certificate cannot be verified"
            return ServerUntrusted(
                f"nobody vouches for the server at {address.authority}: {reason}",
                hint="pin the fingerprint that the server printed when it started: "
                f"cryomamba login {address.url} --fingerprint sha256:…",
            )
    return None


def shown_certificate(error: BaseException) -> str | None:
    """Fingerprint of the certificate that a line ended with which was pinned to another; None if it ended otherwise."""
    return next((cause.found for cause in _causes(error) if isinstance(cause, WrongCertificate)), None)


def no_tls(error: BaseException) -> bool:
    """Whether what answered does not speak TLS, or none that we do."""
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__

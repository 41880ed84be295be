"""The certificate of a server: given as files, or made once and kept; and the reasons why there is none."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from attrs import frozen

from cryomamba_core.durable import write_privately, write_whole
from cryomamba_core.errors import ServerUnusable
from cryomamba_server.http.settings import ServeSettings
from cryomamba_server.http.sockets import is_loopback, is_wildcard

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, GeneralName

#: Folder in the data directory for a certificate of one's own.
FOLDER = "tls"

#: Of the suites of TLS 1.2, those with forward secrecy and authenticated encryption; TLS 1.3 has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: A certificate of one's own is trusted by its fingerprint, which ends with it.
LIFETIME = timedelta(days=3650)


@frozen(kw_only=True)
class Identity:
    """What a server proves itself with.

    Attributes
    ----------
    context
        For its connections: TLS 1.2 at least, and HTTP/1.1 only, since HTTP/2 lost answers at a stop.
    fingerprint
        SHA-256 of the certificate, lower-case hex.
    """

    context: ssl.SSLContext
    fingerprint: str


def open_identity(data_dir: Path, serving: ServeSettings) -> Identity | None:
    """The identity of a server; None for plain HTTP.

    Raises
    ------
    ServerUnusable
        If the settings contradict each other, plain HTTP would leave this machine without having been
        asked for, or the certificate cannot be used.
    """
    _refuse_contradictions(serving)
    if serving.certificate is not None and serving.private_key is not None:
        return _load(serving.certificate, serving.private_key)
    if serving.self_signed:
        return _own(data_dir / FOLDER, serving.host)
    if not serving.plain_http and not is_loopback(serving.host):
        raise ServerUnusable(
            f"plain HTTP on {serving.host} would send tokens and tomograms unencrypted",
            hint="add --tls-self-signed, or --certificate and --private-key; --plain-http if a proxy does it",
        )
    return None


def _refuse_contradictions(serving: ServeSettings) -> None:
    files = serving.certificate is not None or serving.private_key is not None
    if (serving.certificate is None) != (serving.private_key is None):
        raise ServerUnusable(
            "a certificate needs its private key, and the key its certificate",
            hint="give both --certificate and --private-key",
        )
    wanted = [
        name
        for name, given in (
            ("--certificate", files),
            ("--tls-self-signed", serving.self_signed),
            ("--plain-http", serving.plain_http),
        )
        if given
    ]
    if len(wanted) > 1:
        raise ServerUnusable(f"{' and '.join(wanted)} exclude each other", hint="give one of them")


def _load(certificate_file: Path, key_file: Path) -> Identity:
    from cryptography import x509

    for path in (certificate_file, key_file):
        _require_readable(path)
    try:
        certificate = x509.load_pem_x509_certificates(certificate_file.read_bytes())[0]
    except ValueError as error:
        raise ServerUnusable(
            f"{certificate_file} holds no certificate: {_clause(error)}", hint="it must be a PEM file"
        ) from error
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ServerUnusable(
            f"the certificate in {certificate_file} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d} only",
            hint="renew it, or see the clock of this machine",
        )
    return Identity(context=_context(certificate_file, key_file), fingerprint=_fingerprint(certificate))


def _require_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ServerUnusable(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="check the path and its permissions",
        ) from error


def _context(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate_file, key_file, password=_no_password)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        raise ServerUnusable(
            f"{key_file} is not the private key of {certificate_file}"
            if mismatch
            else f"{key_file} holds no private key that can be used: {_clause(error)}",
            hint="give the key that the certificate was made for, in a PEM file without a password",
        ) from error
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking for a password at the terminal."""
    return ""


def _own(folder: Path, host: str) -> Identity:
    certificate_file, key_file = folder / "certificate.pem", folder / "private-key.pem"
    if not (certificate_file.exists() and key_file.exists()):
        try:
            _make(certificate_file, key_file, host)
        except OSError as error:
            raise ServerUnusable(
                f"no certificate can be kept in {folder}: {(error.strerror or str(error)).lower()}",
                hint="the data directory must be writable",
            ) from error
    return _load(certificate_file, key_file)


def _make(certificate_file: Path, key_file: Path, host: str) -> None:
    """Make a certificate, its key readable by this user only, and keep both."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, socket.gethostname()[:64] or "cryomamba")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    write_privately(key_file, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    write_whole(certificate_file, certificate.public_bytes(pem))


def _names(host: str) -> list[GeneralName]:
    """By what clients may call this machine."""
    from cryptography import x509

    names = {"localhost", socket.gethostname(), socket.getfqdn()}
    addresses = {"127.0.0.1", "::1"}
    if is_wildcard(host):
        for interface in psutil.net_if_addrs().values():
            addresses.update(each.address.partition("%")[0] for each in interface if each.family in _INTERNET)
    else:
        names.add(host)
    addresses.update(filter(_is_address, names))
    return [
        *(x509.DNSName(each) for each in sorted(names) if each and each.isascii() and not _is_address(each)),
        *(x509.IPAddress(ipaddress.ip_address(each)) for each in sorted(addresses)),
    ]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_INTERNET = (socket.AF_INET, socket.AF_INET6)


def _fingerprint(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _clause(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")

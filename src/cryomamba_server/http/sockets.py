"""Where a server listens, and the reasons why it cannot."""

from __future__ import annotations

import errno
import ipaddress
import socket

from cryomamba_core.errors import ServerUnusable
from cryomamba_server.http.settings import ServeSettings

#: Connections that the kernel holds while the server is busy.
BACKLOG = 512

#: Why an address cannot be had → what to do about it.
HINTS = {
    errno.EADDRINUSE: "another program listens there: choose another --port, or --port 0 for a free one",
    errno.EACCES: "ports below 1024 are the system's: choose a higher --port, and put a proxy in front",
    errno.EADDRNOTAVAIL: "this machine does not have that address: see them with `ip address`",
}


def listen(serving: ServeSettings) -> list[socket.socket]:
    """Open the sockets of a server, one for each address of its host.

    Raises
    ------
    ServerUnusable
        If the host is unknown, or the address cannot be had.
    """
    if not 0 <= serving.port <= 65535:  # getaddrinfo would take it modulo 65536
        raise ServerUnusable(f"{serving.port} is no port", hint="ports go from 1 to 65535; 0 takes a free one")
    sockets: list[socket.socket] = []
    port = serving.port
    try:
        for family, address in _addresses(serving.host, port):
            sockets.append(_open(family, (address[0], port, *address[2:])))
            port = sockets[0].getsockname()[1]
    except OSError as error:
        for each in sockets:
            each.close()
        raise ServerUnusable(
            f"cannot listen on {serving.host}, port {port}: {(error.strerror or str(error)).lower()}",
            hint=HINTS.get(error.errno or 0, "see --host and --port"),
        ) from error
    return sockets


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches `host`."""
    try:
        addresses = [address[0] for _, address in _addresses(host, 0)]
    except ServerUnusable:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def is_wildcard(host: str) -> bool:
    """Whether `host` stands for every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def here(host: str) -> str:
    """Where this machine itself finds a server that listens on `host`, as it is written in a URL."""
    if is_wildcard(host):
        host = "::1" if ":" in host else "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def elsewhere(host: str) -> str:
    """Where other machines find a server that listens on `host`, as it is written in a URL."""
    return socket.gethostname() if is_wildcard(host) else here(host)


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerUnusable(
            f"the host {host!r} is not known: {error}", hint="give an address of this machine, such as 0.0.0.0"
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))  # type: ignore[misc]  # of these


def _open(family: socket.AddressFamily, address: tuple[str | int, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.settimeout(0)
        opened.bind(address)
        opened.listen(BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened

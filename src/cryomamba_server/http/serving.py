"""A server: sockets, an engine, the application, and an end that lets requests in progress end first."""

from __future__ import annotations

import logging
import resource
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from socket import socket

import trio
from attrs import frozen
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config

from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_server.engine.engine import open_engine
from cryomamba_server.http.access.gate import open_gate
from cryomamba_server.http.app import create_app
from cryomamba_server.http.connection import PING_SECONDS, Connection, House
from cryomamba_server.http.services import Services
from cryomamba_server.http.settings import ServeSettings
from cryomamba_server.http.sockets import here, listen
from cryomamba_server.http.tls import open_identity
from cryomamba_server.http.upkeep.tidying import keep_tidy

log = logging.getLogger(__name__)

#: Seconds that connections have to close once nothing is in progress, or once patience has ended.
CLOSING_SECONDS = 1.0

#: Connections at a time, where descriptors suffice; each takes about 40 KB.
MOST_CONNECTIONS = 16_384

#: Bytes of a WebSocket message that a client may send; none has a reason to send more.
MAX_MESSAGE = 64 << 10

#: Messages between a connection and the application that may wait.
QUEUE = 2


@frozen(kw_only=True)
class RunningServer:
    """A server that listens.

    Attributes
    ----------
    url
        Where clients on this machine find it.
    port
        Where it listens.
    fingerprint
        SHA-256 of its certificate, lower-case hex; None for plain HTTP.
    services
        What its handlers share.
    """

    url: str
    port: int
    fingerprint: str | None
    services: Services


@asynccontextmanager
async def open_server(host: PluginHost, settings: Settings, serving: ServeSettings) -> AsyncIterator[RunningServer]:
    """Serve for as long as the context lasts.

    When the context is left, nothing new is taken; requests in progress have
    `ServeSettings.graceful_seconds` to end, and then every connection is closed. If the leaving is
    cancelled, they are closed at once. What the block raises is raised as it is, not in an
    exception group.

    Parameters
    ----------
    host
        Where every plugin comes from.
    settings, serving
        Of this process and of the server.

    Raises
    ------
    ServerUnusable
        If it cannot serve as it was asked to.
    """
    identity = await trio.to_thread.run_sync(open_identity, settings.data_dir, serving)
    sockets = await trio.to_thread.run_sync(listen, serving)
    scheme = "http" if identity is None else "https"
    raised: BaseException | None = None
    opening = open_engine(host, settings, allow_roots=serving.allow_roots, upload_rules=serving.upload_rules)
    async with _closing(sockets), opening as engine:
        services = Services(
            engine=engine,
            host=host,
            settings=settings,
            serving=serving,
            gate=await open_gate(engine, settings, serving),
        )
        house = House(
            app=ASGIWrapper(create_app(services)),
            config=_config(),
            idle_seconds=serving.idle_seconds,
            most=_most_connections(),
        )
        async with trio.open_nursery() as connections, _cutting(house):
            async with trio.open_nursery() as listeners:
                context = identity.context if identity else None
                listeners.start_soon(partial(_accept, house, sockets, context, handler_nursery=connections))
                listeners.start_soon(keep_tidy, services)
                listeners.start_soon(_ping, house)
                await listeners.start(services.audience.run)
                port = sockets[0].getsockname()[1]
                try:
                    yield RunningServer(
                        url=f"{scheme}://{here(serving.host)}:{port}",
                        port=port,
                        fingerprint=identity.fingerprint if identity else None,
                        services=services,
                    )
                except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # raised below, not in a group
                    raised = error
                await _let_end(services, serving.graceful_seconds)
                listeners.cancel_scope.cancel()
            await _close_idle(house)
            connections.cancel_scope.cancel()
    if raised is not None:
        raise raised


def _most_connections() -> int:
    """Connections that may be open at a time: the engine needs descriptors, too, or it loses sight of its jobs."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, descriptors // 2)


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.max_app_queue_size = QUEUE
    config.websocket_max_message_size = MAX_MESSAGE
    config.websocket_ping_interval = None  # see `_ping`
    return config


async def _ping(house: House) -> None:
    """Ask the listeners whether they are there, all of them from one task."""
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(PING_SECONDS)
            for connection in house.connections:
                nursery.start_soon(connection.ping)


async def _accept(
    house: House, sockets: Sequence[socket], context: ssl.SSLContext | None, *, handler_nursery: trio.Nursery
) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]

    async def serve(stream: trio.SocketStream) -> None:
        if not house.make_room():
            await trio.aclose_forcefully(stream)
            return
        secure = None if context is None else trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await Connection(house, secure or stream).run()
        except Exception:
            log.exception("a connection failed unexpectedly")

    await trio.serve_listeners(serve, listeners, handler_nursery=handler_nursery)


async def _let_end(services: Services, graceful_seconds: float) -> None:
    """Take nothing new, and wait for what is in progress."""
    services.stopping.set()
    with trio.move_on_after(graceful_seconds) as patience:
        await services.traffic.settled()
    if patience.cancelled_caught:
        log.warning("%d requests were cut off: they did not end in %g s", len(services.traffic), graceful_seconds)


async def _close_idle(house: House) -> None:
    """Close the connections on which nothing is in progress, and wait a little for the others."""
    await house.context.terminated.set()
    for connection in house.connections:
        connection.leave()
    with trio.move_on_after(CLOSING_SECONDS):
        await house.empty()


@asynccontextmanager
async def _cutting(house: House) -> AsyncIterator[None]:
    """Cut what is still open at the end: a write to a client that does not read cannot be cancelled."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            for connection in house.connections.copy():
                await connection.cut()


@asynccontextmanager
async def _closing(sockets: Sequence[socket]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for each in sockets:
            each.close()

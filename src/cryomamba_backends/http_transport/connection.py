"""Questions to a server, tried again until it answers, and its answers as values or errors of ours."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from importlib import metadata
from typing import Any, TypeVar

import httpx
import trio
from attrs import frozen

from cryomamba_backends.http_transport.failures import line_failed, refusal
from cryomamba_backends.http_transport.hearing import Hearing
from cryomamba_backends.http_transport.patience import Attempts, Patience
from cryomamba_backends.http_transport.pinning import shown_certificate, tls_context
from cryomamba_backends.http_transport.turns import Turns
from cryomamba_core.errors import (
    BrokenProtocol,
    CryoMambaError,
    Forbidden,
    InputError,
    InvalidParameter,
    ServerUntrusted,
)
from cryomamba_core.interfaces import Credentials, ServerInfo
from cryomamba_core.interfaces.transports import OnWaiting
from cryomamba_core.protocol.addresses import ServerAddress
from cryomamba_core.wire import dump_json, load_json

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Statuses that say: later.
LATER = frozenset({408, 429, 502, 503, 504})
#: Characters of what is said about an answer that cannot be read, which quotes it.
MOST_WORDS = 500
#: Bytes of an answer that is kept in memory; a list of jobs has a few hundred for each.
MAX_ANSWER = 64 << 20
#: Of no certificate.
_NO_FINGERPRINT = "0" * 64
#: Seconds that the server may take to answer once it has the whole question.
ANSWER_SECONDS = 60.0
#: The same while it has never answered: what listens may be something else, which waits as well.
FIRST_SECONDS = 20.0


@frozen(kw_only=True)
class Reply:
    """A good answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A server as its client knows it.

    Parameters
    ----------
    address, credentials
        Where it is, and who asks.
    patience
        How long to try again.
    client
        Sends the requests.
    websockets
        Whether WebSockets are worth a try.

    Attributes
    ----------
    websockets
        The same by now.
    turns
        Whose turn it is to ask.
    on_waiting
        As of `cryomamba_core.interfaces.Session`.
    """

    def __init__(
        self,
        address: ServerAddress,
        credentials: Credentials,
        patience: Patience,
        client: httpx.AsyncClient,
        *,
        websockets: bool,
    ) -> None:
        self.address = address
        self.patience = patience
        self.client = client
        self.websockets = websockets
        self.on_waiting: OnWaiting | None = None
        self._hearing = Hearing(lambda why: self.on_waiting(why) if self.on_waiting else None)
        self.turns = Turns(self._hearing.restrained)
        self._credentials = credentials
        self._heard = False
        self._parallel_parts: int | None = None

    @property
    def identity(self) -> dict[str, str]:
        """Headers that say who asks."""
        token = self._credentials.token
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    @property
    def fingerprint(self) -> str | None:
        """Of the certificate that the server must show."""
        return self._credentials.fingerprint

    def attempts(self, patience: float | None = None) -> Attempts:
        """Tries of something; `patience` seconds long, less if the server has never answered."""
        wanted = self.patience.control if patience is None else patience
        return Attempts(wanted if self._heard else self.patience.first, rate_limited=self.patience.long)

    def heard(self) -> None:
        """Note that the server is there."""
        self._heard = True
        self._hearing.heard()

    def missed(self, problem: CryoMambaError) -> None:
        """Note that something has failed which is about to be tried again."""
        self._hearing.missed(problem)

    def only_requests(self) -> None:
        """Note that events come as answers to requests: from now on nothing else is tried."""
        if self.websockets:
            log.debug("listening to %s by Server-Sent Events", self.address.authority)
        self.websockets = False

    async def ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        repeatable: bool = True,
        patience: float | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> T:
        """Put a question, and return the answer as a value of `kind`.

        Parameters
        ----------
        kind
            Type of the answer.
        method, path
            As in HTTP, the path from ``/v1`` on.
        body
            A value of the vocabulary, sent as JSON; None for none.
        headers, params
            More headers; the query.
        repeatable
            Whether asking twice does no harm; if not, it is asked again only if it never arrived.
        patience
            Seconds for which to try again; None for the usual.
        answer_seconds
            How long the server may take once it has the question.
        """
        sent = dict(headers or {})
        content = None
        if body is not None:
            content = dump_json(body).encode()
            sent["Content-Type"] = "application/json"
        reply = await self.request(
            method,
            path,
            headers=sent,
            params=params,
            content=None if content is None else lambda: content,
            repeatable=repeatable,
            patience=patience,
            answer_seconds=answer_seconds,
        )
        return parsed(reply, kind)

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        content: Callable[[], bytes | httpx.AsyncByteStream] | None = None,
        repeatable: bool = True,
        patience: float | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        on_failure: Callable[[], None] | None = None,
        counted: bool = True,
    ) -> Reply:
        """Send a request until there is an answer; raises what a refusal means.

        Parameters are those of `ask`; `content` gives the body anew for each attempt, `on_failure`
        hears that one has failed and will be followed by another, and `counted` says whether the
        server limits how many such requests there are in a minute.
        """
        attempts = self.attempts(patience)
        while True:
            problem: CryoMambaError
            delay, begun = 0.0, trio.current_time()
            try:
                async with self.turns.turn() if counted else nullcontext():
                    reply = await self._once(
                        method, path, headers, params, content() if content else None, answer_seconds=answer_seconds
                    )
            except httpx.HTTPError as error:
                problem = line_failed(error, self.address, heard=self._heard)
                if isinstance(problem, ServerUntrusted) and problem.fingerprint is None:
                    problem.fingerprint = await shown_fingerprint(self.address, self.patience)
                if not problem.retryable or not (repeatable or isinstance(error, httpx.ConnectError)):
                    raise problem from error
            else:
                good = reply.status < 300
                if not good:
                    problem, delay = refusal(reply.status, reply.headers, reply.body, self.address)
                if counted:
                    self.turns.note(reply.status, reply.headers, delay)
                log.debug("%s %s: %d", method, path, reply.status, extra={"seconds": trio.current_time() - begun})
                if good:
                    self.heard()
                    return reply
                if reply.status not in LATER:
                    self._hearing.heard()
                    raise problem
            log.debug("%s %s is asked again: %s", method, path, problem)
            self.missed(problem)
            if on_failure is not None:
                on_failure()
            await attempts.pause(problem, at_least=delay)

    async def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str | int] | None,
        content: bytes | httpx.AsyncByteStream | None,
        *,
        answer_seconds: float,
    ) -> Reply:
        if not self._heard:
            answer_seconds = min(answer_seconds, FIRST_SECONDS)
        await _give_way()
        request = self.client.build_request(
            method,
            self.url(path),
            params=params,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", **self.identity, **(headers or {})},
            content=content if isinstance(content, bytes) else None,
            timeout=httpx.Timeout(self.patience.silence, connect=self.patience.connect, read=answer_seconds),
        )
        if isinstance(content, httpx.AsyncByteStream):
            request.stream = content
        await _give_way()
        answer = await self.client.send(request, stream=True)
        try:
            body = await read_answer(answer)
        finally:
            await answer.aclose()
        await _give_way()
        return Reply(status=answer.status_code, headers=answer.headers, body=body)

    async def parallel_parts(self) -> int:
        """How many parts of uploads the server takes in at a time."""
        if self._parallel_parts is None:
            try:
                await self.server_info()
            except Forbidden:  # a token that may only send files
                self._parallel_parts = 1
        assert self._parallel_parts is not None, "the server has said it"
        return self._parallel_parts

    async def server_info(self) -> ServerInfo:
        """What the server is and can do."""
        info = await self.ask(ServerInfo, "GET", "/v1/server/info")
        self._parallel_parts = info.limits.parallel_parts if info.limits else 1
        return info

    def url(self, path: str) -> str:
        """The whole address of a path."""
        return f"{self.address.url}{path}"


async def _give_way() -> None:
    """Let the thread do other things: a window's is not to be held for a whole request."""
    await trio.lowlevel.checkpoint()


async def read_answer(answer: httpx.Response) -> bytes:
    """The body of an answer that should be small."""
    body = bytearray()

    async def take(piece: bytes) -> None:
        body.extend(piece)
        if len(body) > MAX_ANSWER:
            raise BrokenProtocol(f"the server's answer is larger than {MAX_ANSWER} bytes")

    await each_piece(answer, take)
    return bytes(body)


async def each_piece(answer: httpx.Response, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Hand each piece of a body to `take`, whose errors end the line.

    Breaking out of a loop over the pieces would leave generators of the library suspended: they are
    run to their end, which comes at once when the line is closed.
    """
    pieces = answer.aiter_raw()
    try:
        async for piece in pieces:
            await take(piece)
    except BaseException:
        with trio.CancelScope(shield=True):
            await answer.aclose()
            with suppress(Exception):
                async for _ in pieces:
                    pass
        raise


def parsed(reply: Reply, kind: type[T]) -> T:
    """What a good answer says.

    Raises
    ------
    BrokenProtocol
        If it is no JSON of that kind.
    """
    if reply.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise BrokenProtocol(
            "the answer is no JSON", hint="is this the address that cryomamba serve printed, with its whole path?"
        )
    try:
        return load_json(reply.body, kind)
    except (InputError, RecursionError) as error:
        raise BrokenProtocol(
            f"the server's answer cannot be read: {str(error)[:MOST_WORDS]}",
            hint=f"this client is of version {metadata.version('cryomamba')}; the server may be of another",
        ) from error


@asynccontextmanager
async def open_connection(
    address: ServerAddress, credentials: Credentials, patience: Patience
) -> AsyncIterator[Connection]:
    """A connection pool to a server, and nothing sent yet."""
    async with await trio.to_thread.run_sync(_client, address, credentials.fingerprint) as client:
        yield Connection(address, credentials, patience, client, websockets=not _proxied(address))


async def shown_fingerprint(address: ServerAddress, patience: Patience) -> str | None:
    """Fingerprint of the certificate that a server shows, over a line on which nothing is said; None if none comes.

    Whoever trusts nobody's word for the server can be shown it, to compare it with what the server printed.
    """
    async with await trio.to_thread.run_sync(_client, address, _NO_FINGERPRINT) as client:
        with trio.move_on_after(patience.connect):
            try:
                await client.get(address.url)
            except httpx.HTTPError as error:
                return shown_certificate(error)
    return None


def _client(address: ServerAddress, fingerprint: str | None) -> httpx.AsyncClient:
    """What sends requests; making it reads the certificates of authorities, which takes a moment."""
    try:
        return httpx.AsyncClient(
            verify=tls_context(fingerprint) if address.secure else False,
            http2=False,
            follow_redirects=False,
            trust_env=not address.loopback,  # a proxy must not hear what this computer says to itself
            headers={"User-Agent": f"cryomamba/{metadata.version('cryomamba')}"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise InvalidParameter(
            f"the proxy that the environment names cannot be used: {error}",
            hint="HTTPS_PROXY, HTTP_PROXY and ALL_PROXY are http:// or https:// addresses; NO_PROXY names hosts "
            "that need none",
        ) from error


def _proxied(address: ServerAddress) -> bool:
    """Whether the environment names a proxy for the way there: a WebSocket would go around it.

    The library of the requests reads the same variables with rules of its own for NO_PROXY. Where
    the two differ, either way of listening is found all the same.
    """
    if address.loopback:
        return False
    proxies = urllib.request.getproxies()
    named = proxies.get(address.scheme) or proxies.get("all")
    return bool(named) and not urllib.request.proxy_bypass(address.authority)

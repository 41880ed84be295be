"""A job's events as Server-Sent Events: where no WebSocket gets through, or requests go by a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx

from cryomamba_backends.http_transport.connection import Connection, each_piece, read_answer
from cryomamba_backends.http_transport.failures import line_failed, refusal
from cryomamba_backends.http_transport.messages import heard
from cryomamba_core.errors import BrokenProtocol, ServerUnreachable
from cryomamba_core.events import Completed, Failed, JobEvent, StateChanged

#: Bytes of one event; a preview of 1 M voxels has at most 3 MiB in base64.
MAX_EVENT = 96 << 20
#: Status of a job that has ended, where nothing is left to hear.
EXHAUSTED = 204


async def hear_event_stream(connection: Connection, job_id: str, after: int, take: Callable[[JobEvent], None]) -> None:
    """Hand every event behind number `after` to `take`; returns when the job has ended.

    Raises
    ------
    ServerUnreachable
        If the line ends before the job, or is silent for too long.
    """
    request = connection.client.build_request(
        "GET",
        connection.url(f"/v1/jobs/{quote(job_id, safe='')}/events"),
        params={"after": after},
        headers={"Accept": "text/event-stream", "Accept-Encoding": "identity", **connection.identity},
        timeout=httpx.Timeout(connection.patience.silence, connect=connection.patience.connect),
    )
    try:
        async with connection.turns.turn():
            answer = await connection.client.send(request, stream=True)
        try:
            ended = await _hear(connection, answer, take)
        finally:
            await answer.aclose()
    except httpx.HTTPError as error:
        raise line_failed(error, connection.address, heard=True) from error
    if not ended:
        raise ServerUnreachable(f"the line to {connection.address.authority} ended before the job did")


async def _hear(connection: Connection, answer: httpx.Response, take: Callable[[JobEvent], None]) -> bool:
    """Take in an answer; whether the job has ended."""
    connection.heard()
    if answer.status_code == EXHAUSTED:
        connection.only_requests()
        return True
    if answer.status_code != 200:
        problem, delay = refusal(answer.status_code, answer.headers, await read_answer(answer), connection.address)
        connection.turns.note(answer.status_code, answer.headers, delay)
        raise problem
    connection.turns.note(answer.status_code, answer.headers)
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        raise BrokenProtocol("the server answers with something that is no stream of events")
    connection.only_requests()
    ended = False
    events = EventParser()

    async def take_piece(piece: bytes) -> None:
        nonlocal ended
        connection.heard()
        for data in events.feed(piece):
            event = heard(data)
            ended = isinstance(event, Completed | Failed) or (isinstance(event, StateChanged) and event.state.ended)
            take(event)

    await each_piece(answer, take_piece)
    return ended


class EventParser:
    """Finds the data of events in a stream, as the HTML standard defines it."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """The data of each event that ends in `piece`.

        Raises
        ------
        BrokenProtocol
            If an event is larger than any can be, or is no UTF-8.
        """
        self._size += len(piece)
        *whole, rest = piece.split(b"\n")
        for end in whole:
            line = b"".join((*self._line, end)).removesuffix(b"\r")
            self._line = []
            yield from self._take(line)
        self._line.append(rest)
        if self._size > MAX_EVENT:
            raise BrokenProtocol(f"the server sent an event of more than {MAX_EVENT} bytes")

    def _take(self, line: bytes) -> Iterator[str]:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif not line:
            data, self._data, self._size = self._data, [], 0
            if data:
                try:
                    yield b"\n".join(data).decode()
                except UnicodeDecodeError as error:
                    raise BrokenProtocol(f"the server sent an event that is no text: {error}") from error

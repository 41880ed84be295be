"""Routes that do what no route of ours does, and a server that lacks a protection: what tests of serving need.

Run as a program it is ``cryomamba serve`` with these routes, without the protections that
``PROBES_WITHOUT`` names: that is how a test shows what each is good for.
"""

import os
import sys

import trio
from quart import Response

from cryomamba_server.http import app, connection, running
from cryomamba_server.http.routes import route_tables
from cryomamba_server.http.routing import Guard, RouteTable

ROUTES = RouteTable()
MIB = 1 << 20


@ROUTES.add("PUT", "/probe/ignore", access=Guard.OPEN, takes=bytes)
async def ignore(call):
    """Never read the body, and never answer."""
    await trio.sleep_forever()


@ROUTES.add("PUT", "/probe/refuse", access=Guard.OPEN, takes=bytes)
async def refuse(call):
    """Answer at once without reading the body."""
    return {"refused": True}


@ROUTES.add("PUT", "/probe/count", access=Guard.OPEN, takes=bytes)
async def count(call):
    """Read the body and say how long it was."""
    size = 0
    async for piece in call.request.body:
        size += len(piece)
    return {"size": size}


@ROUTES.add("GET", "/probe/stream/<int:mebibytes>", access=Guard.OPEN, gives=bytes)
async def stream(call, mebibytes):
    """Send zeros; with `pause`, in the query, wait so many seconds after each mebibyte."""
    pause = float(call.request.args.get("pause", 0))

    async def pieces():
        for _ in range(mebibytes):
            yield bytes(MIB)
            await trio.sleep(pause)

    return Response(pieces(), headers={"Content-Length": str(mebibytes * MIB)})


@ROUTES.add("GET", "/probe/raise", access=Guard.OPEN)
async def fail(call):
    """Fail as a defect does."""
    raise KeyError("a secret of the server")


@ROUTES.add("POST", "/probe/json", access=Guard.OPEN, takes=dict[str, int])
async def take_json(call, body):
    """Take a JSON body."""
    return body


@ROUTES.add("GET", "/probe/nothing", access=Guard.OPEN)
async def nothing(call):
    """Answer without a body."""


@ROUTES.add("WEBSOCKET", "/probe/listen", access=Guard.OPEN)
async def listen(call):
    """Say hello, and stay until the client leaves or the server stops."""
    await call.request.accept()
    await call.request.send("hello")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hear, call.request)
        await call.services.stopping.wait()
        await call.request.close(1012, "the server stops")
        nursery.cancel_scope.cancel()


async def _hear(websocket):
    while True:
        await websocket.receive()


def add_routes(monkeypatch):
    """Let servers of this process have the routes."""
    monkeypatch.setattr(app, "route_tables", lambda: [*route_tables(), ROUTES])


async def write_as_hypercorn(self, data):
    """Wait for ever for a client that has stopped reading."""
    async with self._writing:
        with trio.CancelScope(shield=True):
            await self._stream.send_all(data)


async def never_cut(self):
    """Leave the connection as it is."""


def mend_nothing(application, serving, traffic):
    """Leave Quart's classes as they are."""


#: Name of a protection → where it is, and what takes its place.
PROTECTIONS = {
    "bodies": [(app, "mend", mend_nothing)],
    "timed-writes": [(connection.Connection, "_write", write_as_hypercorn)],
    "cuts": [(connection.Connection, "cut", never_cut)],
    "last-resort": [(running, "LAST_SECONDS", 10_000.0)],
}

if __name__ == "__main__":
    from cryomamba_core.cli.main import main

    app.route_tables = lambda: [*route_tables(), ROUTES]
    for name in os.environ.get("PROBES_WITHOUT", "").split():
        for place, attribute, substitute in PROTECTIONS[name]:
            setattr(place, attribute, substitute)
    sys.exit(main())

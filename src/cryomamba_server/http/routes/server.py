"""Routes: what the server is, whether it is well, and what it has for its callers."""

from __future__ import annotations

import trio
from attrs import evolve
from quart import Response

from cryomamba_core.errors import BadRequest, ServerNotReady, ServerStopping, UnknownObject
from cryomamba_core.interfaces import Limits, ServerInfo
from cryomamba_core.protocol.server import Health, InputPage, ModelList
from cryomamba_server.engine.inputs import list_files
from cryomamba_server.http.health import check_health
from cryomamba_server.http.logs import lost_lines
from cryomamba_server.http.metrics import MEDIA_TYPE
from cryomamba_server.http.queries import read_queries, whole_number
from cryomamba_server.http.routing import Call, Guard, Query, RouteTable, Scope
from cryomamba_server.http.services import Services

ROUTES = RouteTable()

#: Files that are listed if the caller does not say how many, and at most.
PAGE, MOST = 100, 1000


@ROUTES.add("GET", "/v1/healthz", access=Guard.OPEN, gives=Health)
async def show_health(_: Call) -> Health:
    """Say that the server is alive.

    Whoever restarts servers asks here: an answer is all it takes.
    """
    return Health()


@ROUTES.add("GET", "/v1/readyz", access=Guard.OPEN, gives=Health, errors=(ServerNotReady, ServerStopping))
async def show_readiness(call: Call) -> Health:
    """Say whether the server can take work.

    Whoever spreads requests over servers asks here: 503 while this one stops, or cannot use its job
    store or its disk.
    """
    if call.services.stopping.is_set():
        raise ServerStopping("the server is about to stop", hint="try again when it is back")
    await check_health(call.services)
    return Health()


@ROUTES.add("GET", "/v1/server/info", access=Scope.JOBS_READ, gives=ServerInfo)
async def show_server(call: Call) -> ServerInfo:
    """Tell version, devices, limits, runners, exporters, all plugins, and what the token allows."""
    assert call.caller is not None, "the guard knows who calls"
    return evolve(server_info(call.services), scopes=tuple(sorted(call.caller.scopes)))


def server_info(services: Services) -> ServerInfo:
    """What a client should know of the server."""
    serving = services.serving
    limits = Limits(
        part_size=serving.part_size,
        parallel_parts=serving.parallel_parts,
        requests_per_minute=serving.requests_per_minute,
        quota_bytes=serving.quota_bytes,
        upload_hours=serving.upload_hours,
        url_seconds=serving.url_seconds,
        running_jobs=len(services.engine.devices),
    )
    info = services.engine.server_info(shares_files=False)
    return evolve(info, limits=limits, plugins=tuple(services.host.plugins))


@ROUTES.add("GET", "/v1/models", access=Scope.JOBS_READ, gives=ModelList)
async def list_models(call: Call) -> ModelList:
    """List the models of all runners, by runner and name."""
    return ModelList(models=tuple(await call.services.engine.models()))


@ROUTES.add(
    "GET",
    "/v1/inputs",
    access=Scope.JOBS_READ,
    gives=InputPage,
    errors=(BadRequest, UnknownObject),
    queries=(
        Query(
            name="limit",
            kind="integer",
            description=f"Files on the page; {PAGE} by default.",
            limits={"minimum": 1, "maximum": MOST},
        ),
        Query(name="before", kind="string", description="Only files behind this one, from the last page's end."),
    ),
)
async def list_inputs(call: Call) -> InputPage:
    """List the caller's files, the newest first."""
    queries = read_queries(call.request, "limit", "before")
    limit = whole_number(queries.get("limit", str(PAGE)), "limit", least=1, most=MOST)
    engine, before = call.services.engine, queries.get("before")
    files = await engine.ledger.call(list_files, engine.database, owner=call.owner, limit=limit + 1, before=before)
    return InputPage(files=tuple(files[:limit]), next_before=files[limit - 1].id if len(files) > limit else None)


@ROUTES.add("GET", "/metrics", access=Scope.METRICS_READ, gives=bytes, media_type=MEDIA_TYPE)
async def show_metrics(call: Call) -> Response:
    """Give the counters in the text format of Prometheus."""
    services = call.services
    await services.engine.ledger.call(services.metrics.read_jobs, services.engine.database)
    services.metrics.log_lines_lost(lost_lines())
    text = await trio.to_thread.run_sync(lambda: services.metrics.render(data_dir=services.settings.data_dir))
    return Response(text, content_type=MEDIA_TYPE)

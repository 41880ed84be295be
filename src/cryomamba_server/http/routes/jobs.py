"""Routes: jobs."""

from __future__ import annotations

import re

import trio

from cryomamba_core.errors import (
    BadRequest,
    DoesNotFit,
    Forbidden,
    IdempotencyConflict,
    IllegalTransition,
    InputError,
    ModelError,
    StorageFull,
    SubmissionInFlight,
    TooManyJobs,
    UnknownJob,
    UnknownModel,
    UnknownObject,
    UnknownPlugin,
)
from cryomamba_core.jobs import JobConfig, JobRecord
from cryomamba_core.plans import JobPlan
from cryomamba_core.protocol.jobs import JobPage, JobView
from cryomamba_server.http.links import with_links
from cryomamba_server.http.observation import note_job
from cryomamba_server.http.queries import read_queries, whole_number
from cryomamba_server.http.routing import Answer, Call, Query, RouteTable, Scope

ROUTES = RouteTable()

#: Jobs on a page, unless the client wants another number, and the most.
PAGE, LARGEST_PAGE = 100, 500
#: Seconds that a request to cancel waits for the job's end.
CANCEL_SECONDS = 10.0
#: What a key may be: what fits into a header unquoted. Quotes around it, as the draft standard has them, are taken off.
KEY = re.compile(r"[!#-~]{1,128}", re.ASCII)

REFUSALS = (
    InputError,
    ModelError,
    UnknownModel,
    UnknownPlugin,
    UnknownObject,
    Forbidden,
    StorageFull,
    DoesNotFit,
)


@ROUTES.add(
    "POST",
    "/v1/jobs",
    access=Scope.JOBS_WRITE,
    takes=JobConfig,
    gives=JobView,
    status=201,
    also={200: "The job that an earlier request with the same key has made; `Idempotent-Replayed` is `true`."},
    errors=(*REFUSALS, IdempotencyConflict, SubmissionInFlight, TooManyJobs),
    headers={"Idempotency-Key": "1 to 128 visible characters: a request that is sent again makes no second job."},
)
async def create_job(call: Call, body: JobConfig) -> Answer:
    """Queue a job.

    What is wrong with it is said at once. It runs when it is its owner's turn and a slot is free.
    """
    key = _idempotency_key(call.request.headers.get("Idempotency-Key"))
    record, fresh = await call.services.engine.take(body, owner=call.owner, idempotency_key=key)
    note_job(record.id)
    headers = {"Location": f"/v1/jobs/{record.id}"}
    if fresh:
        return Answer(value=_view(call, record), headers=headers)
    return Answer(value=_view(call, record), status=200, headers={**headers, "Idempotent-Replayed": "true"})


@ROUTES.add("POST", "/v1/jobs/plan", access=Scope.JOBS_WRITE, takes=JobConfig, gives=JobPlan, errors=REFUSALS)
async def plan_job(call: Call, body: JobConfig) -> JobPlan:
    """Say what a job would cost: tiles, memory, time, and when it could start.

    Nothing is started. What could not run is refused, with a hint that says what would make it fit.
    """
    return await call.services.engine.plan(body, owner=call.owner)


@ROUTES.add(
    "GET",
    "/v1/jobs",
    access=Scope.JOBS_READ,
    gives=JobPage,
    errors=(BadRequest,),
    queries=(
        Query(
            name="limit",
            kind="integer",
            description=f"Jobs on the page; {PAGE} by default.",
            limits={"minimum": 1, "maximum": LARGEST_PAGE},
        ),
        Query(name="before", kind="string", description="Only jobs older than the one with this id."),
    ),
)
async def list_jobs(call: Call) -> JobPage:
    """List the caller's jobs, the newest first, in pages."""
    wanted = read_queries(call.request, "limit", "before")
    limit = whole_number(wanted.get("limit", str(PAGE)), "limit", least=1, most=LARGEST_PAGE)
    records = await call.services.engine.jobs(owner=call.owner, limit=limit + 1, before=wanted.get("before"))
    page = records[:limit]
    return JobPage(
        jobs=tuple(_view(call, record) for record in page),
        next_before=page[-1].id if len(records) > limit else None,
    )


@ROUTES.add("GET", "/v1/jobs/<string:job_id>", access=Scope.JOBS_READ, gives=JobView, errors=(UnknownJob,))
async def show_job(call: Call, job_id: str) -> JobView:
    """Show a job.

    A waiting job says how many jobs run first and, where that can be told, when it starts; a running
    one how far it is; one that is completed where its artifacts are.
    """
    return _view(call, await call.services.engine.job(job_id, owner=call.owner))


@ROUTES.add(
    "DELETE",
    "/v1/jobs/<string:job_id>",
    access=Scope.JOBS_WRITE,
    gives=JobView,
    also={202: "The order is given, and the job is still stopping."},
    errors=(UnknownJob,),
)
async def cancel_job(call: Call, job_id: str) -> Answer:
    """Cancel a job.

    Answers when the job has ended. One that had ended before stays as it was.
    """
    engine = call.services.engine
    with trio.move_on_after(CANCEL_SECONDS):
        return Answer(value=_view(call, await engine.cancel(job_id, owner=call.owner)))
    return Answer(value=_view(call, await engine.job(job_id, owner=call.owner)), status=202)


@ROUTES.add(
    "POST",
    "/v1/jobs/<string:job_id>/retry",
    access=Scope.JOBS_WRITE,
    gives=JobView,
    errors=(UnknownJob, IllegalTransition, TooManyJobs),
)
async def retry_job(call: Call, job_id: str) -> JobView:
    """Queue a failed or canceled job again, behind all others."""
    return _view(call, await call.services.engine.retry(job_id, owner=call.owner))


def _view(call: Call, record: JobRecord) -> JobView:
    return JobView.of(record).with_artifacts(with_links(call, record.id, record.artifacts))


def _idempotency_key(header: str | None) -> str | None:
    if header is None:
        return None
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
    if KEY.fullmatch(key) is None:
        raise BadRequest("an Idempotency-Key has 1 to 128 visible ASCII characters and no quotes", hint="use a UUID")
    return key

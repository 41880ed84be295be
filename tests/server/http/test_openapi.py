"""The OpenAPI document, held against the server that it describes and against other people's validators."""

import hashlib
import json
import re
from contextlib import contextmanager

import httpx
import jsonschema
import mrcfile
import numpy as np
import pytest
import trio
from engines import DEADLINE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from servers import SCOPES, open_test_server
from werkzeug.routing import Map

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import CryoMambaError, ErrorInfo
from cryomamba_core.events import Completed, Failed, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.jobs import JobConfig, JobProgress, JobState, Source
from cryomamba_core.previews import Preview
from cryomamba_core.protocol.live import event_of, event_to_json
from cryomamba_core.protocol.uploads import UploadRequest, format_digest
from cryomamba_core.wire import from_plain, to_plain
from cryomamba_server.http.app import all_routes, create_app
from cryomamba_server.http.errors import status_of
from cryomamba_server.http.openapi import TAGS, openapi_document, path_template
from cryomamba_server.http.openapi_schemas import Schemas
from cryomamba_server.http.routing import Guard, RouteTable, Scope

METHODS = {"get", "put", "post", "delete"}


@pytest.fixture(scope="session")
def document():
    return json.loads(json.dumps(openapi_document(all_routes())))


def operations(document):
    return [(path, method, each) for path, methods in document["paths"].items() for method, each in methods.items()]


def validator(document, schema):
    """Judges values by a schema of the document."""
    whole = {**schema, "components": document["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(whole, format_checker=checker)


def component(name):
    return {"$ref": f"#/components/schemas/{name}"}


def test_the_document_is_valid_openapi_3_1(document):
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


async def test_every_rule_of_the_url_map_stands_in_the_document_and_no_other(document, tmp_path):
    async with open_test_server(tmp_path / "data") as server:
        rules: Map = create_app(server.services).url_map
    served = {
        (path_template(rule.rule), method.lower())
        for rule in rules.iter_rules()
        for method in (rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, method, _ in operations(document)} == served
    assert not any(re.search("[<>]", path) for path in document["paths"])


def test_every_argument_in_a_path_is_a_parameter(document):
    for path, _, operation in operations(document):
        declared = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["tags"][0] in TAGS, path
        assert operation["x-codeSamples"][0]["source"].startswith(("curl ", "wsdump ")), path


def test_every_operation_says_which_scope_it_needs(document):
    for route in all_routes():
        method = "get" if route.method == "WEBSOCKET" else route.method.lower()
        security = document["paths"][path_template(route.rule)][method]["security"]
        if isinstance(route.access, Scope):
            assert security == [{"token": [route.access]}]
        else:
            assert bool(security) is (route.access is not Guard.OPEN)
        assert "401" in document["paths"][path_template(route.rule)][method]["responses"] or not security


def test_every_error_of_a_route_stands_under_its_status_with_the_one_envelope(document):
    for route in all_routes():
        method = "get" if route.method == "WEBSOCKET" else route.method.lower()
        responses = document["paths"][path_template(route.rule)][method]["responses"]
        for error in route.errors:
            assert f"`{error.code}`" in responses[str(status_of(error))]["description"]
        for status, answer in responses.items():
            if int(status) >= 400:
                assert answer["content"]["application/json"] == {"schema": component("Error")}


def test_every_field_that_a_docstring_describes_is_described(document):
    fields = document["components"]["schemas"]["UploadStatus"]["properties"]
    assert fields["part_size"]["description"] == "Bytes of every part but the last."
    assert fields["size"]["description"] == fields["filename"]["description"] == "As they were announced."
    assert "null for a complete one" in fields["expires_at"]["description"]


def test_the_examples_are_what_their_schemas_allow(document):
    found = 0
    for path, _, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (content for body in bodies for content in body.get("content", {}).values()):
            if "example" in content:
                validator(document, content["schema"]).validate(content["example"])
                found += 1
            elif set(content["schema"]) == {"$ref"} and content["schema"] != component("Error"):
                assert content["schema"] in map(component, ("Health", "InputPage", "ModelList", "ServerInfo")), path
    assert found > 10


def test_a_route_that_is_not_in_the_table_is_not_in_the_document():
    table = RouteTable()

    @table.add("GET", "/v1/things/<string:thing_id>/<int:number>", access=Scope.JOBS_READ, gives=Source)
    async def show_thing() -> None:
        """Show a thing.

        With ``all`` of it.
        """

    document = openapi_document(table.routes)
    (operation,) = document["paths"].pop("/v1/things/{thing_id}/{number}").values()
    assert document["paths"] == {}
    assert [each["schema"]["type"] for each in operation["parameters"]] == ["string", "integer"]
    assert operation["summary"] == "Show a thing"
    assert operation["description"] == "With `all` of it."


AT = "2026-11-23T12:00:00+00:00"
GRID = VoxelGrid(shape=(2, 3, 4), voxel_size=(10.0, 10.0, 12.5), origin=(0.0, -5.0, 1.0))
ARTIFACT = Artifact(name="mask.mrc", media_type="application/x-mrc", size=3, sha256="0" * 64)


def events():
    time = from_plain({"seq": 1, "at": AT, "state": "queued", "attempt": 0}, StateChanged).at
    preview = Preview(
        sequence=1,
        factor=2,
        grid=GRID,
        covered=Region(start=(0, 0, 0), stop=(1, 3, 4)),
        provisional=True,
        dtype="uint8",
        payload=b"\x78\x9c",
    )
    progress = JobProgress(stage="segmenting", done=1, total=4, unit="tiles", fraction=0.25)
    return [
        StateChanged(seq=1, at=time, state=JobState.RUNNING, attempt=1),
        Progress(seq=2, at=time, progress=progress),
        PreviewReady(seq=3, at=time, preview=preview),
        Completed(seq=4, at=time, artifacts=(ARTIFACT,)),
        Failed(seq=5, at=time, error=ErrorInfo(code="input/invalid", message="no", hint="")),
    ]


@pytest.mark.parametrize("event", events(), ids=lambda event: event.type)
def test_every_live_message_is_what_its_schema_says(document, event):
    message = json.loads(event_to_json(event))
    judge = validator(document, component("JobEvent"))
    judge.validate(message)
    assert document["components"]["schemas"]["JobEvent"]["discriminator"]["mapping"][event.type].endswith(
        type(event).__name__
    )
    for field in message:
        broken = {name: value for name, value in message.items() if name != field}
        assert not judge.is_valid(broken), field
    assert event_of(json.dumps(message)) == event


REQUESTS = {UploadRequest: component("UploadRequest"), JobConfig: component("JobConfig")}

_ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
_UPLOADS = st.fixed_dictionaries(
    {},
    optional={
        "filename": st.one_of(st.just("tomo.mrc"), _ANYTHING),
        "size": st.one_of(st.integers(1, 10**9), _ANYTHING),
        "sha256": st.one_of(st.just("a" * 64), _ANYTHING),
        "fingerprint": st.one_of(st.just("it"), _ANYTHING),
        "more": _ANYTHING,
    },
)
_JOBS = st.fixed_dictionaries(
    {
        "source": st.one_of(
            st.fixed_dictionaries({}, optional={"file_id": st.one_of(st.just("id"), _ANYTHING), "path": _ANYTHING}),
            _ANYTHING,
        )
    },
    optional={
        "model": _ANYTHING,
        "params": st.one_of(st.dictionaries(st.text(max_size=3), _ANYTHING, max_size=2), _ANYTHING),
        "voxel_size": st.one_of(st.lists(st.one_of(st.floats(1, 20), _ANYTHING), max_size=4), _ANYTHING),
        "artifacts": st.one_of(st.lists(st.text(max_size=3), max_size=2), _ANYTHING),
        "preview": st.fixed_dictionaries({}, optional={"max_voxels": _ANYTHING, "interval_seconds": _ANYTHING}),
        "more": _ANYTHING,
    },
)


@pytest.mark.parametrize(("kind", "values"), [(UploadRequest, _UPLOADS), (JobConfig, _JOBS)], ids=["upload", "job"])
def test_what_the_wire_takes_the_schema_allows(document, kind, values):
    judge = validator(document, REQUESTS[kind])

    @given(values)
    @settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    def check(plain):
        try:
            from_plain(plain, kind)
        except CryoMambaError:
            return
        judge.validate(plain)

    check()


@contextmanager
def judged_by(document, client):
    """Every answer that the client gets meanwhile must be what the document says."""
    seen = []

    async def judge(response):
        path, operation = _operation(document, response.request)
        answer = operation["responses"][str(response.status_code)]
        seen.append((path, response.request.method, response.status_code))
        assert set(answer.get("headers", {})) - {"RateLimit", "RateLimit-Policy"} <= {
            name.title().replace("Id", "ID").replace("Www", "WWW") for name in response.headers
        }, seen[-1]
        content = answer.get("content", {}).get("application/json")
        if content is not None:
            await response.aread()
            validator(document, content["schema"]).validate(response.json())

    client.event_hooks["response"] = [judge]
    yield seen


def _operation(document, request):
    for path, methods in document["paths"].items():
        pattern = re.sub(r"{\w+}", "[^/]+", re.escape(path).replace(r"\{", "{").replace(r"\}", "}"))
        if re.fullmatch(pattern, request.url.path) and request.method.lower() in methods:
            return path, methods[request.method.lower()]
    raise AssertionError(request.url.path)


async def test_the_answers_of_a_whole_job_are_what_the_document_says(document, tmp_path):
    async with open_test_server(tmp_path / "data", installed=True) as server:
        headers = server.headers(scopes=[*SCOPES, "metrics:read"])
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=DEADLINE) as client:
            with judged_by(document, client) as seen:
                await _run_a_job(client, _tomogram(tmp_path / "noise.mrc"))
                await _meet_errors(client)
    assert {status for _, _, status in seen} >= {200, 201, 206, 304, 401, 404, 409, 416, 422}
    visited = {path for path, _, _ in seen}
    for_others = {path for path in document["paths"] if path == "/" or path.startswith(("/pages/", "/v1/ws/"))}
    assert set(document["paths"]) - visited == for_others


def _tomogram(path):
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.random.default_rng(5).normal(size=(8, 7, 6)).astype(np.float32))
        mrc.voxel_size = 10.0
    return path.read_bytes()


PLAIN = ("/v1/healthz", "/v1/readyz", "/v1/server/info", "/v1/models", "/metrics", "/v1/openapi.json", "/v1/docs")


async def _run_a_job(client, data):
    for path in (
        "/v1/healthz",
        "/v1/readyz",
        "/v1/server/info",
        "/v1/models",
        "/metrics",
        "/v1/openapi.json",
        "/v1/docs",
    ):
        assert (await client.get(path)).status_code == 200
    announcement = {"filename": "noise.mrc", "size": len(data)}
    upload = (await client.post("/v1/uploads/init", json=announcement)).json()
    part = f"/v1/uploads/{upload['upload_id']}/part/0"
    digest = format_digest(hashlib.sha256(data).hexdigest())
    await client.post(f"/v1/uploads/{upload['upload_id']}/complete")
    await client.put(part, content=data, headers={"Content-Digest": digest})
    await client.get(f"/v1/uploads/{upload['upload_id']}")
    file = (await client.post(f"/v1/uploads/{upload['upload_id']}/complete")).json()
    other = (await client.post("/v1/uploads/init", json={**announcement, "size": 4000, "fingerprint": "x"})).json()
    await client.delete(f"/v1/uploads/{other['upload_id']}")
    await client.get("/v1/inputs")
    config = {"source": {"file_id": file["file_id"]}, "runner": "threshold"}
    await client.post("/v1/jobs/plan", json=config)
    for _ in range(2):
        made = await client.post("/v1/jobs", json=config, headers={"Idempotency-Key": "one"})
    job = f"/v1/jobs/{made.json()['job_id']}"
    with trio.fail_after(DEADLINE):
        assert (await client.get(f"{job}/events")).status_code == 200
    view = (await client.get(job)).json()
    assert view["state"] == "completed"
    artifact = next(each for each in view["artifacts"] if each["name"] == "mask.mrc")
    whole = await client.get(artifact["url"])
    for headers in ({"Range": "bytes=1-2"}, {"Range": "bytes=99999-"}, {"If-None-Match": whole.headers["ETag"]}):
        await client.get(artifact["url"], headers=headers)
    await client.post(f"{job}/retry")
    await client.delete(job)
    await client.get("/v1/jobs", params={"limit": 1})


async def _meet_errors(client):
    await client.get("/v1/jobs/none")
    await client.get("/v1/uploads/none")
    await client.get("/v1/jobs", params={"limit": 0})
    await client.get("/v1/jobs", headers={"Authorization": "Bearer no"})
    await client.post("/v1/jobs", json={"source": {}})
    await client.post("/v1/jobs", content=b"{")


def test_an_answer_may_gain_fields_and_a_request_may_not():
    asked, answered = Schemas([Source]), Schemas()
    asked.of(Source)
    answered.of(Source)
    assert asked.components["Source"]["additionalProperties"] is False
    assert asked.components["Source"]["required"] == []
    assert "additionalProperties" not in answered.components["Source"]
    assert answered.components["Source"]["required"] == list(to_plain(Source(path="/x")))

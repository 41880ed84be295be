"""Every address that the server answers: who may come in, and what strangers see."""

import json
import re
import time
import uuid

import engines
import forging
import httpx
import pytest
import servers
import trio

from cryomamba_server.http.access.gate import Gate
from cryomamba_server.http.access.keys import KeyRing, Use
from cryomamba_server.http.access.tokens import open_issuer
from cryomamba_server.http.app import all_routes, create_app
from cryomamba_server.http.routing import Guard, Scope

EVERY_SCOPE = tuple(Scope)
#: Names that arguments of routes have for objects that belong to somebody.
OBJECTS = {"job_id", "upload_id"}
#: Arguments that name a piece of an object.
PIECES = {"artifact": "mask.npy", "idx": "0"}
#: Bodies that a route takes; nothing else of the request is wrong.
BODIES = {
    "/v1/uploads/init": {"filename": "a.mrc", "size": 4096},
    "/v1/jobs": {"source": {"file_id": "0" * 64}, "runner": "steps"},
    "/v1/jobs/plan": {"source": {"file_id": "0" * 64}, "runner": "steps"},
}
#: What a browser sends to begin a WebSocket.
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version": "13",
}
#: What is open to everybody because it tells nothing about anybody.
OPEN = {
    "/",
    "/pages/login",
    "/pages/logout",
    "/pages/static/<string:name>",
    "/v1/docs",
    "/v1/healthz",
    "/v1/openapi.json",
    "/v1/readyz",
}


@pytest.fixture(autouse=True)
def workers_find_the_strangers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


def route_id(route):
    return route.endpoint


def address(route, objects):
    """The route's address with an object's id in each place."""

    def fill(found):
        name = found[1]
        assert name in OBJECTS | PIECES.keys(), f"{route.rule}: say in this test what {name} is"
        return PIECES[name] if name in PIECES else objects[name]

    return re.sub(r"<\w+:(\w+)>", fill, route.rule)


async def ask(client, route, token, objects):
    """Status, body and headers of an answer to a request in which only the token may be wrong."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    target = address(route, objects)
    if route.method == "WEBSOCKET":
        async with client.stream("GET", target, headers={**headers, **HANDSHAKE}) as answer:
            return answer.status_code, b"" if answer.status_code == 101 else await answer.aread(), answer.headers
    body = {}
    if route.takes is bytes:
        body = {"content": b"x"}
        headers["Content-Digest"] = "sha-256=:LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IcoAQ=:"
    elif route.takes is not None:
        body = {"json": BODIES[route.rule]}
    answer = await client.request(route.method, target, headers=headers, **body)
    return answer.status_code, answer.content, answer.headers


class Tokens:
    """Tokens of each kind, for one data directory."""

    def __init__(self, data_dir):
        with open_issuer(data_dir) as (issuer, store):
            every = {"scopes": EVERY_SCOPE}
            self.ada = issuer.create(subject="ada", **every).token
            self.bob = issuer.create(subject="bob", **every).token
            revoked = issuer.create(subject="ada", **every)
            store.revoke([revoked.record.id])
            self.revoked = revoked.token
            header, claims = forging.parts(self.ada)
            key = KeyRing(data_dir).current(Use.TOKENS)
            self.expired = forging.sign(header, {**claims, "exp": int(time.time()) - 60}, key.secret)
            self.without = {
                scope: issuer.create(subject="ada", scopes=[each for each in Scope if each != scope]).token
                for scope in Scope
            }


@pytest.fixture
async def server(tmp_path, monkeypatch):
    monkeypatch.setattr("cryomamba_server.http.access.authentication.FAILURES", 100_000)
    async with servers.open_test_server(tmp_path / "data", allow_roots=(tmp_path,)) as server:
        yield server


@pytest.fixture
async def client(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
async def tokens(server):
    return await trio.to_thread.run_sync(Tokens, server.settings.data_dir)


@pytest.fixture
async def objects(server, client, tokens, tmp_path):
    """Ids of ada's objects: a job that has completed, and an upload that has begun."""
    engine = server.services.engine
    job = await engine.submit(engines.steps(engines.make_tomogram(tmp_path / "a.npy")), owner="ada")
    await engines.heard(engine, job.id)
    begun = await client.post(
        "/v1/uploads/init",
        json={"filename": "b.mrc", "size": 4096},
        headers={"Authorization": f"Bearer {tokens.ada}"},
    )
    assert (await engine.job(job.id, owner="ada")).artifacts[0].name == PIECES["artifact"]
    return {"job_id": job.id, "upload_id": begun.json()["upload_id"]}


async def test_every_rule_of_the_url_map_is_a_declared_route_and_every_route_a_rule(server):
    app = create_app(server.services)
    rules = {
        ("WEBSOCKET" if rule.websocket else method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or {"GET"}) - {"HEAD"}
    }
    assert rules == {(route.method, route.rule) for route in all_routes()}
    assert len(rules) == len(all_routes())


@pytest.mark.parametrize("route", all_routes(), ids=route_id)
def test_every_route_has_a_scope_or_a_reason_to_have_none(route):
    assert isinstance(route.access, Scope | Guard)
    if route.access is Guard.OPEN:
        assert route.rule in OPEN
        assert not OBJECTS & set(re.findall(r"<\w+:(\w+)>", route.rule))
    assert set(re.findall(r"<(\w+):", route.rule)) <= {"string", "int"}


def guarded():
    return [route for route in all_routes() if route.access is not Guard.OPEN]


async def test_every_guarded_route_refuses_whoever_has_no_token_that_counts(client, tokens, objects):
    wrong = {}
    for route in guarded():
        for token in (None, "nonsense", tokens.expired, tokens.revoked):
            status, body, _ = await ask(client, route, token, objects)
            if status != 401 or json.loads(body)["error"]["code"] != "access/unauthenticated":
                wrong[route.endpoint] = (status, body)
    assert not wrong


async def test_whoever_was_refused_a_websocket_is_not_read_from_again(server, client):
    """Else the next request on the connection is taken for the talk that was refused."""
    for _ in range(2):
        async with client.stream("GET", f"/v1/ws/jobs/{uuid.uuid4()}", headers=HANDSHAKE) as answer:
            assert (answer.status_code, answer.headers["Connection"]) == (401, "close")
    assert (await client.get("/v1/healthz")).status_code == 200


async def test_every_route_refuses_a_token_without_its_scope_and_says_which_it_is(client, tokens, objects):
    wrong = {}
    for route in guarded():
        scope = {Guard.SIGNATURE: Scope.ARTIFACTS_READ, Guard.COOKIE: Scope.JOBS_READ}.get(route.access, route.access)
        status, body, _ = await ask(client, route, tokens.without[scope], objects)
        error = json.loads(body)["error"]
        if (status, error["code"]) != (403, "access/forbidden") or scope not in error["message"]:
            wrong[route.endpoint] = (status, body)
    assert not wrong


async def test_every_object_of_another_looks_as_if_it_did_not_exist(client, tokens, objects):
    nothing = {"job_id": str(uuid.uuid4()), "upload_id": str(uuid.uuid4())}
    seen = 0
    for route in guarded():
        if not OBJECTS & set(re.findall(r"<\w+:(\w+)>", route.rule)):
            continue
        seen += 1
        foreign = await ask(client, route, tokens.bob, objects)
        missing = await ask(client, route, tokens.bob, nothing)
        told = [told_of(answer, ids) for answer, ids in ((foreign, objects), (missing, nothing))]
        assert foreign[0] == 404, (route.endpoint, foreign)
        assert told[0] == told[1], route.endpoint
    assert seen >= 8


def told_of(answer, ids):
    """What an answer tells, with ids and times taken out."""
    status, body, headers = answer
    text = body.decode()
    for name, value in ids.items():
        text = text.replace(value, name)
    kept = {name.lower() for name in headers if isinstance(name, str)} - {"date", "x-request-id"}
    return status, text, kept


async def test_the_owner_is_let_in_everywhere_so_that_the_refusals_are_for_the_token(client, tokens, objects):
    """The control of the tests above: with a good token the same requests get other answers."""
    for route in guarded():
        status, body, _ = await ask(client, route, tokens.ada, objects)
        assert status not in (401, 403), (route.endpoint, body)
        if route.method == "GET" and OBJECTS & set(re.findall(r"<\w+:(\w+)>", route.rule)):
            assert status in (200, 204, 303), (route.endpoint, status, body)


async def test_without_the_gate_every_stranger_is_let_in(tmp_path, monkeypatch):
    """The control of the gate itself: what refuses above is the gate, and nothing else."""
    admit = Gate.admit

    def let_in(self, route, request):
        from attrs import evolve

        return admit(self, evolve(route, access=Guard.OPEN), request)

    monkeypatch.setattr(Gate, "admit", let_in)
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/v1/models")).status_code == 200


async def test_lists_show_ones_own_only(client, tokens, objects):
    for rule, name in (("/v1/jobs", "jobs"), ("/v1/inputs", "files")):
        answers = {
            who: (await client.get(rule, headers={"Authorization": f"Bearer {token}"})).json()[name]
            for who, token in (("ada", tokens.ada), ("bob", tokens.bob))
        }
        assert answers["bob"] == []
        assert name == "files" or [job["job_id"] for job in answers["ada"]] == [objects["job_id"]]


async def test_whoever_may_not_fetch_artifacts_is_given_no_address_to_fetch_them(client, tokens, objects):
    async def urls(token):
        answer = await client.get(f"/v1/jobs/{objects['job_id']}", headers={"Authorization": f"Bearer {token}"})
        return [artifact["url"] for artifact in answer.json()["artifacts"]]

    assert all(await urls(tokens.ada))
    assert not any(await urls(tokens.without[Scope.ARTIFACTS_READ]))

"""How often a token may be used, and how often one may guess."""

import re

import httpx
import jwt
import pytest
import servers
import trio
from engines import SUCCEED, ExecutorPlugin, ScriptedExecutor, steps

from cryomamba_core.errors import RateLimited
from cryomamba_core.wire import to_plain
from cryomamba_server.http.access import authentication, gate
from cryomamba_server.http.access.authentication import _network
from cryomamba_server.http.access.limits import RateLimit
from cryomamba_server.http.access.token_store import TokenStore

ADDRESS = "/v1/models"


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


async def ask(client, token, address=ADDRESS, **values):
    return await client.get(address, headers={"Authorization": f"Bearer {token}"}, **values)


async def test_every_answer_says_what_is_left_and_one_too_many_is_refused(tmp_path):
    async with (
        servers.open_test_server(tmp_path / "data", requests_per_minute=4) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        token, other, narrow = [
            await trio.to_thread.run_sync(lambda values=values: server.token(**values))
            for values in ({}, {"subject": "bob"}, {"scopes": ("metrics:read",)})
        ]
        answers = [await ask(client, token) for _ in range(3)]
        answers.append(await ask(client, token, "/v1/jobs/01a21104-ad68-7467-99c5-53d40c5e4961"))
        answers.append(await ask(client, token))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 429]
        assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"control";q=4;w=60'}
        told = [re.fullmatch(r'"control";r=(\d+);t=(\d+)', answer.headers["RateLimit"]) for answer in answers]
        assert [int(each[1]) for each in told] == [3, 2, 1, 0, 0]
        assert 45 < int(told[-1][2]) <= 60
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 15
        error = answers[-1].json()["error"]
        assert (error["code"], error["retryable"]) == ("access/rate-limited", True)
        assert (await ask(client, other)).status_code == 200  # each token has its own
        refused = await ask(client, narrow)
        assert (refused.status_code, "RateLimit" in refused.headers) == (403, False)


async def test_without_a_limit_nothing_is_counted_or_said(tmp_path):
    async with (
        servers.open_test_server(tmp_path / "data", requests_per_minute=0) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        token = await trio.to_thread.run_sync(server.token)
        answers = [await ask(client, token) for _ in range(70)]
        assert {answer.status_code for answer in answers} == {200}
        assert not [name for name in answers[-1].headers if name.lower().startswith("ratelimit")]


async def test_whoever_guesses_is_refused_but_nobody_else_at_the_same_address(tmp_path, tomogram, monkeypatch):
    monkeypatch.setattr(authentication, "FAILURES", 5)
    async with (
        servers.open_test_server(
            tmp_path / "data", ExecutorPlugin(ScriptedExecutor(SUCCEED)), allow_roots=(tmp_path,)
        ) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        fresh, revoked = [await trio.to_thread.run_sync(server.token) for _ in range(2)]
        headers = {"Authorization": f"Bearer {fresh}"}
        job = (await client.post("/v1/jobs", json=to_plain(steps(tomogram)), headers=headers)).json()
        await client.get(f"/v1/jobs/{job['job_id']}/events", headers=headers)
        [address, *_] = [
            each["url"] for each in (await client.get(f"/v1/jobs/{job['job_id']}", headers=headers)).json()["artifacts"]
        ]
        guesses = [(await ask(client, f"guess-{number}")).status_code for number in range(7)]
        assert guesses == [401] * 5 + [429] * 2
        assert (await ask(client, fresh)).status_code == 200
        assert (await client.get(address)).status_code == 200
        refused = await client.get(address.replace("signature=", "signature=0"))
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 12
        token_id = jwt.decode(revoked, options={"verify_signature": False})["jti"]
        await trio.to_thread.run_sync(TokenStore(server.services.engine.database).revoke, [token_id])
        assert (await ask(client, revoked)).status_code == 429
        assert (await client.get("/v1/healthz", headers={"Authorization": "Bearer guess"})).status_code == 200
        assert (await client.get(ADDRESS)).status_code == 401  # to show nothing is no guess


async def test_without_the_limit_one_could_guess_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(authentication, "FAILURES", 10_000)
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:
        assert {(await ask(client, f"guess-{number}")).status_code for number in range(50)} == {401}


async def test_the_status_page_is_counted_apart_and_may_be_looked_at_often(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "PAGES_PER_MINUTE", 6)  # one more in 10 s, for a busy machine
    async with (
        servers.open_test_server(tmp_path / "data", requests_per_minute=60) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        headers = await trio.to_thread.run_sync(server.headers)
        answers = [await client.get("/pages/status", headers=headers) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
        assert answers[0].headers["RateLimit-Policy"] == '"pages";q=6;w=60'
        assert (await client.get(ADDRESS, headers=headers)).status_code == 200


def test_a_bucket_fills_again_evenly(clock):
    limit = RateLimit("control", quota=60, clock=clock)
    for left in reversed(range(60)):
        assert limit.take("ada").remaining == left
    with pytest.raises(RateLimited) as refused:
        limit.take("ada")
    assert refused.value.retry_after == pytest.approx(1)
    clock.seconds += 0.5
    assert limit.wait("ada") == pytest.approx(0.5)
    clock.seconds += 0.5
    assert limit.take("ada").remaining == 0
    clock.seconds += 3600
    assert limit.take("ada").remaining == 59


def test_who_is_refused_does_not_wait_longer_for_asking(clock):
    limit = RateLimit("control", quota=1, clock=clock)
    limit.take("ada")
    for _ in range(10):
        with pytest.raises(RateLimited):
            limit.take("ada")
    assert limit.wait("ada") == pytest.approx(60)


def test_only_so_many_callers_are_remembered_and_the_quietest_is_forgotten(clock):
    limit = RateLimit("control", quota=2, most=100, clock=clock)
    for number in range(10_000):
        limit.take(f"caller {number}")
        if number % 50 == 0:
            clock.seconds += 1
            limit.wait("ada")
    assert len(limit._buckets) == 100
    limit.take("ada")
    for number in range(99):
        limit.take(f"another {number}")
    assert limit.take("ada").remaining == 0


def test_to_look_at_a_caller_remembers_nobody(clock):
    limit = RateLimit("control", quota=2, clock=clock)
    assert limit.wait("ada") == 0
    assert not limit._buckets


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("<local>", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_failures_are_counted_for_an_address_or_for_the_network_of_one_site(peer, counted):
    assert _network(peer) == counted

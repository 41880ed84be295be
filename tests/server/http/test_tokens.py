"""Which tokens count: those that are signed by us, say everything, have time left, and were not taken back."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import forging
import httpx
import jwt
import pytest
import servers
import trio

from cryomamba_core.errors import InvalidParameter, StorageDamaged, Unauthenticated, UnknownToken
from cryomamba_server.engine.database import Database
from cryomamba_server.http.access import authentication, claims, keys, token_store, tokens
from cryomamba_server.http.access.keys import KeyRing, Use
from cryomamba_server.http.access.token_store import TokenStore
from cryomamba_server.http.access.tokens import create_token, open_issuer
from cryomamba_server.http.routing import Scope

ADDRESS = "/v1/models"


def bearer(token):
    return {"Authorization": f"Bearer {token}".encode()}


def forged(data_dir, good):
    ring = KeyRing(data_dir)
    return forging.forgeries(good, ring.current(Use.TOKENS).secret, ring.current(Use.ADDRESSES))


async def test_every_forged_token_is_refused_with_the_same_words(tmp_path, monkeypatch):
    monkeypatch.setattr(authentication, "FAILURES", 10_000)
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:
        good = await trio.to_thread.run_sync(server.token)
        header, payload = forging.parts(good)
        secret = KeyRing(tmp_path / "data").current(Use.TOKENS).secret
        for token in (good, forging.sign(header, payload, secret)):  # the control: by hand, too, it can be made well
            assert (await client.get(ADDRESS, headers=bearer(token))).status_code == 200
        answers = {}
        for name, token in forged(tmp_path / "data", good).items():
            answer = await client.get(ADDRESS, headers=bearer(token))
            answers[name] = (answer.status_code, answer.json()["error"]["message"], answer.headers["WWW-Authenticate"])
        assert set(answers.values()) == {(401, "the token does not count here", 'Bearer realm="cryomamba"')}, answers


def test_a_verifier_with_the_defaults_of_pyjwt_would_take_some_of_them(tmp_path):
    good = create_token(tmp_path, subject="ada")
    key = KeyRing(tmp_path).current(Use.TOKENS)
    taken = set()
    for name, token in forged(tmp_path, good).items():
        try:
            jwt.decode(token, key.secret, algorithms=["HS256"], audience="cryomamba", leeway=5)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            continue
        taken.add(name)
    assert {"expiry missing", "expiry a text", "issuer another", "audience a list", "id unknown", "oversize"} <= taken


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Basic YWRhOmFkYQ==")],
        [("X-Token", "TOKEN")],
        [("Cookie", "cryomamba_session=TOKEN")],
        [("Authorization", "Bearer TOKEN"), ("Authorization", "Bearer TOKEN")],
    ],
    ids=str,
)
async def test_a_request_without_one_bearer_token_is_asked_for_it(tmp_path, given):
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:
        token = await trio.to_thread.run_sync(server.token)
        headers = [(name, value.replace("TOKEN", token)) for name, value in given]
        answer = await client.get(ADDRESS, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "access/unauthenticated"


async def test_the_scheme_may_be_written_in_any_case_and_the_token_only_in_the_header(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:
        token = await trio.to_thread.run_sync(server.token)
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert (await client.get(ADDRESS, headers={"Authorization": f"{scheme} {token}"})).status_code == 200
        for name in ("token", "access_token"):
            assert (await client.get(ADDRESS, params={name: token})).status_code == 401


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def issuing(data_dir):
    with open_issuer(data_dir) as opened:
        yield opened


def decoded(data_dir, token):
    return claims.decode(token, KeyRing(data_dir))


def test_a_token_says_who_what_and_until_when(data_dir):
    token = create_token(data_dir, subject="ada", scopes=[Scope.JOBS_READ], ttl=timedelta(hours=1))
    found = decoded(data_dir, token)
    assert (found.subject, found.scopes) == ("ada", {Scope.JOBS_READ})
    assert found.expires_at - found.issued_at == timedelta(hours=1)
    assert len(token) < claims.MAX_TOKEN / 8


@pytest.mark.parametrize("subject", ["", " ", "a b", "../ada", "-ada", "ada\n", "a" * 65, "ädä", "a/b"])
def test_a_subject_that_is_no_name_is_refused(data_dir, subject):
    with pytest.raises(InvalidParameter, match="no name"):
        create_token(data_dir, subject=subject)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(days=367)])
def test_a_time_that_no_token_should_live_is_refused(data_dir, ttl):
    with pytest.raises(InvalidParameter, match="live"):
        create_token(data_dir, subject="ada", ttl=ttl)


def test_a_token_needs_a_scope(data_dir):
    with pytest.raises(InvalidParameter, match="nothing"):
        create_token(data_dir, subject="ada", scopes=[])


def test_keys_are_random_long_and_readable_by_their_owner_only(data_dir):
    create_token(data_dir, subject="ada")
    folder = data_dir / "access"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "keys.json").stat().st_mode & 0o777 == 0o600
    ring = KeyRing(data_dir)
    secrets = {ring.current(use).secret for use in Use}
    assert len(secrets) == 2
    assert {len(secret) for secret in secrets} == {32}
    assert b"=" not in repr(ring.current(Use.TOKENS)).encode().partition(b"secret")[2]


def test_keys_that_others_could_read_are_closed_and_said(data_dir, caplog):
    KeyRing(data_dir)
    (data_dir / "access" / "keys.json").chmod(0o644)
    KeyRing(data_dir)
    assert (data_dir / "access" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert "could be read by others" in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-9],
        lambda text: "[]x",
        lambda text: text.replace("HS256", "none"),
        lambda text: json.dumps([{**key, "secret": "c2hvcnQ="} for key in json.loads(text)]),
        lambda text: text.replace('"tokens"', '"everything"'),
    ],
)
def test_keys_that_are_damaged_or_weak_are_not_used(data_dir, spoil):
    KeyRing(data_dir)
    path = data_dir / "access" / "keys.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(StorageDamaged):
        KeyRing(data_dir)


def test_after_a_rotation_old_tokens_count_until_the_last_has_expired(data_dir, issuing, monkeypatch):
    issuer, _ = issuing
    old = issuer.create(subject="ada", ttl=timedelta(hours=1))
    issuer.rotate()
    new = issuer.create(subject="ada", ttl=timedelta(hours=5))
    assert forging.parts(old.token)[0]["kid"] != forging.parts(new.token)[0]["kid"]
    assert decoded(data_dir, old.token).id == old.record.id
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(keys, "now", lambda: later)
    ring = KeyRing(data_dir)
    assert ring.find(Use.TOKENS, old.record.key_id) is None
    assert ring.find(Use.TOKENS, new.record.key_id) is not None
    issuer.rotate()
    ids = {key["id"] for key in json.loads((data_dir / "access" / "keys.json").read_text())}
    assert old.record.key_id not in ids
    assert new.record.key_id in ids


def test_a_key_without_a_token_that_counts_is_forgotten_at_the_next_rotation(data_dir, issuing):
    issuer, store = issuing
    revoked = issuer.create(subject="ada")
    store.revoke([revoked.record.id])
    issuer.rotate()
    issuer.rotate()
    ids = [key["id"] for key in json.loads((data_dir / "access" / "keys.json").read_text()) if key["use"] == "tokens"]
    assert len(ids) == 1


def test_when_keys_are_ended_nothing_counts_that_they_signed(data_dir, issuing):
    issuer, _ = issuing
    old = issuer.create(subject="ada").token
    issuer.end()
    with pytest.raises(Unauthenticated):
        decoded(data_dir, old)
    assert decoded(data_dir, issuer.create(subject="ada").token).subject == "ada"


async def test_what_another_process_takes_back_does_not_count_on_the_next_request(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:

        def make(subject):
            with open_issuer(tmp_path / "data") as (issuer, _):
                return issuer.create(subject=subject)

        async def statuses():
            return [(await client.get(ADDRESS, headers=bearer(each.token))).status_code for each in made]

        made = [await trio.to_thread.run_sync(make, subject) for subject in ("ada", "ada", "bob")]
        assert await statuses() == [200, 200, 200]

        def revoke(*ids):
            database = Database(tmp_path / "data")
            TokenStore(database).revoke(ids)
            database.close()

        await trio.to_thread.run_sync(revoke, made[0].record.id)
        assert await statuses() == [401, 200, 200]

        def act(method):
            with open_issuer(tmp_path / "data") as (issuer, _):
                getattr(issuer, method)()

        await trio.to_thread.run_sync(act, "rotate")
        assert await statuses() == [401, 200, 200]
        made.append(await trio.to_thread.run_sync(make, "eve"))
        assert await statuses() == [401, 200, 200, 200]
        await trio.to_thread.run_sync(act, "end")
        assert await statuses() == [401, 401, 401, 401]


async def test_without_the_look_into_the_table_a_token_that_was_taken_back_would_count(tmp_path, monkeypatch):
    class Forgetful(TokenStore):
        def find(self, token_id):
            from attrs import evolve

            found = super().find(token_id)
            return None if found is None else evolve(found, revoked_at=None)

    monkeypatch.setattr("cryomamba_server.http.access.gate.TokenStore", Forgetful)
    async with servers.open_test_server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as client:

        def make():
            with open_issuer(tmp_path / "data") as (issuer, store):
                made = issuer.create(subject="ada")
                store.revoke([made.record.id])
                return made.token

        token = await trio.to_thread.run_sync(make)
        assert (await client.get(ADDRESS, headers=bearer(token))).status_code == 200


def test_all_tokens_are_taken_back_or_none(issuing):
    issuer, store = issuing
    made = [issuer.create(subject="ada").record.id for _ in range(2)]
    with pytest.raises(UnknownToken):
        store.revoke([made[0], "nobody"])
    assert {record.state for record in store.all()} == {"valid"}
    store.revoke(made)
    first = {record.id: record.revoked_at for record in store.all()}
    store.revoke(made)
    assert {record.id: record.revoked_at for record in store.all()} == first


def test_tokens_are_listed_newest_first_and_forgotten_long_after_they_expired(issuing, monkeypatch):
    issuer, store = issuing
    made = [issuer.create(subject="ada", ttl=timedelta(minutes=1)).record for _ in range(3)]
    assert [record.id for record in store.all()] == [record.id for record in reversed(made)]
    assert all(newer.id > older.id for newer, older in pairwise(store.all()))
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr(token_store, "now", lambda: later)
    monkeypatch.setattr(tokens, "now", lambda: later)
    last = issuer.create(subject="ada").record
    assert [record.id for record in store.all()] == [last.id]

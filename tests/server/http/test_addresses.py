"""Signed addresses: who has one may fetch one artifact for some minutes, and nothing else ever."""

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import engines
import httpx
import pytest
import servers
import sqlalchemy as sa
import trio
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import InvalidParameter, Unauthenticated
from cryomamba_server.engine.schema import jobs
from cryomamba_server.http.access import addresses
from cryomamba_server.http.access.addresses import Addresses, redacted
from cryomamba_server.http.access.keys import KeyRing, Use
from cryomamba_server.http.access.tokens import open_issuer

ARTIFACT = Artifact(name="mask.mrc", media_type="application/octet-stream", size=1, sha256="ab" * 32)
REFUSAL = {
    "error": {
        "code": "access/unauthenticated",
        "message": "the signature of this address does not count",
        "hint": "ask for the job again: it has new ones",
        "retryable": False,
    }
}


@pytest.fixture(autouse=True)
def workers_find_the_strangers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return KeyRing(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signing(ring):
    return Addresses(ring, seconds=600)


def check(signing, address, method="GET"):
    path, _, query = address.partition("?")
    *_, job_id, name = path.split("/")
    return signing.check(method, unquote(job_id), unquote(name), query)


def refused(signing, address, method="GET"):
    with pytest.raises(Unauthenticated) as error:
        check(signing, address, method)
    return error.value.message == REFUSAL["error"]["message"]


def changed(address, **values):
    path, _, query = address.partition("?")
    return f"{path}?{urlencode({**dict(parse_qsl(query)), **values})}"


def test_an_address_grants_what_it_was_signed_for(signing):
    address, expires_at = signing.sign("job", ARTIFACT, "ada")
    assert timedelta(seconds=598) < expires_at - datetime.now(UTC) <= timedelta(seconds=600)
    for method in ("GET", "HEAD"):
        grant = check(signing, address, method)
        assert (grant.owner, grant.sha256) == ("ada", ARTIFACT.sha256)


@given(name=st.text(min_size=1, max_size=40), owner=st.text(min_size=1, max_size=40))
def test_any_name_of_an_artifact_and_of_an_owner_survives_the_address(ring, name, owner):
    if any(0xD800 <= ord(letter) < 0xE000 for letter in owner):
        return
    try:
        artifact = evolve(ARTIFACT, name=name)
    except InvalidParameter:
        return
    signing = Addresses(ring, seconds=600)
    address, _ = signing.sign("job", artifact, owner)
    assert address.isascii()
    assert check(signing, address).owner == owner


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "get", ""])
def test_an_address_is_for_fetching_only(signing, method):
    assert refused(signing, signing.sign("job", ARTIFACT, "ada")[0], method)


def test_a_change_in_any_field_is_refused(signing):
    address, expires_at = signing.sign("job", ARTIFACT, "ada")
    signature = dict(parse_qsl(urlsplit(address).query))["signature"]
    for tampered in (
        address.replace("/job/", "/another/"),
        address.replace("mask.mrc", "mask.nii.gz"),
        changed(address, expires=str(int(expires_at.timestamp()) + 1)),
        changed(address, expires=f"0{int(expires_at.timestamp())}"),
        changed(address, expires="soon"),
        changed(address, owner="bob"),
        changed(address, sha256="cd" * 32),
        changed(address, key="0123456789abcdef"),
        changed(address, signature=""),
        changed(address, signature=signature[:-1]),
        changed(address, signature=signature.upper()),
        changed(address, signature=f"{'0' if signature[0] != '0' else '1'}{signature[1:]}"),
        changed(address, signature="é" * 64),
    ):
        assert refused(signing, tampered), tampered
    check(signing, changed(address))  # the control: to write it anew does no harm


def test_parameters_that_are_missing_doubled_or_unknown_are_refused(signing):
    address, _ = signing.sign("job", ARTIFACT, "ada")
    path, _, query = address.partition("?")
    pairs = query.split("&")
    for number, pair in enumerate(pairs):
        assert refused(signing, f"{path}?{'&'.join(pairs[:number] + pairs[number + 1 :])}")
        assert refused(signing, f"{path}?{'&'.join([*pairs, pair])}")
        assert refused(signing, f"{path}?{'&'.join(pairs).replace(pair, pair.partition('=')[0])}")
    for more in ("&download=1", "&", "&&", ";a=b", "&%ff=%ff", f"&a={'x' * 5000}"):
        assert refused(signing, address + more)


def test_an_address_that_has_expired_or_would_last_too_long_is_refused(signing, ring, monkeypatch):
    at = datetime.now(UTC)
    for shift, counts in ((0, True), (-599, True), (-601, False), (301, False)):
        with monkeypatch.context() as patch:
            patch.setattr(addresses, "now", lambda shift=shift: at + timedelta(seconds=shift))
            address, _ = signing.sign("job", ARTIFACT, "ada")
        with monkeypatch.context() as patch:
            patch.setattr(addresses, "now", lambda: at)
            if counts:
                check(signing, address)
            else:
                assert refused(signing, address), shift


def test_no_setting_makes_an_address_last_longer_than_a_quarter_of_an_hour(ring):
    _, expires_at = Addresses(ring, seconds=86400).sign("job", ARTIFACT, "ada")
    assert expires_at - datetime.now(UTC) <= timedelta(minutes=15)


def test_a_key_of_tokens_signs_no_address(ring, signing):
    address, _ = signing.sign("job", ARTIFACT, "ada")
    assert ring.current(Use.ADDRESSES).id != ring.current(Use.TOKENS).id
    assert refused(signing, changed(address, key=ring.current(Use.TOKENS).id))


def test_addresses_outlive_a_rotation_but_not_the_end_of_their_key(tmp_path):
    with open_issuer(tmp_path) as (issuer, _):
        server = KeyRing(tmp_path)
        signing = Addresses(server, seconds=600)
        address, _ = signing.sign("job", ARTIFACT, "ada")
        issuer.rotate()
        server.refresh()
        assert check(signing, address).owner == "ada"
        issuer.end()
        server.refresh()
        assert refused(signing, address)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/v1/jobs", "/v1/jobs"),
        ("/v1/jobs?limit=5&before=x", "/v1/jobs?limit=…&before=…"),
        ("/v1/files/a/b?signature=SECRET&expires=SECRET", "/v1/files/a/b?signature=…&expires=…"),
        ("/v1/x?SECRET", "/v1/x?…"),
        ("/v1/x?=SECRET&a", "/v1/x?=…&…"),
        ("/v1/x?", "/v1/x?"),
    ],
)
def test_what_a_log_shows_of_an_address_is_no_secret(target, shown):
    assert redacted(target) == shown


async def finished(server, owner, tomogram):
    """A job that has completed, and the address and digest of each artifact."""
    engine = server.services.engine
    record = await engine.submit(engines.steps(tomogram), owner=owner)
    await engines.heard(engine, record.id)
    return await engine.job(record.id, owner=owner)


async def test_whoever_has_the_address_may_fetch_and_a_changed_one_is_refused_by_the_server(tmp_path):
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    async with (
        servers.open_test_server(tmp_path / "data", allow_roots=(tmp_path,)) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        record = await finished(server, "ada", tomogram)
        other = await finished(server, "bob", tomogram)
        token = await trio.to_thread.run_sync(server.token)
        shown = await client.get(f"/v1/jobs/{record.id}", headers={"Authorization": f"Bearer {token}"})
        urls = {each["name"]: each["url"] for each in shown.json()["artifacts"]}
        digests = {artifact.name: artifact.sha256 for artifact in record.artifacts}
        for name, url in urls.items():
            answer = await client.get(url)
            assert (answer.status_code, hashlib.sha256(answer.content).hexdigest()) == (200, digests[name])
            assert "no-store" in answer.headers["Cache-Control"]
            assert (await client.head(url)).status_code == 200
        first, second = list(urls.values())[:2]
        names = list(urls)
        for address in (
            first.replace(record.id, other.id),
            first.replace(quote(names[0]), quote(names[1])),
            changed(first, signature=dict(parse_qsl(urlsplit(second).query))["signature"]),
            changed(first, owner="bob"),
            f"{first}&expires=1",
            first.partition("?")[0] + "?",
            first.partition("?")[0],
        ):
            answer = await client.get(address)
            assert answer.status_code == 401, address
            if "?" in address.rstrip("?"):
                assert answer.json() == REFUSAL
        # A token next to a bad signature does not help, and next to a good one does no harm.
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.get(changed(first, owner="bob"), headers=headers)).status_code == 401
        assert (await client.get(first, headers={"Authorization": "Bearer nonsense"})).status_code == 200
        assert (await client.get(first.partition("?")[0], headers=headers)).status_code == 200


async def test_the_address_of_a_job_that_is_gone_is_404_and_of_other_content_is_refused(tmp_path):
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    async with (
        servers.open_test_server(tmp_path / "data", allow_roots=(tmp_path,)) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        record = await finished(server, "ada", tomogram)
        artifact = record.artifacts[0]
        sign = server.services.gate.addresses.sign
        address, _ = sign(record.id, artifact, "ada")
        assert (await client.get(address)).status_code == 200
        answer = await client.get(sign(record.id, evolve(artifact, sha256="cd" * 32), "ada")[0])
        assert (answer.status_code, answer.json()) == (401, REFUSAL)
        assert (await client.get(sign(record.id, artifact, "bob")[0])).status_code == 404

        def forget():
            with server.services.engine.database.writing() as connection:
                connection.execute(sa.delete(jobs).where(jobs.c.id == record.id))

        await server.services.engine.ledger.call(forget)
        answer = await client.get(address)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job/unknown")

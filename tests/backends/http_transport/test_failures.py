"""What the client says of servers that are not there, are something else, or want to be left alone."""

import pytest
import servers
import trio
from scripted import answer, good, refused, scripted

from cryomamba_backends.http_transport.patience import Patience
from cryomamba_core.errors import (
    BrokenProtocol,
    Forbidden,
    JobFailed,
    RateLimited,
    ServerStopping,
    ServerUnreachable,
    StorageFull,
)


async def test_an_address_where_nobody_listens_is_unreachable_soon(session_with):
    with trio.socket.socket() as socket:
        await socket.bind(("127.0.0.1", 0))
        port = socket.getsockname()[1]
    async with session_with(f"http://127.0.0.1:{port}") as session:
        with pytest.raises(ServerUnreachable) as caught:
            await session.jobs()
    assert caught.value.message == f"127.0.0.1:{port} cannot be reached: connection refused"
    assert caught.value.retryable
    assert "check the address" in caught.value.hint


async def test_whoever_forgets_the_s_of_https_is_told_of_it(tmp_path, session_with):
    async with servers.open_test_server(tmp_path / "data", self_signed=True) as server:
        plain = server.url.replace("https:", "http:")
        async with session_with(plain, server.token(), patience=Patience(first=1)) as session:
            with pytest.raises((BrokenProtocol, ServerUnreachable)) as caught:
                await session.jobs()
    assert "does the address begin with https:?" in caught.value.hint


async def test_a_server_that_was_heard_before_is_not_taken_for_another_kind(session_with):
    async with trio.open_nursery() as nursery:
        given = [good()]

        async def answer_once(stream):
            await stream.receive_some()
            if given:
                await stream.send_all(given.pop())
            await stream.aclose()

        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(answer_once, 0, host="127.0.0.1", task_status=task_status)
        )
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with session_with(url, patience=Patience(control=1)) as session:
            assert await session.jobs() == []
            with pytest.raises(ServerUnreachable) as caught:
                await session.jobs()
        nursery.cancel_scope.cancel()
    assert "https" not in caught.value.hint


async def test_a_name_that_nobody_has_is_unreachable(session_with):
    async with session_with("https://no-such-host.invalid") as session:
        with pytest.raises(ServerUnreachable, match=r"no-such-host\.invalid"):
            await session.jobs()


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\nInvalid SSH identification string.\r\n\r\n",
        answer(200, b"<html>hello</html>", Content_Type="text/html"),
        answer(404, b"<html>nothing here</html>", Content_Type="text/html"),
        answer(200, {"jobs": "many"}, Content_Type="application/json"),
        answer(200, b"[" * 100_000, Content_Type="application/json"),
        answer(418, {"error": "a string"}, Content_Type="application/json"),
    ],
)
async def test_what_no_server_of_ours_says_is_a_broken_protocol(session_with, said):
    async with scripted(said) as (url, _), session_with(url) as session:
        with pytest.raises(BrokenProtocol) as caught:
            await session.jobs()
    assert len(caught.value.message) < 1000


async def test_a_redirection_is_not_followed_with_the_token(session_with):
    async with scripted(good()) as (elsewhere, asked_there):
        async with scripted(answer(307, b"", Location=elsewhere)) as (url, _), session_with(url, "token") as session:
            with pytest.raises(BrokenProtocol, match="sends on to"):
                await session.jobs()
        assert asked_there == []


@pytest.mark.parametrize(
    "first",
    [
        refused(503, "server/stopping", retryable=True, Retry_After="0"),
        refused(429, "access/rate-limited", retryable=True, Retry_After="0"),
        answer(502, b"<html>bad gateway</html>", Content_Type="text/html"),
        answer(504, b""),
    ],
)
async def test_a_server_that_says_later_is_asked_again(session_with, first):
    async with scripted(first, first, good()) as (url, asked), session_with(url) as session:
        assert await session.jobs() == []
        assert len(asked) == 3


async def test_the_pause_is_as_long_as_the_server_asks_for(session_with, autojump_clock):
    from cryomamba_backends.http_transport.patience import Attempts

    begun = trio.current_time()
    await Attempts(60, rate_limited=60).pause(ServerStopping("later"), at_least=7.0)
    assert trio.current_time() - begun >= 7


async def test_patience_has_an_end_which_is_longer_where_the_server_only_wants_fewer_requests(autojump_clock):
    from cryomamba_backends.http_transport.patience import Attempts

    for error, limit in ((ServerStopping("later"), 30), (RateLimited("later"), 300)):
        begun, attempts = trio.current_time(), Attempts(30, rate_limited=300)
        with pytest.raises(type(error)):
            await exhaust(attempts, error)
        assert limit / 2 < trio.current_time() - begun <= limit


async def exhaust(attempts, error):
    while True:
        await attempts.pause(error)


async def test_pauses_grow_and_differ_between_clients(autojump_clock):
    from cryomamba_backends.http_transport.patience import CAP, Attempts

    async def pauses():
        attempts, found = Attempts(10_000, rate_limited=0), []
        for _ in range(12):
            begun = trio.current_time()
            await attempts.pause(ServerStopping("later"))
            found.append(trio.current_time() - begun)
        return found

    first, second = await pauses(), await pauses()
    assert first != second
    assert max(first[:3]) <= 1.0 < max(first)
    assert max(first) <= CAP


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (refused(403, "access/forbidden"), Forbidden),
        (refused(507, "storage/full", retryable=True), StorageFull),
        (refused(500, "internal/fault"), JobFailed),
        (answer(500, b"<html>a proxy's own trouble</html>"), ServerUnreachable),
    ],
)
async def test_a_refusal_is_raised_as_what_it_is_and_not_repeated(session_with, said, error):
    async with scripted(said) as (url, asked), session_with(url) as session:
        with pytest.raises(error) as caught:
            await session.jobs()
    assert b"error" not in said or (caught.value.message, caught.value.hint) == ("no", "later")
    assert len(asked) == 1


async def test_a_job_is_submitted_with_one_key_however_often_it_is_sent(session_with):
    from cryomamba_core.jobs import JobConfig, Source

    later = refused(503, "server/stopping", retryable=True, Retry_After="0")
    flying = refused(409, "job/in-flight", retryable=True)
    async with scripted(later, flying, refused(403, "access/forbidden")) as (url, asked), session_with(url) as session:
        with pytest.raises(Forbidden):
            await session.submit(JobConfig(source=Source(file_id="f")))
    keys = [line for request in asked for line in request.split(b"\r\n") if line.lower().startswith(b"idempotency-key")]
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_a_retry_that_may_have_arrived_is_not_asked_for_twice(session_with):
    asked = []

    async def take_and_cut(stream):
        asked.append(await stream.receive_some())
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(take_and_cut, 0, host="127.0.0.1", task_status=task_status)
        )
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with session_with(url) as session:
            with pytest.raises(ServerUnreachable):
                await session.retry("00000000-0000-7000-8000-000000000000")
        assert len(asked) == 1
        async with session_with(url, patience=Patience(first=3)) as session:
            with pytest.raises(ServerUnreachable):
                await session.job("00000000-0000-7000-8000-000000000000")
        assert len(asked) > 2
        nursery.cancel_scope.cancel()

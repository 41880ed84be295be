"""The window's connection: made, watched, lost, made again, refused."""

from contextlib import aclosing

import engines
import pytest
import servers
import trio
from proxies import open_proxy

from cryomamba_core.credentials import CredentialStore, default_file
from cryomamba_core.errors import ServerUnreachable
from cryomamba_core.events import Completed
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.known_servers import known_servers
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.desk.proofs import address_of, is_local
from cryomamba_gui.desk.watching import Pace

APART, CONNECTING, CONNECTED, WAITING, REFUSED = LinkState


def states_of(link):
    """The states that a link goes through from now on."""
    states = [link.state]

    def hear():
        if link.state is not states[-1]:
            states.append(link.state)

    link.changed.connect(hear)
    return states


def calls_of(journal, what):
    return [entry for entry in journal.entries if entry.kind == "call" and entry.text.startswith(what)]


async def test_a_server_is_connected_with_in_the_background(open_link, open_server, until, history):
    async with open_server() as server, open_link() as link:
        states = states_of(link)
        link.connect(server.url.upper().replace("HTTP:", "http:") + "/", Credentials(token=server.token()))
        assert (link.state, link.url, link.session, link.info) == (CONNECTING, server.url, None, None)
        await until(link.changed, lambda: link.connected)
        assert link.info.runners == ("steps",)
        assert [model.name for model in link.models] == ["steps"]
        assert await link.session.jobs() == []
        assert (link.error, link.local, history.engine) == (None, False, server.url)
        assert states == [APART, CONNECTING, CONNECTED]
    assert (link.state, link.session) == (APART, None)


async def test_what_has_worked_is_kept_and_needs_not_be_said_again(open_link, open_server, until, journal):
    async with open_server() as server:
        proof = Credentials(token=server.token())
        async with open_link() as link:
            link.connect(server.url, proof)
            await until(journal.added, lambda: "is kept in" in journal.entries[-1].text)
        assert CredentialStore().find(server.url) == proof
        assert known_servers() == [server.url]
        async with open_link() as link:
            link.connect(server.url)
            await until(link.changed, lambda: link.connected)
        assert proof.token not in "".join((repr(journal.entries), journal.report(), repr(vars(link))))


async def test_nothing_is_remembered_of_what_need_not_be(open_link, open_server, until, history):
    async with open_server() as server, open_link() as link:
        link.connect(server.url, Credentials(token=server.token()), remember=False)
        await until(link.changed, lambda: link.connected)
        await link.session.server_info()
    assert history.engine is None
    assert known_servers() == []
    assert not default_file().exists()


async def test_the_environment_may_say_the_token_which_is_not_kept(open_link, open_server, until, monkeypatch):
    async with open_server() as server, open_link() as link:
        monkeypatch.setenv("CRYOMAMBA_TOKEN", server.token())
        link.connect(server.url)
        await until(link.changed, lambda: link.connected)
        assert CredentialStore().find(server.url) is None


async def test_a_token_that_is_none_is_refused_with_a_way_out_and_not_kept(open_link, open_server, until, troubles):
    async with open_server() as server, open_link() as link:
        link.connect(server.url, Credentials(token="nonsense"))
        await until(link.changed, lambda: link.state is REFUSED)
        assert link.error.code == "access/unauthenticated"
        assert link.error.hint
        assert (link.session, link.info) == (None, None)
        assert CredentialStore().find(server.url) is None
        link.connect(server.url, Credentials(token=server.token()))
        assert link.error is None
        await until(link.changed, lambda: link.connected)
    assert troubles.items == ()


async def test_a_token_that_expires_ends_the_connection_with_a_way_out(open_link, open_server, until):
    async with open_server() as server, open_link() as link:
        link.connect(server.url, Credentials(token=server.token(ttl=2)))
        await until(link.changed, lambda: link.connected)
        session = link.session
        await until(link.changed, lambda: link.state is REFUSED)
        assert link.error.code == "access/unauthenticated"
        assert link.error.hint
        with pytest.raises(ServerUnreachable):
            await session.jobs()


async def test_trying_again_after_a_refusal_is_connecting_anew(open_link, open_server, until):
    async with open_server() as server, open_link() as link:
        link.connect(server.url)
        await until(link.changed, lambda: link.state is REFUSED)
        CredentialStore().keep(server.url, Credentials(token=server.token()))
        link.retry_now()
        await until(link.changed, lambda: link.connected)


async def test_the_certificate_of_a_stranger_is_shown_and_then_remembered(open_link, open_server, until, journal):
    async with open_server(self_signed=True) as server:
        async with open_link() as link:
            link.connect(server.url, Credentials(token=server.token()))
            await until(link.changed, lambda: link.state is REFUSED)
            assert (link.strange_certificate, link.other_certificate) == (server.fingerprint, None)
            assert link.error.code == "server/untrusted"
            link.connect(server.url, Credentials(token=server.token(), fingerprint=link.strange_certificate))
            assert link.strange_certificate is None
            await until(journal.added, lambda: "is kept in" in journal.entries[-1].text)
        assert CredentialStore().find(server.url).fingerprint == server.fingerprint
        async with open_link() as link:  # another token, and the certificate is still known
            link.connect(server.url, Credentials(token=server.token("bob")))
            await until(link.changed, lambda: link.connected)


async def test_another_certificate_than_the_pinned_one_is_told_apart(open_link, open_server, until):
    async with open_server(self_signed=True) as server, open_link() as link:
        CredentialStore().keep(server.url, Credentials(token=server.token(), fingerprint="ab" * 32))
        link.connect(server.url)
        await until(link.changed, lambda: link.state is REFUSED)
        assert (link.strange_certificate, link.other_certificate) == (None, server.fingerprint)
        assert "somebody may be listening in" in link.error.hint


async def test_a_token_does_not_go_unencrypted_to_another_computer(open_link, until):
    async with open_link() as link:
        link.connect("http://gpu7:8765", Credentials(token="the-token"))
        await until(link.changed, lambda: link.state is REFUSED)
        assert link.error.code == "server/untrusted"
        assert "unencrypted to gpu7" in link.error.message
        assert link.strange_certificate is None


@pytest.mark.parametrize(
    ("url", "words"),
    [("gpu7:8765", "do you mean https://gpu7:8765"), ("https://", "https://HOST:PORT"), ("", "addresses start with")],
)
async def test_what_is_no_address_is_refused_with_one_that_may_be_meant(open_link, until, url, words):
    async with open_link() as link:
        link.connect(url)
        await until(link.changed, lambda: link.state is REFUSED)
        assert words in link.error.hint


async def test_a_server_that_is_killed_is_waited_for_in_the_same_session(open_link, server_process, until, journal):
    async with open_link() as link:
        link.connect(server_process.url, Credentials(token=server_process.token()))
        await until(link.changed, lambda: link.connected)
        session, asked = link.session, len(calls_of(journal, "models"))
        await trio.to_thread.run_sync(server_process.kill)
        await until(link.changed, lambda: link.state is WAITING)
        assert link.error.code == "server/unreachable"
        assert link.session is session
        await trio.to_thread.run_sync(server_process.restart)
        link.retry_now()
        await until(link.changed, lambda: link.connected)
        assert (link.session, link.error) == (session, None)
        assert await session.jobs() == []
        await until(journal.added, lambda: len(calls_of(journal, "models")) > asked)


async def test_a_server_that_comes_later_is_found(open_link, server_process, until):
    token, url = server_process.token(), server_process.url
    server_process.kill()
    async with open_link() as link:
        states = states_of(link)
        link.connect(url, Credentials(token=token))
        await until(link.changed, lambda: link.state is WAITING)
        assert link.session is None
        await trio.to_thread.run_sync(server_process.restart)
        await until(link.changed, lambda: link.connected)
        assert states == [APART, CONNECTING, WAITING, CONNECTED]


async def test_a_line_that_is_cut_while_events_are_heard_is_noticed_at_once(
    open_link, open_server, until, gate, tomogram
):
    sleepy = Pace(ping=3600, answer=20, first_pause=0.05, longest_pause=0.2)
    async with open_server() as server, open_proxy(server.url) as proxy, open_link(sleepy) as link:
        link.connect(proxy.url, Credentials(token=server.token()))
        await until(link.changed, lambda: link.connected)
        sent = await link.session.upload(tomogram)
        config = JobConfig(source=Source(file_id=sent.id), runner="steps", params={"gate": str(gate)})
        job = await link.session.submit(config)
        states, heard = states_of(link), []

        async def listen():
            async with aclosing(link.session.events(job.id)) as events:
                async for event in events:
                    heard.append(event)  # noqa: PERF401  # it is looked at meanwhile

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await proxy.until(lambda: heard)
            proxy.refusing = True
            proxy.cut_all()
            await until(link.changed, lambda: link.state is WAITING)
            proxy.refusing = False
            await until(link.changed, lambda: link.connected)
            engines.open_gate(gate)
        assert isinstance(heard[-1], Completed)
        assert states == [CONNECTED, WAITING, CONNECTED]


async def test_a_server_that_falls_silent_is_noticed(open_link, open_server, until):
    pace = Pace(ping=0.1, answer=0.5, first_pause=0.05, longest_pause=0.2)
    async with open_server() as server, open_proxy(server.url) as proxy, open_link(pace) as link:
        link.connect(proxy.url, Credentials(token=server.token()))
        await until(link.changed, lambda: link.connected)
        proxy.fail("stall", up=False)
        await until(link.changed, lambda: link.state is WAITING)
        assert "does not answer" in link.error.message
        await until(link.changed, lambda: link.connected)


async def test_it_is_known_when_a_silent_server_is_asked_again(open_link, open_server, until):
    pace = Pace(ping=0.1, answer=0.5, first_pause=3600, longest_pause=3600)
    async with open_server() as server, open_proxy(server.url) as proxy, open_link(pace) as link:
        link.connect(proxy.url, Credentials(token=server.token()))
        await until(link.changed, lambda: link.connected)
        assert link.seconds_to_next_try is None
        proxy.fail("stall", up=False)
        await until(link.changed, lambda: link.state is WAITING)
        assert 1700 < link.seconds_to_next_try <= 3600
        link.retry_now()
        await until(link.changed, lambda: link.connected)
        assert link.seconds_to_next_try is None


async def test_a_server_that_wants_fewer_requests_is_not_lost(open_link, open_server, until):
    async with open_server(requests_per_minute=30) as server, open_link(Pace(ping=3600)) as link:
        states, errors = states_of(link), []
        link.changed.connect(lambda: errors.append(link.error))
        link.connect(server.url, Credentials(token=server.token()))
        await until(link.changed, lambda: link.connected)
        session = link.session
        async with trio.open_nursery() as nursery:

            async def ask():
                while True:
                    await session.jobs()

            for _ in range(10):
                nursery.start_soon(ask)
            await until(link.changed, lambda: link.error is not None)
            assert link.error.code == "access/rate-limited"
            nursery.cancel_scope.cancel()
        await until(link.changed, lambda: link.error is None)
        assert states == [APART, CONNECTING, CONNECTED]


async def test_leaving_ends_what_is_being_asked(open_link, open_server, until):
    async with open_server() as server, open_proxy(server.url) as proxy, open_link(Pace(ping=3600)) as link:
        link.connect(proxy.url, Credentials(token=server.token()))
        await until(link.changed, lambda: link.connected)
        session = link.session
        stall = proxy.fail("stall", up=False)
        raised = []

        async def ask():
            with pytest.raises(ServerUnreachable) as caught:
                await session.jobs()
            raised.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await proxy.until(lambda: stall.struck)
            link.disconnect()
            assert (link.state, link.url, link.session, link.models) == (APART, None, None, ())
        assert raised
        assert raised[0].hint


async def test_another_server_takes_the_place_of_the_first(open_link, open_server, tmp_path, until, history):
    async with open_server() as one, servers.open_test_server(tmp_path / "other") as two, open_link() as link:
        link.connect(one.url, Credentials(token=one.token()))
        await until(link.changed, lambda: link.connected)
        first = link.session
        link.connect(two.url, Credentials(token=two.token()))
        assert link.session is None
        await until(link.changed, lambda: link.connected)
        assert link.session is not first
        assert (link.url, history.engine) == (two.url, two.url)


async def test_who_changes_his_mind_at_once_gets_what_he_wanted_last(open_link, open_server, until):
    async with open_server() as server, open_link() as link:
        for _ in range(3):
            link.connect("http://127.0.0.1:9", Credentials(token="t"))
            link.disconnect()
            link.connect(server.url, Credentials(token=server.token()))
        states = states_of(link)
        await until(link.changed, lambda: link.connected)
        assert states == [CONNECTING, CONNECTED]


@pytest.mark.parametrize("url", ["local:", "local", "LOCAL:", " local:// "])
async def test_this_computer_is_an_engine_like_any_other(open_link, until, history, url):
    async with open_link() as link:
        link.connect(url)
        assert (link.url, link.local) == ("local:", True)
        await until(link.changed, lambda: link.connected)
        assert link.info.shares_files
        assert "steps" in link.info.runners
        assert await link.session.jobs() == []
    assert history.engine == "local:"
    assert known_servers() == []


async def test_what_this_computer_lacks_is_said_with_how_to_install_it(open_link, until, monkeypatch):
    monkeypatch.setattr("cryomamba_server.local.transport.NEEDED", ("no_such_package",))
    async with open_link() as link:
        link.connect("local:")
        await until(link.changed, lambda: link.state is REFUSED)
        assert link.error.code == "plugin/unavailable"
        assert "no_such_package" in link.error.message
        assert "pip install 'cryomamba[server]'" in link.error.hint


async def test_a_data_directory_that_cannot_be_used_is_refused_in_words(open_link, until, settings):
    settings.data_dir.write_text("a file")
    async with open_link() as link:
        link.connect("local:")
        await until(link.changed, lambda: link.state is REFUSED)
        assert link.error.code == "storage/data-directory"
        assert link.error.hint


async def test_an_error_of_a_transport_is_a_trouble_and_a_refusal(open_link, until, host, troubles, monkeypatch):
    def broken(self, url, credentials):
        raise ZeroDivisionError("one by nought")

    monkeypatch.setattr(type(host.transport_for("http:")), "open", broken)
    async with open_link() as link:
        link.connect("http://localhost:1")
        await until(link.changed, lambda: link.state is REFUSED)
        assert link.error.code == "internal/fault"
    [trouble] = troubles.items
    assert "ZeroDivisionError" in trouble.details


async def test_a_listener_that_raises_does_not_end_the_connection(open_link, open_server, until, troubles):
    async with open_server() as server, open_link() as link:

        def broken():
            raise ZeroDivisionError("one by nought")

        link.changed.connect(broken)
        link.connect(server.url, Credentials(token=server.token()))
        await until(troubles.changed, lambda: link.connected)
        link.changed.disconnect(broken)
        await link.session.jobs()
    assert {trouble.error.message for trouble in troubles.items} == {"ZeroDivisionError: one by nought"}


async def test_a_token_that_cannot_be_kept_is_a_trouble_and_no_more(open_link, open_server, until, troubles):
    default_file().parent.parent.mkdir(parents=True, exist_ok=True)
    default_file().parent.write_text("a file")
    async with open_server() as server, open_link() as link:
        link.connect(server.url, Credentials(token=server.token()))
        await until(troubles.changed, lambda: troubles.items)
        assert link.connected
    [trouble] = troubles.items
    assert trouble.error.code == "storage/error"
    assert "CRYOMAMBA_TOKEN" in trouble.error.hint
    assert trouble.what == f"keeping the token for {server.url}"


def test_addresses_have_one_form():
    assert address_of("HTTPS://GPU7:443/") == "https://gpu7"
    assert address_of(" gpu7 ") == "gpu7"
    assert is_local("Local:/")
    assert not is_local("localhost:8765")

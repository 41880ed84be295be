"""Whether the server is alive and ready, what it is, and what it has for its callers."""

import json
import urllib.error
import urllib.request

import engines
import pytest
import servers
import trio

from cryomamba_core.errors import PluginUnavailable
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import ServerInfo
from cryomamba_core.protocol.server import InputPage, ModelList
from cryomamba_core.wire import from_plain
from cryomamba_server.http import health


def _fetch(server, path, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers)) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


async def ask(server, path, **token):
    return await trio.to_thread.run_sync(_fetch, server, path, server.headers(**token))


async def ask_as_nobody(server, path):
    return await trio.to_thread.run_sync(_fetch, server, path, {})


async def test_a_server_that_is_well_says_so_to_everybody(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        for path in ("/v1/healthz", "/v1/readyz"):
            status, _, body = await ask_as_nobody(server, path)
            assert (status, body) == (200, {"status": "ok"})
        assert not list(server.settings.data_dir.glob(".ready-*"))


def damaged_store(server, monkeypatch):
    store = server.settings.data_dir / "cryomamba.sqlite"
    store.write_bytes(b"not a database" * 1000)


def full_disk(server, monkeypatch):
    monkeypatch.setattr(health, "LEAST_BYTES", 1 << 60)


def disk_gone(server, monkeypatch):
    server.settings.data_dir.rename(server.settings.data_dir.with_name("elsewhere"))


def stalled_disk(server, monkeypatch):
    monkeypatch.setattr(health, "PATIENCE", 0.0)


def no_device(server, monkeypatch):
    server.services.engine.devices = ()


@pytest.mark.parametrize(
    "broken",
    [damaged_store, full_disk, disk_gone, stalled_disk, no_device],
    ids=lambda each: each.__name__,
)
async def test_a_server_that_cannot_work_is_alive_but_not_ready(tmp_path, monkeypatch, broken):
    async with servers.open_test_server(tmp_path / "data") as server:
        broken(server, monkeypatch)
        status, headers, body = await ask_as_nobody(server, "/v1/readyz")
        assert (status, body["error"]["code"]) == (503, "server/not-ready")
        assert body["error"]["hint"]
        assert body["error"]["retryable"]
        assert int(headers["Retry-After"]) > 0
        assert (await ask_as_nobody(server, "/v1/healthz"))[0] == 200


async def test_a_server_that_is_about_to_stop_is_not_ready(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        server.services.stopping.set()
        status, _, body = await ask_as_nobody(server, "/v1/readyz")
        assert (status, body["error"]["code"]) == (503, "server/stopping")


class Faulty:
    """A plugin that cannot be loaded."""

    @hookimpl
    def cryomamba_register_runners(self, register):
        raise PluginUnavailable("it needs what is not there")


async def test_the_server_tells_what_it_is_and_which_plugins_failed(tmp_path):
    settings = engines.make_settings(tmp_path / "data")
    async with servers.open_test_server(tmp_path / "data", part_size=1 << 20, parallel_parts=3) as server:
        server.services.host.register(Faulty(), name="faulty", distribution="somebody", version="3.1")
        _, _, body = await ask(server, "/v1/server/info", scopes=("jobs:read",))
        info = from_plain(body, ServerInfo)
        assert (info.api_version, info.devices, info.shares_files) == (1, settings.devices, False)
        assert (info.runners, info.exporters) == (("steps",), ("npy",))
        assert (info.limits.part_size, info.limits.parallel_parts, info.limits.running_jobs) == (1 << 20, 3, 1)
        failed = {plugin.name: plugin for plugin in info.plugins}["faulty"]
        assert (failed.distribution, failed.version, failed.provides) == ("somebody", "3.1", {})
        assert "what is not there" in failed.error
        assert any("faulty" in problem for problem in info.problems)


async def test_models_are_listed(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        _, _, body = await ask(server, "/v1/models")
        assert [model.name for model in from_plain(body, ModelList).models] == ["steps"]


async def test_files_are_listed_page_by_page_to_their_owner_only(tmp_path):
    async with servers.open_test_server(tmp_path / "data") as server:
        sent = []
        for number in range(5):
            tomogram = engines.make_tomogram(tmp_path / f"{number}.npy", seed=number)
            sent.append(await server.services.engine.add_file(tomogram, owner="ada"))
        seen, before = [], ""
        while before is not None:
            _, _, body = await ask(server, f"/v1/inputs?limit=2{before and f'&before={before}'}")
            page = from_plain(body, InputPage)
            seen += page.files
            before = page.next_before
        assert seen == sent[::-1]
        _, _, body = await ask(server, "/v1/inputs", subject="ben")
        assert body == {"files": [], "next_before": None}
        status, _, body = await ask(server, f"/v1/inputs?before={sent[0].id}", subject="ben")
        assert (status, body["error"]["code"]) == (404, "storage/unknown-object")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "first=1"])
async def test_a_page_that_cannot_be_is_refused(tmp_path, query):
    async with servers.open_test_server(tmp_path / "data") as server:
        status, _, body = await ask(server, f"/v1/inputs?{query}")
        assert (status, body["error"]["code"]) == (400, "request/malformed")

"""The built-in transports pass the suite that strangers use."""

from contextlib import asynccontextmanager

import pytest
import servers

from cryomamba_core.interfaces import Credentials
from cryomamba_core.plugins import OURS, PluginHost
from cryomamba_core.testing.transports import TransportConformance


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No cache and no configuration but the test's own."""
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


class TestLocal(TransportConformance):
    def open(self, settings):
        host = PluginHost.discover(settings, only=OURS)
        return host.transport_for("local:").open("local:", Credentials())


class TestHttp(TransportConformance):
    @asynccontextmanager
    async def open(self, settings):
        host = PluginHost.discover(settings, only=OURS)
        async with servers.open_test_server(settings.data_dir, settings=settings, installed=True) as server:
            transport = host.transport_for(server.url)
            async with transport.open(server.url, Credentials(token=server.token())) as session:
                yield session

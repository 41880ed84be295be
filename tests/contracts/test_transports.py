"""The built-in transport passes the suite that strangers use."""

from cryomamba_core.interfaces import Credentials
from cryomamba_core.plugins import OURS, PluginHost
from cryomamba_core.testing.transports import TransportConformance


class TestLocal(TransportConformance):
    def open(self, settings):
        host = PluginHost.discover(settings, only=OURS)
        return host.transport_for("local:").open("local:", Credentials())

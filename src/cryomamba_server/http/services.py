"""What the handlers of a server share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from attrs import define, field

from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_server.engine.engine import Engine
from cryomamba_server.http.audience import Audience
from cryomamba_server.http.metrics import Metrics
from cryomamba_server.http.settings import ServeSettings
from cryomamba_server.http.traffic import Traffic

if TYPE_CHECKING:
    from cryomamba_server.http.access.gate import Gate


@define(kw_only=True, eq=False)
class Services:
    """One server's parts.

    Attributes
    ----------
    engine
        Runs the jobs.
    host
        The plugins.
    settings, serving
        Of the process and of the server.
    gate
        Knows who calls, what they may do and how often.
    stopping
        Set when the server is about to stop: nothing new is taken from then on.
    traffic
        Requests in progress.
    metrics
        What is counted.
    audience
        Those who listen by WebSocket.
    """

    engine: Engine
    host: PluginHost
    settings: Settings
    serving: ServeSettings
    gate: Gate
    stopping: trio.Event = field(factory=trio.Event)
    traffic: Traffic = field(init=False)
    metrics: Metrics = field(factory=Metrics)
    audience: Audience = field(init=False)

    @audience.default
    def _new_audience(self) -> Audience:
        return Audience(
            authenticator=self.gate.authenticator, metrics=self.metrics, traffic=self.traffic, stopping=self.stopping
        )

    @traffic.default
    def _new_traffic(self) -> Traffic:
        return Traffic(self.stopping)

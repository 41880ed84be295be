"""A desk and a bench for widgets: everything behind a window of napari, and its list of layers."""

from functools import partial

import engines
import mrcfile
import numpy as np
import proxies
import trio
from napari.components import ViewerModel

from cryomamba_core.interfaces import Credentials
from cryomamba_core.plugins import PluginHost
from cryomamba_gui.canvas.bench import Bench
from cryomamba_gui.desk.desk import Desk
from cryomamba_gui.qt.bridge import Bridge


class Seat:
    """Where one user works; what several seats of a data directory do is what one desktop does that is started again.

    Parameters
    ----------
    data_dir
        Of this computer's engine and of the desktop.
    """

    def __init__(self, data_dir):
        self.viewer, self.bridge = ViewerModel(), Bridge()
        self.desk = Desk(PluginHost.discover(engines.make_settings(data_dir)))
        self.bench = Bench(self.viewer, self.desk)
        self.bridge.start()
        self.bridge.run(self._run, name="desk")

    @property
    def outbox(self):
        """Files on their way."""
        return self.desk.jobs.outbox

    def connect(self, server, *, url=None):
        """Connect with a server, perhaps by another address than its own."""
        self.desk.link.connect(url or server.url, Credentials(token=server.token()), remember=False)

    def put_proxy_before(self, server):
        """A proxy before a server, in a list once it listens."""
        listening = []

        async def run():
            async with proxies.open_proxy(server.url) as proxy:
                listening.append(proxy)
                await trio.sleep_forever()

        self.bridge.run(run, name="proxy")
        return listening

    def close(self):
        """Close it, and wait until nothing of it goes on."""
        self.bridge.drain()

    async def _run(self):
        try:
            await self.desk.run()
        finally:
            await self.bench.aclose()


def make_mrc(path, shape=(8, 24, 32), seed=5):
    """A tomogram with voxels of 10 Å."""
    with mrcfile.new(path, np.random.default_rng(seed).normal(size=shape).astype(np.float32)) as file:
        file.voxel_size = 10.0
    return path


def make_gate(folder, *sections):
    """A folder that lets the strangers' runner go on to sections only that are opened there."""
    folder.mkdir()
    engines.open_gate(folder, *sections)
    return folder


make_large = partial(make_mrc, shape=(64, 256, 256))  # 16 MiB

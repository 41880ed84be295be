"""Desks for tests: what stands behind a window, without one."""

from contextlib import asynccontextmanager, contextmanager

import engines
import trio

from cryomamba_backends.formats import stats
from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_backends.http_transport import plugin as http_transport
from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.previews import PreviewPolicy
from cryomamba_gui.desk.desk import Desk
from cryomamba_gui.desk.link import LinkState
from cryomamba_server.local import plugin as local_transport

#: Plugins of a desk, beside the strangers.
PLUGINS = (http_transport, local_transport, mrc, stats)


@asynccontextmanager
async def open_desk(data_dir, *, url=None, token=None, plugins=PLUGINS):
    """A desk at work, connected with the engine at `url` if that is given."""
    desk = Desk(engines.make_host(engines.make_settings(data_dir), *plugins))
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.run)
        try:
            if url is not None:
                await connect(desk, url, token)
            yield desk
        finally:
            nursery.cancel_scope.cancel()


async def connect(desk, url, token=None):
    """Connect, and wait until that is done."""
    desk.link.connect(url, Credentials(token=token), remember=False)
    await until(lambda: desk.link.state is LinkState.CONNECTED, desk.link.changed)


async def until(condition, *signals):
    """Wait until `condition` holds, which is looked at whenever one of the signals is heard."""
    with trio.fail_after(engines.DEADLINE), hearing(*signals) as heard:
        while not condition():
            await heard()


@contextmanager
def hearing(*signals):
    """Yields a function that waits for the next of some signals."""
    send, receive = trio.open_memory_channel(float("inf"))

    def hear(*_):
        send.send_nowait(None)

    for signal in signals:
        signal.connect(hear)
    try:
        yield receive.receive
    finally:
        for signal in signals:
            signal.disconnect(hear)


async def item_until(desk, item, condition):
    """Wait until something holds of a job."""
    jobs = desk.jobs
    await until(lambda: condition(item), jobs.changed, jobs.ended, jobs.previewed)


def steps(**params):
    """What is asked of the strangers' runner; the source is filled in by others."""
    return JobConfig(
        source=Source(path="/nowhere"), runner="steps", params=params, preview=PreviewPolicy(interval_seconds=0)
    )


async def submitted(desk, path, **params):
    """Send a tomogram and queue it; returns the job."""
    submission = desk.jobs.outbox.prepare(path, steps(**params), auto=True)
    await until(lambda: submission.item is not None or submission.error, submission.changed)
    assert submission.error is None, submission.error
    return submission.item

"""Jobs as a session starts and hears them."""

from contextlib import aclosing

import engines
import trio

from cryomamba_core.events import Completed, Failed, StateChanged
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.previews import PreviewPolicy


async def submit(session, path, **params):
    """Send a file and start the strangers' runner on it."""
    sent = await session.upload(path)
    preview = PreviewPolicy(interval_seconds=0)
    config = JobConfig(source=Source(file_id=sent.id), runner="steps", params=params, preview=preview)
    return await session.submit(config)


async def hear(session, job_id, *, after=0, on_event=lambda event: None):
    """Events of a job to its end."""
    heard = []
    with trio.fail_after(engines.DEADLINE):
        async with aclosing(session.events(job_id, after=after)) as events:
            async for event in events:
                heard.append(event)
                on_event(event)
    return heard


def states(events):
    """Numbers of the events that nobody may miss."""
    return [event.seq for event in events if isinstance(event, StateChanged | Completed | Failed)]

"""Jobs, and files on their way to one, in words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from cryomamba_core import wording
from cryomamba_core.jobs import JobState
from cryomamba_gui.desk.submission import SubmissionState
from cryomamba_gui.qt.connection_words import place_of

if TYPE_CHECKING:
    from cryomamba_core.plans import JobPlan
    from cryomamba_gui.desk.items import JobItem
    from cryomamba_gui.desk.submission import Submission

#: What a worker does, as people say it.
STAGES = {"inspecting": "reading", "segmenting": "segmenting", "measuring": "measuring", "exporting": "writing"}
#: Marks that tell states apart without colour.
MARKS = {
    JobState.QUEUED: "◷",
    JobState.RUNNING: "▶",
    JobState.PREVIEWING: "▶",
    JobState.COMPLETED: "✓",
    JobState.FAILED: "✕",
    JobState.CANCELED: "■",
}


def state_of(item: JobItem) -> str:
    """Where a job stands, in a few words."""
    return _joined(short_state_of(item), note_on(item))


def short_state_of(item: JobItem) -> str:
    """What goes on with a job, in a word or two."""
    if item.stopping:
        return "stopping"
    if item.state is JobState.QUEUED:
        return "waiting"
    if not item.state.active:
        return str(item.state)
    if item.progress is None:
        return "starting"
    stage = STAGES.get(item.progress.stage, item.progress.stage)
    return _joined(stage, wording.percent(item.fraction))


def note_on(item: JobItem) -> str:
    """How long a job takes still, its place in the queue, when it ended, or why nothing is known of it."""
    if item.gone:
        return "unknown to its engine"
    if item.state.ended:
        return when_of(item)
    if item.stale:
        return "engine not answering"
    if not item.reachable:
        return "engine not connected"
    if item.state is JobState.QUEUED:
        return wording.place(item.queue_position, item.starts_in_seconds)
    left = item.seconds_left
    return f"{wording.duration(left)} left" if left is not None and not item.stopping else ""


def when_of(item: JobItem) -> str:
    """When a job ended, or began, or was asked for: the time alone if that was today."""
    record = item.record
    when = record.finished_at or record.started_at or record.created_at
    today = when.astimezone().date() == datetime.now().astimezone().date()
    words = wording.moment(when)[:-3]  # nobody asks for the second
    return words.partition(" ")[2] if today else words


def details_of(item: JobItem) -> str:
    """A job in a few lines."""
    record = item.record
    lines = [f"{item.name}: {state_of(item)}"]
    if item.path is not None:
        lines.append(f"Tomogram: {wording.shown_path(item.path)}")
    lines.append(f"Model: {model_of(item)}")
    lines += [f"{name}: {value}" for name, value in record.config.params.items()]
    lines.append(f"On {place_of(item.url, whole=True)}, queued {wording.moment(record.created_at)}")
    if record.started_at is not None and record.finished_at is not None:
        took = f"Took {wording.duration((record.finished_at - record.started_at).total_seconds())}"
        lines.append(took if record.attempt <= 1 else f"{took} in attempt {record.attempt}")
    if record.artifacts:
        lines.append("Results: " + ", ".join(artifact.name for artifact in record.artifacts))
    return "\n".join([*lines, f"Job {item.id}"])


def model_of(item: JobItem) -> str:
    """What segments in a job."""
    return item.record.config.model or item.record.config.runner or ""


def on_its_way(submission: Submission, url: str | None) -> str:
    """Where a file on its way stands, in a few words.

    Parameters
    ----------
    submission
        The file.
    url
        Address of the engine that the window is connected with.
    """
    state = submission.state
    amount = f"{wording.byte_size(submission.sent)} of {wording.byte_size(submission.total)}"
    place = place_of(submission.url)
    elsewhere = "" if submission.url == url else f"for {place}"
    if submission.waiting:
        why = f"{place} does not answer" if submission.url == url else f"{place} is not connected"
        return _joined("waiting", why, f"{amount} sent" if submission.sent else "")
    if state is SubmissionState.UPLOADING and submission.total:
        left = submission.eta_seconds
        return _joined(
            f"sending {amount}",
            wording.rate(submission.rate) if submission.rate else "",
            f"{wording.duration(left)} left" if left is not None else "",
        )
    if state is SubmissionState.PAUSED:
        return _joined("paused", f"{amount} sent" if submission.total else "", elsewhere)
    words = {
        SubmissionState.PLANNING: "asking what it will cost",
        SubmissionState.READY: "planned, and not submitted yet",
        SubmissionState.UPLOADING: "about to be sent",
        SubmissionState.SUBMITTING: "submitting",
        SubmissionState.FAILED: "not submitted",
    }
    return _joined(words.get(state, str(state)), elsewhere)


def plan_of(plan: JobPlan) -> str:
    """What a job will cost, in a few lines."""
    run = plan.run
    device = "the CPU" if plan.device == "cpu" else plan.device
    memory = f"{wording.byte_size(run.ram_bytes)} of memory"
    if run.vram_bytes:
        memory += f", {wording.byte_size(run.vram_bytes)} on the device"
    disk = f"{wording.byte_size(plan.disk_bytes)} on the disk"
    work = f"{wording.plural(run.tiles, 'tile')} on {device}"
    takes = "how long that takes is not known yet" if run.seconds is None else f"about {wording.duration(run.seconds)}"
    lines = [
        f"{work}: {takes}",
        f"Needs {memory}, {disk}",
        f"Starts {wording.place(plan.queue_position, plan.starts_in_seconds)}",
    ]
    return "\n".join([*lines, *run.notes])


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)

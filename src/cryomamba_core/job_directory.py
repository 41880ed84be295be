"""The job directory: the only thing that engine and worker share.

::

    job.json           what to run
    events.jsonl       appended by the worker, one event a line, numbered from 1
    preview.bin        the newest preview
    labels.raw         final labels, ZYX, little-endian
    NAME.raw           a companion of them, e.g. uncertainty.raw: ZYX, a byte for each voxel
    checkpoint.json    how far the final labels reach
    heartbeat          its time of change is the worker's last sign of life
    cancel             its presence is the order to stop
    worker.log         what the worker printed
    worker.json        which process is the worker, where another process could not tell
    left               its presence says that the worker has left the job, though its process may be there
    source/            a link to the tomogram that the worker has opened, if that lies in a shared folder
    lasting/           the runner's own, from which its next attempt goes on
    artifacts/         what the exporters wrote; manifest.json last
    shards/0, 1, …     directories of the workers that share a volume, with all of the above but labels and artifacts
    params.json        the runner's parameters as the first attempt settled them
    result.json        in those: what a shard's worker has to say at its end

Events, previews and results belong to one attempt: `begin_attempt` clears them and keeps labels and
checkpoint, from which the next worker goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cryomamba_core.durable import load_kept, sync_folder, write_whole
from cryomamba_core.errors import CryoMambaError, StorageDamaged
from cryomamba_core.events import JobEvent
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces.executors import WorkerHandle
from cryomamba_core.jobs import JobConfig
from cryomamba_core.label_file import LabelFile
from cryomamba_core.previews import Preview
from cryomamba_core.volumes import IntensityStatistics
from cryomamba_core.wire import dump_json, load_json

#: The exit status of a worker that found the order to cancel.
EXIT_CANCELED = 10
#: The exit status of a worker that wrote a `Failed` event.
EXIT_FAILED = 11


@frozen(kw_only=True)
class ShardSpec:
    """What the worker of a shard is told besides.

    Attributes
    ----------
    job
        Absolute path of the job's directory, which has the labels and the order to cancel.
    number
        Counts the job's shards from 1.
    axis, first, stop
        The rows that are its own, along an axis of the volume; `stop` is behind the last.
    intensity
        Grey values of the volume.
    source
        SHA-256 of the tomogram.
    source_state
        Inode, size and time of change of the tomogram when the job's worker had read it.
    """

    job: str
    number: int
    axis: int
    first: int
    stop: int
    intensity: IntensityStatistics
    source: str
    source_state: tuple[int, int, int]


@frozen(kw_only=True)
class ShardResult:
    """What the worker of a shard has to say at its end.

    Attributes
    ----------
    notes
        Decisions that the user should know of.
    peak_rss_bytes
        The most memory that it held.
    """

    notes: tuple[str, ...]
    peak_rss_bytes: int


@frozen(kw_only=True)
class JobSpec:
    """What a worker is told: ``job.json``.

    Attributes
    ----------
    job_id
        Id of the job.
    config
        What the user asked for; runner, model and artifacts are named.
    source
        Absolute path of the tomogram.
    source_root
        The folder below which the worker may follow no link to the source; None for a source that is opened as
        it is.
    source_name
        The file's name as its owner knows it.
    grid
        Its grid, as it was when the job was accepted.
    device
        Where to run.
    threads
        CPU threads; 0 for as many as there are physical cores.
    attempt
        Counts the workers, from 1.
    executor
        Name of the executor that started the worker, and starts those of shards.
    devices
        All devices that the job may use for its shards; `device` is the first.
    shard
        Which part of the volume to segment; None for the worker of a job.
    """

    job_id: str
    config: JobConfig
    source: str
    source_name: str
    grid: VoxelGrid
    device: str
    threads: int = 0
    attempt: int = 1
    source_root: str | None = None
    executor: str = "local"
    devices: tuple[str, ...] = ()
    shard: ShardSpec | None = None


@frozen(kw_only=True)
class Checkpoint:
    """How far the labels are final and durable.

    Attributes
    ----------
    rows
        How many, from the first on.
    dtype
        Type of ``labels.raw``.
    axis
        Along which they are counted: 0 for sections along Z, 1 for rows along Y, 2 along X.
    companions
        Names of the companions that are as far, sorted.
    source
        SHA-256 of the tomogram that they are of.
    """

    rows: int
    dtype: str
    axis: int = 0
    companions: tuple[str, ...] = ()
    source: str = ""


@frozen(kw_only=True)
class SettledParams:
    """A runner's parameters, with what the machine of the first attempt decided.

    Attributes
    ----------
    asked
        What the job says.
    settled
        What its runner made of it.
    model
        Digest of the model that the labels are of.
    """

    asked: dict[str, Any]
    settled: dict[str, Any]
    model: str


class JobDirectory:
    """Names and formats of a job's files.

    Parameters
    ----------
    path
        The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.labels_path: Path = path / "labels.raw"
        self.cancel_path: Path = path / "cancel"
        self.log_path: Path = path / "worker.log"
        self.artifacts_path: Path = path / "artifacts"
        self._spec = path / "job.json"
        self._events = path / "events.jsonl"
        self._preview = path / "preview.bin"
        self._checkpoint = path / "checkpoint.json"
        self._heartbeat = path / "heartbeat"
        self._handle = path / "worker.json"
        self._result = path / "result.json"
        self._shards = path / "shards"
        self._lasting = path / "lasting"
        self._settled = path / "params.json"
        self._left = path / "left"

    def begin_attempt(self, spec: JobSpec) -> None:
        """Make the directory ready for a worker; called while none is running."""
        self.path.mkdir(parents=True, exist_ok=True)
        earlier = (self._events, self._preview, self._heartbeat, self._result, self._handle, self._left)
        for leftover in (*earlier, self.cancel_path):
            leftover.unlink(missing_ok=True)
        self.artifacts_path.mkdir(exist_ok=True)
        self.clear_artifacts()
        write_whole(self._spec, dump_json(spec, indent=1).encode())

    def spec(self) -> JobSpec:
        """What to run; raises `StorageDamaged` if it cannot be read."""
        try:
            return load_json(self._spec.read_bytes(), JobSpec)
        except (OSError, CryoMambaError) as error:
            raise StorageDamaged(f"{self._spec} cannot be read: {error}") from error

    def append_event(self, event: JobEvent) -> None:
        """Add an event; called by the worker only."""
        line = dump_json(event, JobEvent).encode() + b"\n"
        descriptor = os.open(self._events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, size)  # else the next event would be lost with this one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._events))
        finally:
            os.close(descriptor)

    def events(self, offset: int = 0) -> Iterator[tuple[JobEvent, int]]:
        """Events from byte `offset` of the file on, each with the offset of the next.

        A last line that is not ended yet, and a line that is no event, are left out.
        """
        try:
            with self._events.open("rb") as stream:
                stream.seek(offset)
                for line in stream:
                    if not line.endswith(b"\n"):
                        return
                    offset += len(line)
                    try:
                        event: JobEvent = load_json(line, JobEvent)  # type: ignore[arg-type]  # a union is no type[T]
                    except CryoMambaError:
                        continue
                    yield event, offset
        except FileNotFoundError:
            return

    def write_preview(self, preview: Preview) -> None:
        """Replace the newest preview. It is not synced: the next one is never far."""
        partial = self._preview.with_suffix(".partial")
        try:
            partial.write_bytes(dump_json(preview).encode())
            os.replace(partial, self._preview)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def preview(self) -> Preview | None:
        """The newest preview, or None before the first."""
        try:
            return load_json(self._preview.read_bytes(), Preview)
        except FileNotFoundError:
            return None

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Say how far the labels reach; they must be durable already."""
        write_whole(self._checkpoint, dump_json(checkpoint).encode())

    def checkpoint(self) -> Checkpoint | None:
        """How far the labels of earlier attempts reach, or None; raises `StorageError` if that cannot be told."""
        return load_kept(self._checkpoint, Checkpoint)

    def write_settled(self, params: SettledParams) -> None:
        """Keep the runner's parameters for further attempts, before the first label is final."""
        write_whole(self._settled, dump_json(params).encode())

    def settled(self) -> SettledParams | None:
        """The runner's parameters of an earlier attempt, or None; raises `StorageError` if that cannot be told."""
        return load_kept(self._settled, SettledParams)

    @property
    def holds_final_labels(self) -> bool:
        """Whether an attempt could go on from labels of earlier ones."""
        return any(directory.checkpoint() is not None for directory in (self, *self.shards()))

    def open_labels(
        self, grid: VoxelGrid, dtype: np.dtype[Any], *, create: bool = False, update: bool = False
    ) -> LabelFile:
        """Open the final labels, for reading only unless they are created or updated; see `LabelFile`."""
        return LabelFile(self.labels_path, grid.shape, dtype, create=create, update=update)

    def companion_path(self, name: str) -> Path:
        """The file of a companion of the labels."""
        return self.path / f"{name}.raw"

    def clear_labels(self) -> None:
        """Remove labels, companions, checkpoints and what lasts: nobody will go on from them.

        At no moment does a checkpoint, or a shard that is done, speak of labels that are gone.
        """
        if not self.path.exists():
            return
        self._checkpoint.unlink(missing_ok=True)
        for folder in (self._shards, self._lasting):
            if folder.exists():
                shutil.rmtree(folder)
        self._settled.unlink(missing_ok=True)
        sync_folder(self.path)
        for volume in self.path.glob("*.raw"):
            volume.unlink(missing_ok=True)

    def made_lasting(self) -> Path:
        """The folder of what a runner leaves for its next attempt."""
        self._lasting.mkdir(exist_ok=True)
        return self._lasting

    def shard(self, number: int) -> JobDirectory:
        """The directory of a shard's worker."""
        return JobDirectory(self._shards / str(number))

    def shards(self) -> Iterator[JobDirectory]:
        """Those that are there."""
        for path in sorted(self._shards.glob("*")):
            yield JobDirectory(path)

    def write_handle(self, handle: WorkerHandle) -> None:
        """Say which worker runs on the directory."""
        write_whole(self._handle, dump_json(handle).encode())

    def handle(self) -> WorkerHandle | None:
        """The worker that `write_handle` named last, or None; raises `StorageError` if that cannot be told."""
        return load_kept(self._handle, WorkerHandle)

    def mark_left(self) -> None:
        """Say that the worker has left the job for good; its process may be given another."""
        self._left.touch()

    @property
    def left(self) -> bool:
        """Whether the worker has left the job while its process went on."""
        return self._left.exists()

    def write_result(self, result: ShardResult) -> None:
        """Say what a shard's worker has to say, before it says that it is done."""
        write_whole(self._result, dump_json(result).encode())

    def result(self) -> ShardResult | None:
        """What a shard's worker said at its end, or None before that."""
        try:
            return load_json(self._result.read_bytes(), ShardResult)
        except (OSError, CryoMambaError):
            return None

    def clear_checkpoint(self) -> None:
        """Forget how far the labels reach."""
        self._checkpoint.unlink(missing_ok=True)

    def clear_artifacts(self) -> None:
        """Remove what the exporters wrote, half-written files included."""
        for artifact in self.artifacts_path.glob("*"):
            artifact.unlink()
        for partial in self.artifacts_path.glob(".*"):
            partial.unlink()

    def beat(self) -> None:
        """Show that the worker lives."""
        self._heartbeat.touch()

    def silence(self) -> float | None:
        """Seconds since the last beat, or None before the first."""
        beat = self.last_beat()
        return None if beat is None else max(0.0, time.time() - beat)

    def last_beat(self) -> float | None:
        """When the worker beat last, in seconds since the epoch by the file system's clock, or None."""
        try:
            return self._heartbeat.stat().st_mtime
        except FileNotFoundError:
            return None

    def order_cancel(self) -> None:
        """Order the worker to stop."""
        self.cancel_path.touch()

    @property
    def cancel_ordered(self) -> bool:
        """Whether the worker is to stop."""
        return self.cancel_path.exists()

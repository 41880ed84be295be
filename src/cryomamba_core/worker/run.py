"""A job from its specification to its manifest."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from cryomamba_core.artifacts import Artifact, Manifest, RunInfo, SourceFile
from cryomamba_core.companions import Companion, CompanionFiles, companion_artifacts
from cryomamba_core.durable import replacing, sha256_of
from cryomamba_core.errors import CorruptFile, CryoMambaError, SourceChanged, StorageDamaged
from cryomamba_core.interfaces import Exporter, ModelRunner, VolumeReader
from cryomamba_core.job_directory import Checkpoint, JobDirectory, JobSpec, SettledParams, ShardResult, ShardSpec
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import LabelBlock, label_dtype
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_core.models import ModelInfo, model_replaced
from cryomamba_core.plugins import PluginHost
from cryomamba_core.sharding import shard_bounds
from cryomamba_core.volumes import IntensityStatistics, Volume, measure_intensity
from cryomamba_core.wire import dump_json, from_plain, to_plain
from cryomamba_core.worker.context import StopOrders, WorkerContext
from cryomamba_core.worker.keeping import Kept
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.shards import ShardCrew, end_left
from cryomamba_core.worker.taking import AXIS_ROWS, LabelTaker

#: Name of the provenance record among the artifacts.
MANIFEST = "manifest.json"

#: Seconds for a voxel to be measured and exported, for the time left: 50 to 90 ns where they were measured.
SECONDS_AFTERWARDS = 60e-9


class JobRun:
    """One attempt at a job.

    Parameters
    ----------
    directory
        The job directory.
    spec
        What it says.
    host
        Where readers, runners and exporters come from.
    log
        Hears how it goes.
    orders
        Looked at between all pieces of work.
    kept
        What lasts beyond the job; None if nothing does.
    """

    def __init__(
        self,
        *,
        directory: JobDirectory,
        spec: JobSpec,
        host: PluginHost,
        log: EventLog,
        orders: StopOrders,
        kept: Kept | None = None,
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._log = log
        self._orders = orders
        self._lasting = kept
        self._started_at = datetime.now(UTC)
        self._source = Path(spec.source)
        self._host = host
        self._shard_bytes = 0
        self._notes: list[str] = []
        if any(directory.shards()):
            end_left(directory, host.executors.get(spec.executor))
        self._reader: VolumeReader = host.reader_for(self._source)
        self._runner: ModelRunner = host.runners.get(spec.config.runner or "")
        self._model: ModelInfo = self._runner.model(spec.config.model)
        self._params: Any = self._settled(from_plain(spec.config.params, self._runner.params_type))
        wanted = spec.config.artifacts
        self._exporters: tuple[Exporter, ...] = tuple(
            host.exporters if wanted is None else (host.exporter_for(name) for name in wanted if name != MANIFEST)
        )
        self._companions: tuple[Companion, ...] = tuple(self._runner.companions(self._model, self._params))
        self._beside = companion_artifacts(self._companions, self._exporters)

    def _settled(self, params: Any) -> Any:
        """The parameters of the first attempt that made labels final, which also are those of all shards."""
        shard, asked = self._spec.shard, to_plain(params)
        if shard is not None:
            kept = self._kept(JobDirectory(Path(shard.job)), asked)
            if kept is None:
                raise StorageDamaged("what the job's runner has settled is gone", hint="submit it again")
            return kept
        kept = self._kept(self._directory, asked) if self._directory.holds_final_labels else None
        misfit = "" if kept is None else self._misfit(kept)
        if kept is not None and not misfit:
            return kept
        fresh = self._runner.settle(self._model, params, self._spec.device)
        if misfit:
            self._directory.clear_labels()
            self._notes.append(f"attempt {self._spec.attempt} began anew, with what suits its device: {misfit}")
        self._directory.write_settled(SettledParams(asked=asked, settled=to_plain(fresh), model=self._model.digest))
        return fresh

    def _kept(self, directory: JobDirectory, asked: dict[str, Any]) -> Any:
        """What was settled of the same parameters before; None if nothing was.

        Raises
        ------
        UnusableModel
            If the labels that are there are of another model.
        """
        earlier = directory.settled()
        if earlier is None:
            return None
        if earlier.model != self._model.digest:
            raise model_replaced(self._model.name)
        if earlier.asked != asked:
            return None
        return from_plain(earlier.settled, self._runner.params_type)

    def _misfit(self, params: Any) -> str:
        """Why parameters that were settled on another device do not suit this one; empty if they do."""
        try:
            self._runner.settle(self._model, params, self._spec.device)
        except CryoMambaError as error:
            return error.message
        return ""

    def execute(self) -> tuple[Artifact, ...]:
        """Do everything, and return what was made."""
        with self._reader.open(self._source, voxel_size=self._spec.config.voxel_size) as volume:
            if volume.grid != self._spec.grid:
                raise CorruptFile(
                    f"{self._spec.source_name} has changed since the job was accepted", hint="submit it again"
                )
            if self._spec.shard is not None:
                self._execute_shard(volume, self._spec.shard)
                return ()
            source, intensity = self._inspect(volume)
            self._log.expect_afterwards(SECONDS_AFTERWARDS * volume.grid.voxels)
            with self._opened_labels(self._directory) as (labels, companions):
                notes = [*self._notes, *self._segment(volume, labels, companions, source.sha256, intensity)]
                statistics = self._measure(labels)
                run = RunInfo(
                    job_id=self._spec.job_id,
                    label=self._spec.config.label,
                    source=source,
                    intensity=intensity,
                    model=self._model,
                    params=to_plain(self._params),
                    statistics=statistics,
                    companions=self._companions,
                )
                return self._export(labels, companions, run, notes)

    def _execute_shard(self, volume: Volume, shard: ShardSpec) -> None:
        """Give labels to the rows of a shard, in the files of its job."""
        if source_state(self._source) != shard.source_state:
            raise SourceChanged(f"{self._spec.source_name} has changed since the job began", hint="submit it again")
        with self._opened_labels(JobDirectory(Path(shard.job))) as (labels, companions):
            notes = self._segment(volume, labels, companions, shard.source, shard.intensity)
        self._directory.write_result(ShardResult(notes=tuple(notes), peak_rss_bytes=peak_rss_bytes()))

    @contextmanager
    def _opened_labels(self, directory: JobDirectory) -> Iterator[tuple[LabelFile, CompanionFiles]]:
        """The files of the job: made by its own worker while no shard runs, and then only written to."""
        grid, dtype = self._spec.grid, label_dtype(self._model.highest_label)
        place, create = directory.companion_path, self._spec.shard is None
        with (
            directory.open_labels(grid, dtype, create=create, update=True) as labels,
            CompanionFiles(place, self._companions, grid.shape, create=create, update=True) as companions,
        ):
            yield labels, companions

    def _inspect(self, volume: Volume) -> tuple[SourceFile, IntensityStatistics]:
        size = self._source.stat().st_size
        sections = volume.grid.shape[0]
        total = 2 * sections
        read = 0

        def on_bytes(count: int) -> None:
            nonlocal read
            read += count
            self._orders.obey()
            self._log.progress("inspecting", min(sections, sections * read // max(1, size)), total, "sections")

        def on_slab(done: int) -> None:
            self._orders.obey()
            self._log.progress("inspecting", sections + done, total, "sections")

        digest = sha256_of(self._source, on_chunk=on_bytes)
        intensity = measure_intensity(volume, on_slab=on_slab)
        source = SourceFile(
            name=self._spec.source_name,
            size=size,
            sha256=digest,
            format=self._reader.name,
            dtype=volume.dtype.name,
            metadata=dict(volume.metadata),
        )
        return source, intensity

    def _segment(
        self,
        volume: Volume,
        labels: LabelFile,
        companions: CompanionFiles,
        source: str,
        intensity: IntensityStatistics,
    ) -> list[str]:
        axis = self._runner.sweep_axis(self._model, volume.grid, self._params, self._spec.device)
        shard = self._spec.shard
        divided = self._spec.config.shards > 1 and not shard
        notes = self._divide(labels, companions, source, intensity, axis) if divided else []
        taker = LabelTaker(
            directory=self._directory,
            labels=labels,
            companions=companions,
            grid=volume.grid,
            highest_label=self._model.highest_label,
            axis=axis,
            policy=self._spec.config.preview,
            log=self._log,
            source=source,
            rows=range(shard.first, shard.stop) if shard else None,
        )
        context = WorkerContext(
            model=self._model,
            device=self._spec.device,
            intensity=intensity,
            taker=taker,
            sharded=shard is not None,
            previewed=self._spec.config.preview.max_voxels > 0,
            scratch=self._directory.path,
            lasting=self._directory.made_lasting(),
            source=source,
            orders=self._orders,
            log=self._log,
            kept=self._lasting,
        )
        sections = len(taker.rows) if shard else volume.grid.shape[0]
        if not taker.complete:
            with closing(_generator(self._runner.segment(volume, self._params, context))) as blocks:
                for block in blocks:
                    taker.take(block)
                    self._orders.obey()
                    if not context.reported:
                        self._log.progress("segmenting", int(taker.fraction * sections), sections, "sections")
        taker.finish()
        if taker.final_rows > taker.rows.start and not notes:
            who = f"attempt {self._spec.attempt}" + (f" at shard {shard.number}" if shard else "")
            context.note(f"{who} went on from {AXIS_ROWS[axis]} {taker.final_rows}")
        return [*notes, *context.notes]

    def _divide(
        self, labels: LabelFile, companions: CompanionFiles, source: str, intensity: IntensityStatistics, axis: int
    ) -> list[str]:
        """Have several workers segment the volume; then every label is final."""
        crew = ShardCrew(
            directory=self._directory,
            executor=self._host.executors.get(self._spec.executor),
            settings=self._host.settings,
            bounds=self._bounds(self._spec.config.shards),
            axis=axis,
            intensity=intensity,
            source=source,
            source_state=source_state(self._source),
            dtype=labels.dtype,
            log=self._log,
            orders=self._orders,
        )
        result = crew.run()
        self._shard_bytes = result.peak_rss_bytes
        self._directory.write_checkpoint(
            Checkpoint(
                rows=self._spec.grid.shape[axis],
                dtype=labels.dtype.name,
                axis=axis,
                companions=companions.names,
                source=source,
            )
        )
        most = crew.bounds == self._bounds(len(crew.bounds))
        told = f"{len(crew.bounds) - 1} shards along {'ZYX'[axis]}, cut at {', '.join(map(str, crew.bounds[1:-1]))}"
        return [told + ("; the volume cannot be cut into more" if most else ""), *result.notes]

    def _bounds(self, count: int) -> tuple[int, ...]:
        return shard_bounds(self._runner, self._model, self._spec.grid, self._params, self._spec.device, count)

    def _measure(self, labels: LabelFile) -> tuple[LabelStatistics, ...]:
        sections = self._spec.grid.shape[0]

        def on_slab(done: int) -> None:
            self._orders.obey()
            self._log.progress("measuring", done, sections, "sections")

        return measure_labels(labels, self._spec.grid, self._model.labels, on_slab=on_slab)

    def _export(
        self, labels: LabelFile, companions: CompanionFiles, run: RunInfo, notes: list[str]
    ) -> tuple[Artifact, ...]:
        artifacts = []
        writing = self._writing(labels, companions, run)
        for done, (exporter, name, write) in enumerate(writing):
            self._orders.obey()
            self._log.progress("exporting", done, len(writing), "files")
            target = self._directory.artifacts_path / name
            with replacing(target) as unfinished:
                notes += write(unfinished)
            artifacts.append(_artifact(target, exporter.media_type))
        manifest = Manifest(
            run=run,
            grid=self._spec.grid,
            device=self._spec.device,
            attempt=self._spec.attempt,
            versions=versions(),
            notes=tuple(dict.fromkeys(notes)),
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
            peak_rss_bytes=peak_rss_bytes() + self._shard_bytes,
            shards=self._spec.config.shards,
            artifacts=tuple(artifacts),
        )
        target = self._directory.artifacts_path / MANIFEST
        with replacing(target) as unfinished:
            unfinished.write_text(dump_json(manifest, indent=2) + "\n", encoding="utf-8")
        self._log.progress("exporting", len(writing), len(writing), "files")
        return (*artifacts, _artifact(target, "application/json"))

    def _writing(
        self, labels: LabelFile, companions: CompanionFiles, run: RunInfo
    ) -> Sequence[tuple[Exporter, str, Callable[[Path], tuple[str, ...]]]]:
        """Each file to export: who writes it, its name, and the call that does, given a path."""
        grid = self._spec.grid
        writing = [
            (exporter, exporter.artifact, partial(exporter.write, labels, grid, run)) for exporter in self._exporters
        ]
        volumes = {companion.name: values for companion, values in companions.volumes()}
        for companion, exporter, name in self._beside:
            values, coarse = volumes[companion.name], grid.coarsen(companion.binning)
            writing.append((exporter, name, partial(exporter.write_companion, values, coarse, companion, run)))
        return writing


def source_state(path: Path) -> tuple[int, int, int]:
    """What tells whether a file is the same, and was not written to: inode, size, and time of change."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _artifact(path: Path, media_type: str) -> Artifact:
    return Artifact(name=path.name, media_type=media_type, size=path.stat().st_size, sha256=sha256_of(path))


def _generator(blocks: Iterator[LabelBlock]) -> Generator[LabelBlock, None, None]:
    """A runner's blocks with a `close`, whatever kind of iterator it returned."""
    yield from blocks


def peak_rss_bytes() -> int:
    """The most memory that this process has held; where Linux does not say it, that of its parent may count."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def versions() -> dict[str, str]:
    """Versions of Python, of this project and of what computes, where installed."""
    found = {"python": platform.python_version()}
    for package in ("cryomamba", "numpy", "scipy", "torch", "dynamic-network-architectures"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

"""A job from its specification to its manifest."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cryomamba_core.artifacts import Artifact, Manifest, RunInfo, SourceFile
from cryomamba_core.durable import replacing, sha256_of
from cryomamba_core.errors import CorruptFile
from cryomamba_core.interfaces import Exporter, ModelRunner, VolumeReader
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import LabelBlock, label_dtype
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import IntensityStatistics, Volume, measure_intensity
from cryomamba_core.wire import dump_json, from_plain, to_plain
from cryomamba_core.worker.context import StopOrders, WorkerContext
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.taking import AXIS_ROWS, LabelTaker

#: Name of the provenance record among the artifacts.
MANIFEST = "manifest.json"


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
    """

    def __init__(
        self, *, directory: JobDirectory, spec: JobSpec, host: PluginHost, log: EventLog, orders: StopOrders
    ) -> None:
        self._directory = directory
        self._spec = spec
        self._log = log
        self._orders = orders
        self._started_at = datetime.now(UTC)
        self._source = Path(spec.source)
        self._reader: VolumeReader = host.reader_for(self._source)
        self._runner: ModelRunner = host.runners.get(spec.config.runner or "")
        self._model: ModelInfo = self._runner.model(spec.config.model)
        self._params: Any = from_plain(spec.config.params, self._runner.params_type)
        wanted = spec.config.artifacts
        self._exporters: tuple[Exporter, ...] = tuple(
            host.exporters if wanted is None else (host.exporter_for(name) for name in wanted if name != MANIFEST)
        )

    def execute(self) -> tuple[Artifact, ...]:
        """Do everything, and return what was made."""
        with self._reader.open(self._source, voxel_size=self._spec.config.voxel_size) as volume:
            if volume.grid != self._spec.grid:
                raise CorruptFile(
                    f"{self._spec.source_name} has changed since the job was accepted", hint="submit it again"
                )
            source, intensity = self._inspect(volume)
            dtype = label_dtype(self._model.highest_label)
            with self._directory.open_labels(volume.grid, dtype, create=True) as labels:
                notes = self._segment(volume, labels, intensity)
                statistics = self._measure(labels)
                run = RunInfo(
                    job_id=self._spec.job_id,
                    label=self._spec.config.label,
                    source=source,
                    intensity=intensity,
                    model=self._model,
                    params=to_plain(self._params),
                    statistics=statistics,
                )
                return self._export(labels, run, notes)

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

    def _segment(self, volume: Volume, labels: LabelFile, intensity: IntensityStatistics) -> list[str]:
        axis = self._runner.sweep_axis(self._model, volume.grid, self._params, self._spec.device)
        taker = LabelTaker(
            directory=self._directory,
            labels=labels,
            grid=volume.grid,
            highest_label=self._model.highest_label,
            axis=axis,
            policy=self._spec.config.preview,
            log=self._log,
        )
        context = WorkerContext(
            model=self._model,
            device=self._spec.device,
            intensity=intensity,
            taker=taker,
            previewed=self._spec.config.preview.max_voxels > 0,
            orders=self._orders,
            log=self._log,
        )
        sections = volume.grid.shape[0]
        if not taker.complete:
            with closing(_generator(self._runner.segment(volume, self._params, context))) as blocks:
                for block in blocks:
                    taker.take(block)
                    self._orders.obey()
                    if not context.reported:
                        self._log.progress("segmenting", int(taker.fraction * sections), sections, "sections")
        taker.finish()
        if taker.final_rows:
            context.note(f"attempt {self._spec.attempt} went on from {AXIS_ROWS[axis]} {taker.final_rows}")
        return context.notes

    def _measure(self, labels: LabelFile) -> tuple[LabelStatistics, ...]:
        sections = self._spec.grid.shape[0]

        def on_slab(done: int) -> None:
            self._orders.obey()
            self._log.progress("measuring", done, sections, "sections")

        return measure_labels(labels, self._spec.grid, self._model.labels, on_slab=on_slab)

    def _export(self, labels: LabelFile, run: RunInfo, notes: list[str]) -> tuple[Artifact, ...]:
        artifacts = []
        for done, exporter in enumerate(self._exporters):
            self._orders.obey()
            self._log.progress("exporting", done, len(self._exporters), "files")
            target = self._directory.artifacts_path / exporter.artifact
            with replacing(target) as partial:
                notes += exporter.write(labels, self._spec.grid, run, partial)
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
            peak_rss_bytes=peak_rss_bytes(),
            artifacts=tuple(artifacts),
        )
        target = self._directory.artifacts_path / MANIFEST
        with replacing(target) as partial:
            partial.write_text(dump_json(manifest, indent=2) + "\n", encoding="utf-8")
        self._log.progress("exporting", len(self._exporters), len(self._exporters), "files")
        return (*artifacts, _artifact(target, "application/json"))


def _artifact(path: Path, media_type: str) -> Artifact:
    return Artifact(name=path.name, media_type=media_type, size=path.stat().st_size, sha256=sha256_of(path))


def _generator(blocks: Iterator[LabelBlock]) -> Generator[LabelBlock, None, None]:
    """A runner's blocks with a `close`, whatever kind of iterator it returned."""
    yield from blocks


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
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

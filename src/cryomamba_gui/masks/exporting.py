"""Taking a mask home: any exporter's file, whole or not there, with what it holds measured anew."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from attrs import evolve, frozen

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.durable import replacing, sha256_of
from cryomamba_core.errors import InvalidParameter, OutputExists, SourceChanged, StorageError
from cryomamba_core.geometry import VoxelGrid, slab_depth
from cryomamba_core.label_file import LabelArray
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.measuring.labels import measure_labels
from cryomamba_core.plugins import PluginHost
from cryomamba_gui.masks.converting import SLAB_VOXELS, OnSections
from cryomamba_gui.masks.counting import CountedLabels, Passes
from cryomamba_gui.masks.disk import told_as_storage
from cryomamba_gui.masks.mask import EditedMask
from cryomamba_gui.masks.opening import MANIFEST
from cryomamba_gui.masks.record import ORIGINAL, RECORD, WORKING
from cryomamba_gui.masks.review import REVIEW, Review
from cryomamba_gui.masks.sidecar import ExportedFile, Sidecar, require_room, sidecar_of, write_sidecar
from cryomamba_gui.masks.values import named, values_in


@frozen(kw_only=True)
class Exported:
    """What became of an export.

    Attributes
    ----------
    path
        The file.
    sidecar
        The file beside it, None if there was nothing to say.
    notes
        Decisions that were taken, one sentence each.
    voxels_changed
        How many voxels differ from what the job made.
    """

    path: Path
    sidecar: Path | None
    notes: tuple[str, ...]
    voxels_changed: int


def take_home(
    host: PluginHost,
    artifact_name: str,
    mask: EditedMask,
    info: RunInfo,
    target: Path,
    on_progress: OnSections | None = None,
    *,
    original: bool = False,
    review: Review | None = None,
    overwrite: bool = False,
    spared: Iterable[Path] = (),
) -> Exported:
    """Export a mask and write beside it what was thought of it and done to it; blocks.

    Parameters
    ----------
    host
        Has the exporter.
    artifact_name
        What to make, e.g. ``mask.mrc``, or the exporter's name.
    mask
        The mask.
    info
        `Manifest.run` of the job.
    target
        The file to write.
    on_progress
        Hears sections that are done and sections in all, in this thread; whatever it raises stops
        the export and leaves everything as it was.
    original
        Export what the job made, not what it was edited to.
    review
        Goes into the file beside it, which is written if there is a review or if a voxel differs.
    overwrite
        Whether files that exist may be replaced.
    spared
        Files that are not replaced all the same, e.g. the tomogram.

    Raises
    ------
    OutputExists
        If a file is in the way.
    SourceChanged
        If the mask was edited meanwhile.
    StorageError
        If it cannot be written.
    """
    suffix = host.exporter_for(artifact_name).suffix
    beside = sidecar_of(target, suffix)
    needed = [*_files_of(mask), *spared]
    _refuse(target, overwrite=overwrite, spared=needed)
    changing = mask.edited and not original
    if changing or review is not None:
        _refuse(beside, overwrite=True, spared=needed)
        require_room(beside, info.job_id, overwrite=overwrite)
    steady = _Steady(mask, on_progress)
    passes = Passes(mask.grid.shape[0], 4 if changing else 1, steady.report)
    changed = _count_changed(mask, passes) if changing else 0
    labels = mask.current if changing else mask.original
    statistics = None if changing else info.statistics
    notes = _export(host, artifact_name, labels, mask.grid, info, target, passes, statistics, overwrite=overwrite)
    if changed:
        notes = (f"{changed} voxels differ from those that job {info.job_id} made: they were edited by hand", *notes)
    if not changed and review is None:
        return Exported(path=target, sidecar=None, notes=notes, voxels_changed=0)
    made = mask.record.artifact
    with told_as_storage(f"{beside} cannot be written"):
        file = ExportedFile(
            name=target.name,
            sha256=sha256_of(target),
            edited=changed > 0,
            voxels_changed=changed,
            at=datetime.now(UTC),
        )
        sidecar = Sidecar(
            job_id=info.job_id,
            source=info.source.name,
            original=made.name if made else "",
            original_sha256=made.sha256 if made else "",
            review=review,
            exports=(file,),
        )
        write_sidecar(beside, sidecar, overwrite=overwrite)
    return Exported(path=target, sidecar=beside, notes=notes, voxels_changed=changed)


def export_mask(
    host: PluginHost,
    artifact_name: str,
    labels: LabelArray,
    grid: VoxelGrid,
    info: RunInfo,
    target: Path,
    on_progress: OnSections | None = None,
    *,
    statistics: tuple[LabelStatistics, ...] | None = None,
    overwrite: bool = False,
    spared: Iterable[Path] = (),
) -> tuple[str, ...]:
    """Write labels by an exporter, by a temporary file and a rename; blocks.

    Parameters
    ----------
    host, artifact_name, info, target, on_progress, overwrite, spared
        As in `take_home`.
    labels
        ZYX, uint8 or uint16. Values that the model does not know become labels of their own.
    grid
        Where they are.
    statistics
        Of `labels`, if they are known; else they are measured. The exporter is told these, and not
        those of `info`.

    Returns
    -------
    notes
        Decisions of the exporter.
    """
    _refuse(target, overwrite=overwrite, spared=spared)
    passes = Passes(grid.shape[0], 3 if statistics is None else 1, on_progress)
    return _export(host, artifact_name, labels, grid, info, target, passes, statistics, overwrite=overwrite)


def _export(
    host: PluginHost,
    artifact_name: str,
    labels: LabelArray,
    grid: VoxelGrid,
    info: RunInfo,
    target: Path,
    passes: Passes,
    statistics: tuple[LabelStatistics, ...] | None,
    *,
    overwrite: bool,
) -> tuple[str, ...]:
    exporter = host.exporter_for(artifact_name)
    info = _measured(labels, grid, info, passes) if statistics is None else evolve(info, statistics=statistics)
    with told_as_storage(f"{target} cannot be written"), replacing(target) as partial:
        partial.unlink(missing_ok=True)
        notes = exporter.write(CountedLabels(labels, passes), grid, info, partial)
        passes.end()
        if not overwrite:
            _refuse(target, overwrite=False, spared=())
    return notes


def _measured(labels: LabelArray, grid: VoxelGrid, info: RunInfo, passes: Passes) -> RunInfo:
    """What exporters are told of labels that no job has measured."""
    names = named(info.model.labels, values_in(labels, on_slab=passes.report))
    passes.end()
    statistics = measure_labels(labels, grid, names, on_slab=passes.report)
    passes.end()
    return evolve(info, model=evolve(info.model, labels=names), statistics=statistics)


class _Steady:
    """Passes progress on for as long as nobody edits the mask: else a file would hold half of a stroke."""

    def __init__(self, mask: EditedMask, on_progress: OnSections | None) -> None:
        self._mask = mask
        self._edits = mask.edits
        self._on_progress = on_progress

    def report(self, done: int, total: int) -> None:
        if self._mask.edits != self._edits:
            raise SourceChanged("the mask was edited while it was exported", hint="export it again")
        if self._on_progress is not None:
            self._on_progress(done, total)


def _count_changed(mask: EditedMask, passes: Passes) -> int:
    """How many voxels differ from what the job made."""
    changed = 0
    for slab in mask.grid.whole.slabs(slab_depth(mask.grid.shape, voxels=SLAB_VOXELS)):
        sections = slab.slices[0]
        changed += int(np.count_nonzero(mask.current[sections] != mask.original[sections]))
        passes.report(slab.stop[0])
    passes.end()
    return changed


def _files_of(mask: EditedMask) -> list[Path]:
    """What a job's folder holds that no export may replace."""
    made = mask.record.artifact
    names = (WORKING, ORIGINAL, RECORD, REVIEW, MANIFEST, *((made.name,) if made else ()))
    return [mask.folder / name for name in names]


def _refuse(target: Path, *, overwrite: bool, spared: Iterable[Path]) -> None:
    """Raise unless a file can be written."""
    folder = target.parent
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        raise StorageError(f"the folder {folder} cannot be written to", hint="choose another one")
    if not (target.exists() or target.is_symlink()):
        return
    for file in spared:
        with suppress(FileNotFoundError):
            if target.samefile(file):
                raise InvalidParameter(f"{target} is a file that is still needed", hint="choose another name")
    if not overwrite:
        raise OutputExists(f"{target} exists", hint="choose another name, or overwrite it")

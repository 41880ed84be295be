"""From the folder of a finished job to a mask that can be edited."""

from __future__ import annotations

from pathlib import Path

from cryomamba_core.artifacts import Manifest
from cryomamba_core.errors import InvalidParameter, MissingFile, StorageDamaged
from cryomamba_core.plugins import PluginHost
from cryomamba_core.wire import load_json
from cryomamba_gui.masks.converting import OnSections
from cryomamba_gui.masks.mask import EditedMask

#: Name of the provenance record among a job's artifacts.
MANIFEST = "manifest.json"

#: Bytes of a manifest that is read; one of many labels and a long header has less than a hundredth of it.
MOST_PROVENANCE = 64 << 20


def read_manifest(folder: Path) -> Manifest:
    """What was run on what, from the manifest in a job's folder.

    Raises
    ------
    MissingFile
        If there is none.
    StorageDamaged
        If it cannot be read.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as stream:
            text = stream.read(MOST_PROVENANCE + 1)
    except OSError as error:
        raise MissingFile(
            f"{path} cannot be opened: {error.strerror}", hint="fetch the results of the job again"
        ) from error
    try:
        if len(text) > MOST_PROVENANCE:
            raise InvalidParameter(f"it has more than {MOST_PROVENANCE} bytes")
        return load_json(text, Manifest)
    except (InvalidParameter, RecursionError) as error:
        raise StorageDamaged(f"{path} cannot be read: {error}", hint="fetch the results of the job again") from error


def open_mask(host: PluginHost, artifact: Path, on_progress: OnSections | None = None) -> EditedMask:
    """The mask of a job: as it was left if it was opened before, else from the file that the job made; blocks.

    Parameters
    ----------
    host
        Its readers open the file.
    artifact
        The file, under the name that the job gave it, with ``manifest.json`` beside it.
    on_progress
        As in `EditedMask.create`.

    Raises
    ------
    MissingFile, StorageDamaged
        As `read_manifest` and `EditedMask.reopen`.
    InputError, StorageError
        As `EditedMask.create`.
    """
    folder = artifact.parent
    if EditedMask.is_in(folder):
        return EditedMask.reopen(folder)
    manifest = read_manifest(folder)
    made = next((each for each in manifest.artifacts if each.name == artifact.name), None)
    with host.reader_for(artifact).open(artifact, voxel_size=manifest.grid.voxel_size) as volume:
        return EditedMask.create(
            folder, volume, manifest.run.model.labels, on_progress, grid=manifest.grid, artifact=made
        )

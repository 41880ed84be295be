"""Several files that hold channels of one volume → one file that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio
from attrs import frozen

from cryomamba_core.channels import Channel, holding_type, naming
from cryomamba_core.cli.outputs import OutputFolder
from cryomamba_core.durable import sync_file
from cryomamba_core.errors import InputError, InvalidParameter, OutputExists, PluginFault
from cryomamba_core.geometry import Vector3, VoxelGrid
from cryomamba_core.interfaces import Exporter
from cryomamba_core.interfaces.readers import FIRST_BYTES
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import MOST_CHANNELS, HeaderWarning, Volume

#: Header warnings that are no news to whoever joins channels.
_EXPECTED = frozenset({"header/several-channels"})


@frozen(kw_only=True)
class Wish:
    """What is to be joined, and how.

    Attributes
    ----------
    files
        In the order of the channels.
    target
        The file to write; its name says the format.
    voxel_size
        (z, y, x) in Å instead of that of every header.
    grid_of_first
        Take voxel size and place of the first file for all.
    overwrite
        Whether a file that exists may be replaced; one of `files` never is.
    """

    files: tuple[Path, ...]
    target: Path
    voxel_size: Vector3 | None = None
    grid_of_first: bool = False
    overwrite: bool = False


@frozen(kw_only=True)
class Source:
    """Where a channel comes from.

    Attributes
    ----------
    path, channel
        The file, and which of its channels it is there, counted from 0.
    dtype
        Type of the voxels there.
    name
        For people, unlike that of all other channels.
    """

    path: Path
    channel: int
    dtype: str
    name: str


@frozen(kw_only=True)
class Joined:
    """The file that was written.

    Attributes
    ----------
    path, format, size
        The file, the exporter that wrote it, and its bytes.
    grid, dtype
        Of every channel, as the file says.
    notes
        Decisions, one sentence each.
    sources
        One for each channel.
    warnings
        What looks wrong in the header of which file.
    """

    path: Path
    format: str
    size: int
    grid: VoxelGrid
    dtype: str
    notes: tuple[str, ...]
    sources: tuple[Source, ...]
    warnings: tuple[tuple[Path, HeaderWarning], ...]


async def join_files(host: PluginHost, wish: Wish, *, on_progress: Callable[[int, int], None]) -> Joined:
    """Write the channels of several files into one, whole or not at all; a cancel leaves nothing.

    Parameters
    ----------
    host
        Knows readers and exporters.
    wish
        What is to be joined.
    on_progress
        Called with the bytes that are done and all that there will be, not compressed.

    Raises
    ------
    InputError
        If a file cannot be read, if two do not lie on the same grid, or if the format cannot hold grid or voxels.
    OutputExists, StorageError
        If the file cannot be written.
    """
    exporter = host.channel_exporter_for(wish.target.name)
    _refuse_files(wish)

    def report(done: int, total: int) -> None:
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(on_progress, done, total)

    with (
        OutputFolder(wish.target.parent, overwrite=wish.overwrite, spared=wish.files) as folder,
        folder.stage(f"join-{wish.target.name}") as stage,
    ):
        staged = stage / wish.target.name
        staged.unlink(missing_ok=True)  # a killed process may have left it
        # a compressed file is unpacked in one go, for minutes: a cancel does not wait for the thread
        joined = await trio.to_thread.run_sync(
            partial(_write, host, exporter, wish, staged, report), abandon_on_cancel=True
        )
        await trio.to_thread.run_sync(folder.publish, {staged: wish.target})
    return joined


def _write(
    host: PluginHost, exporter: Exporter, wish: Wish, path: Path, on_progress: Callable[[int, int], None]
) -> Joined:
    """Write the file to `path`, and look whether it holds what it should."""
    with ExitStack() as opened:
        volumes = _open_all(host, wish, opened)
        parts = _parts_of(wish, volumes)
        dtype = _type_of(host, exporter, [volume for _, volume in parts])
        progress = _Progress(len(parts) * volumes[0].grid.voxels, dtype.itemsize, on_progress)
        channels = [
            Channel(
                volume,
                name=source.name,
                dtype=dtype,
                placed_as=volumes[0] if wish.grid_of_first else None,
                on_read=progress.add,
            )
            for source, volume in parts
        ]
        notes = exporter.write_channels(channels, path)
        grid = _read_back(host, exporter, path, channels)
        sync_file(path)
        return Joined(
            path=wish.target,
            format=exporter.name,
            size=path.stat().st_size,
            grid=grid,
            dtype=dtype.name,
            notes=(*_notes(wish, parts, dtype), *notes),
            sources=tuple(source for source, _ in parts),
            warnings=_warnings(wish, volumes),
        )


class _Progress:
    """Counts bytes of the voxels that were read."""

    def __init__(self, voxels: int, itemsize: int, on_progress: Callable[[int, int], None]) -> None:
        self._total = voxels * itemsize
        self._itemsize = itemsize
        self._done = 0
        self._on_progress = on_progress

    def add(self, voxels: int) -> None:
        self._done = min(self._total, self._done + voxels * self._itemsize)
        self._on_progress(self._done, self._total)


def _refuse_files(wish: Wish) -> None:
    """Refuse names that cannot be meant, before anything is opened."""
    seen: set[Path] = set()
    for path in wish.files:
        if path.resolve() in seen:
            raise InvalidParameter(f"{path} is given twice", hint="give each file once, in the order of the channels")
        seen.add(path.resolve())
    if wish.target.resolve() in seen or any(_is_same(wish.target, path) for path in wish.files):
        raise InvalidParameter(
            f"{wish.target} is one of the files that are to be joined", hint="name another file with --out"
        )
    if (wish.target.exists() or wish.target.is_symlink()) and not wish.overwrite:
        raise OutputExists(f"{wish.target} exists", hint="replace it with --overwrite, or name another file with --out")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _open_all(host: PluginHost, wish: Wish, opened: ExitStack) -> list[Volume]:
    """Open the files, and refuse those that do not lie on the first."""
    volumes: list[Volume] = []
    for path in wish.files:
        voxel_size = volumes[0].grid.voxel_size if volumes and wish.grid_of_first else wish.voxel_size
        with naming(str(path)):
            volume = opened.enter_context(host.reader_for(path).open(path, voxel_size=voxel_size))
            volumes.append(volume)
        _refuse_another_grid(volume, path, volumes[0], wish)
    return volumes


def _refuse_another_grid(volume: Volume, path: Path, first: Volume, wish: Wish) -> None:
    if volume.grid.shape != first.grid.shape:
        hint = "channels have a value each for the same voxels: crop, bin or resample one of the two"
    elif wish.grid_of_first:
        return
    else:
        hint = (
            "if a header is wrong, give the true voxel size with --voxel-size, "
            f"or take voxel size and place of {wish.files[0].name} for all with --grid-of-first"
        )
    differences = first.grid.differences(volume.grid)
    if differences:
        found = " and ".join(differences)
        raise InputError(f"{path} does not lie on {wish.files[0]}: it has {found}", hint=hint)


def _parts_of(wish: Wish, volumes: Sequence[Volume]) -> list[tuple[Source, Volume]]:
    """The channels of all files, one after the other."""
    names = [path.name for path in wish.files]
    parts = []
    for path, volume in zip(wish.files, volumes, strict=True):
        name = path.name if names.count(path.name) == 1 else str(path)
        for index, part in enumerate(volume.channels):
            shown = f"{name}, channel {index}" if len(volume.channels) > 1 else name
            parts.append((Source(path=path, channel=index, dtype=part.dtype.name, name=shown), part))
    if len(parts) < 2:
        raise InvalidParameter(
            f"{wish.files[0]} holds one channel, and there is nothing to join it with",
            hint="give the files of all channels, in their order",
        )
    if len(parts) > MOST_CHANNELS:
        raise InvalidParameter(
            f"the files hold {len(parts)} volumes, more than the {MOST_CHANNELS} that can be channels of one",
            hint="give the channels of one volume only",
        )
    return parts


def _type_of(host: PluginHost, exporter: Exporter, volumes: Sequence[Volume]) -> np.dtype[Any]:
    """The type in which all voxels are written as they are."""
    types = [volume.dtype for volume in volumes]
    found = holding_type(types, exporter.channel_types)
    if found is not None:
        return found
    names = " and ".join(sorted({dtype.name for dtype in types}))
    others = [
        suffix
        for other in host.exporters
        if holding_type(types, other.channel_types) is not None
        for suffix in other.channel_suffixes
    ]
    raise InputError(
        f"no type of voxels in {exporter.channel_suffixes[0]} files holds {names} without loss",
        hint=f"let the joined file be one of: {', '.join(others)}"
        if others
        else "convert the voxels to one type first, e.g. float32",
    )


def _read_back(host: PluginHost, exporter: Exporter, path: Path, channels: Sequence[Channel]) -> VoxelGrid:
    """The grid of a file as its header says, which is held against what was to be written."""
    with path.open("rb") as stream:
        reader = host.reader_of(path, stream.read(FIRST_BYTES))
    with reader.open(path) as volume:
        wrong = list(channels[0].grid.differences(volume.grid))
        if len(volume.channels) != len(channels):
            wrong.append(f"{len(volume.channels)} channels instead of {len(channels)}")
        if volume.dtype != channels[0].dtype:
            wrong.append(f"voxels of {volume.dtype.name} instead of {channels[0].dtype.name}")
        if wrong:
            raise PluginFault(
                f"{path.name} would have {' and '.join(wrong)}",
                hint=f"write another format, and report it to the author of the exporter {exporter.name}",
            )
        return volume.grid


def _notes(wish: Wish, parts: Sequence[tuple[Source, Volume]], dtype: np.dtype[Any]) -> tuple[str, ...]:
    found = []
    others = sorted({source.dtype for source, _ in parts} - {dtype.name})
    if others:
        found.append(f"voxels are written as {dtype.name}, which holds those of {' and '.join(others)} as they are")
    if wish.grid_of_first:
        found.append(f"voxel size and place are those of {wish.files[0].name}, whatever the other headers say")
    return tuple(found)


def _warnings(wish: Wish, volumes: Sequence[Volume]) -> tuple[tuple[Path, HeaderWarning], ...]:
    return tuple(
        (path, warning)
        for path, volume in zip(wish.files, volumes, strict=True)
        for warning in volume.warnings
        if warning.code not in _EXPECTED
    )

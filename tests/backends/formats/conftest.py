"""Files to read, written by mrcfile, and runs to export."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryomamba_backends.formats import stats
from cryomamba_backends.formats.mrc import plugin as mrc_plugin
from cryomamba_backends.formats.nifti import plugin as nifti_plugin
from cryomamba_backends.formats.nrrd import plugin as nrrd_plugin
from cryomamba_core.artifacts import RunInfo, SourceFile
from cryomamba_core.durable import sha256_of
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_core.testing.exporters import example_run
from cryomamba_core.volumes import Volume

DTYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


@pytest.fixture
def host(tmp_path: Path) -> PluginHost:
    """A host that knows the formats and nothing else."""
    host = PluginHost(Settings(data_dir=tmp_path / "data"))
    for name, plugin in (("mrc", mrc_plugin), ("nifti", nifti_plugin), ("nrrd", nrrd_plugin), ("stats", stats)):
        record = host.register(plugin, name=name)
        assert not record.error
    return host


@pytest.fixture
def write_mrc(tmp_path: Path) -> Callable[..., Path]:
    """Write an MRC file: any mode, axis order, NSTART, ORIGIN, extended header, byte order.

    ``stored`` is sections × rows × columns; ``fields`` are set in the header last of all.
    """

    def write(
        name: str = "tomogram.mrc",
        *,
        stored: Any = None,
        as_mode: int = 2,
        axes: tuple[int, int, int] = (1, 2, 3),
        voxel_size_xyz: tuple[float, float, float] = (9.25, 10.5, 13.5),
        extended: bytes = b"",
        big_endian: bool = False,
        **fields: Any,
    ) -> Path:
        path = tmp_path / name
        if stored is None:
            stored = np.arange(5 * 7 * 11).reshape(5, 7, 11) % 120
        columns_rows_sections = np.shape(stored)[::-1]
        counts = [columns_rows_sections[axes.index(axis)] for axis in (1, 2, 3)]
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(np.asarray(stored).astype(DTYPES[as_mode]))
            if extended:
                mrc.set_extended_header(np.frombuffer(extended, "V1"))
                mrc.header.exttyp = b"SERI"
            header = mrc.header
            header.mapc, header.mapr, header.maps = axes
            header.mx, header.my, header.mz = counts
            header.cella = tuple(size * count for size, count in zip(voxel_size_xyz, counts, strict=True))
            header.ispg = 1
            for field, value in fields.items():
                header[field] = value
        if big_endian:
            _swap(path, DTYPES[as_mode], len(extended))
        return path

    return write


def _swap(path: Path, dtype: Any, extended: int) -> None:
    """Turn a little-endian MRC file into a big-endian one."""
    content = path.read_bytes()
    header = np.frombuffer(content[:1024], mrcfile.dtypes.HEADER_DTYPE.newbyteorder("<"))
    swapped = header.astype(mrcfile.dtypes.HEADER_DTYPE.newbyteorder(">"))
    swapped["machst"] = (0x11, 0x11, 0, 0)
    voxels = np.frombuffer(content[1024 + extended :], dtype).byteswap()
    path.write_bytes(swapped.tobytes() + content[1024 : 1024 + extended] + voxels.tobytes())


@pytest.fixture
def open_volume(host: PluginHost) -> Iterator[Callable[..., Volume]]:
    """Open a file by the reader that the host finds for it."""
    opened: list[Volume] = []

    def open_it(path: Path, **options: Any) -> Volume:
        opened.append(host.reader_for(path).open(path, **options))
        return opened[-1]

    yield open_it
    for volume in opened:
        volume.close()


@pytest.fixture
def run_of(host: PluginHost) -> Callable[..., RunInfo]:
    """What a worker would tell exporters of a source file."""

    def make(path: Path, volume: Volume, names: dict[int, str] | None = None) -> RunInfo:
        source = SourceFile(
            name=path.name,
            size=path.stat().st_size,
            sha256=sha256_of(path),
            format=host.reader_for(path).name,
            dtype=volume.dtype.name,
            metadata=dict(volume.metadata),
        )
        return example_run(names=names, source=source, grid=volume.grid)

    return make

"""The reader that napari finds of CryoMamba: it opens tomograms lazily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryomamba_core.plugins import PluginHost

#: What a reader of napari's returns that has shown the file itself.
SHOWN = [(None,)]


def reader_for(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """A reader for files that one of the installed plugins reads, or None."""
    paths = [Path(path)] if isinstance(path, str) else [Path(each) for each in path]
    from cryomamba_core.errors import CryoMambaError
    from cryomamba_core.plugins import PluginHost
    from cryomamba_core.settings import load_settings

    host = PluginHost.discover(load_settings())
    try:
        for each in paths:
            host.reader_for(each)
    except CryoMambaError:
        return None
    return partial(_read, host)


def _read(host: PluginHost, path: str | Sequence[str]) -> list[Any]:
    import napari

    from cryomamba_gui.qt.workplace import workplace_of

    viewer = napari.current_viewer()
    paths = [Path(path)] if isinstance(path, str) else [Path(each) for each in path]
    if viewer is None:
        return [_layer(host, each) for each in paths]
    bench = workplace_of(viewer, lambda: host).bench
    for each in paths:
        bench.open(each)
    return list(SHOWN)


def _layer(host: PluginHost, path: Path) -> tuple[Any, dict[str, Any], str]:
    """A tomogram as a layer, for a program that has no window."""
    from cryomamba_gui.volumes.tomogram import Tomogram

    tomogram = Tomogram.open(host, path)
    attributes = {
        "name": path.stem,
        "scale": tomogram.grid.voxel_size,
        "translate": tomogram.grid.origin,
        "units": ("angstrom",) * 3,
        "contrast_limits": tomogram.contrast,
        "metadata": {"cryomamba": tomogram},
    }
    return tomogram.planes, attributes, "image"

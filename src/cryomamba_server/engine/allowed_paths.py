"""Which files of this machine jobs may name by their path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cryomamba_core.errors import Forbidden, InvalidParameter
from cryomamba_core.guarded_files import named, opened_below
from cryomamba_server.engine.intake import SourcePath


class AllowedPaths:
    """Paths that the engine opens in place.

    Outside the allowed folders every path gets the same answer, so that nobody learns what is there.
    Inside, links, pipes and devices are refused, as is the engine's own data directory.

    Parameters
    ----------
    roots
        The allowed folders; None for any path, as the user who runs the engine may open it.
    data_dir
        The data directory, which holds what others have sent.

    Raises
    ------
    InvalidParameter
        If an allowed folder lies in it.
    """

    def __init__(self, roots: Sequence[Path] | None, data_dir: Path) -> None:
        self._any = roots is None
        self._data_dir = data_dir
        spelled = [Path(os.path.normpath(root)) for root in roots or ()]
        self._roots = tuple(dict.fromkeys([*spelled, *(root.resolve() for root in spelled)]))
        for root in self._roots:
            if root.is_relative_to(data_dir.resolve()):
                raise InvalidParameter(
                    f"the allowed folder {root} lies in the data directory, which holds what others have sent",
                    hint="allow another folder",
                )

    @contextmanager
    def opened(self, path: str) -> Iterator[SourcePath]:
        """A path for reading a source, good in this process as long as the context lasts.

        Raises
        ------
        InvalidParameter
            If any path may be named, and this is not a whole one.
        Forbidden
            If it may not be opened.
        MissingFile
            If there is nothing at an allowed path.
        """
        if self._any:
            yield any_path(path)
            return
        whole = Path(path)
        root = self.root_of(whole)
        if root is None:
            raise Forbidden(
                "the path does not lie below a folder that this server opens",
                hint="send the file, or ask whoever runs the server to allow its folder with --allow-root",
            )
        with (
            opened_below(root, whole, closed=[self._data_dir]) as descriptor,
            TemporaryDirectory(prefix="cryomamba-") as folder,
            named(descriptor, whole, Path(folder)) as steady,
        ):
            yield SourcePath(path=steady, name=whole.name)

    def root_of(self, path: Path) -> Path | None:
        """The allowed folder below which a path lies by its spelling; None if there is none, or any path may be named.

        A job that was taken in by an engine that opens any path has no such folder either: its worker
        opens the path as it is.
        """
        if not _is_plain(path):
            return None
        return next((root for root in self._roots if path.is_relative_to(root)), None)


def any_path(path: str) -> SourcePath:
    """A source that is opened as it is named; raises `InvalidParameter` unless the path is whole."""
    if not Path(path).is_absolute():
        raise InvalidParameter(f"the source {path!r} is not an absolute path", hint="give the whole path")
    return SourcePath(path=Path(path), name=Path(path).name)


def _is_plain(path: Path) -> bool:
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return path.is_absolute() and ".." not in path.parts and b"\0" not in encoded

"""Which files of this machine jobs may name by their path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cryomamba_core.errors import Forbidden, InvalidParameter
from cryomamba_core.guarded_files import named, opened_below
from cryomamba_core.jobs import Source
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

    def root_named(self, source: Source) -> str | None:
        """As `root_of`, of the path that a job names, if it names one."""
        root = None if source.path is None else self.root_of(Path(source.path))
        return None if root is None else str(root)

    def require_still(self, root: str) -> None:
        """Raise `Forbidden` if a folder below which a job has named its source is not allowed any more."""
        if not self._any and Path(root) not in self._roots:
            raise Forbidden(
                "the folder of the tomogram is not one any more that this server opens",
                hint="send the file, or ask whoever runs the server to allow the folder again, then retry",
            )

    def root_of(self, path: Path) -> Path | None:
        """The allowed folder below which a path lies by its spelling; None if there is none, or any may be named."""
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

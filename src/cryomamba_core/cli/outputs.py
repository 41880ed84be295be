"""Where results go, and what must not happen to files that are there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryomamba_core.durable import sync_folder
from cryomamba_core.errors import InvalidParameter, OutputExists, StorageError

if TYPE_CHECKING:
    from cryomamba_core.plugins import PluginHost


def stem_of(name: str, host: PluginHost) -> str:
    """A tomogram's file name without the ending that a reader knows, e.g. ``a`` for ``a.nii.gz``."""
    endings = sorted({suffix for reader in host.readers for suffix in reader.suffixes}, key=len, reverse=True)
    for ending in endings:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def target_of(folder: Path, stem: str, artifact: str) -> Path:
    """The file that an artifact is saved as, e.g. ``OUT/a.mask.mrc``."""
    return folder / f"{stem}.{artifact}"


def distinct_stems(files: Sequence[Path], host: PluginHost) -> dict[Path, str]:
    """The stem of each file; raises `InvalidParameter` where two would write the same results."""
    taken: dict[str, Path] = {}
    stems: dict[Path, str] = {}
    for path in files:
        stem = stem_of(path.name, host)
        if stem in taken:
            first = taken[stem]
            if first.absolute() == path.absolute():
                raise InvalidParameter(f"{path} is given twice", hint="give each file once")
            raise InvalidParameter(
                f"the results of {first} and {path} would have the same names",
                hint=f"both would be {stem}.mask.mrc and so on: run them one after the other, each with its own --out",
            )
        taken[stem] = path
        stems[path] = stem
    return stems


def refuse_existing(targets: Mapping[Path, Path], others: Iterable[Path], *, overwrite: bool) -> None:
    """Raise unless everything can be written.

    Parameters
    ----------
    targets
        File that will be written → tomogram that it is made from.
    others
        Further files that will be written.
    overwrite
        Whether files that exist may be replaced; a tomogram never is.
    """
    inputs = {source.resolve() for source in targets.values()}
    for target, source in targets.items():
        if target.resolve() in inputs:
            raise InvalidParameter(
                f"{target} is to be segmented, and is also a result of {source}",
                hint="leave it out, or name another folder with --out",
            )
    existing = [target for target in (*targets, *others) if target.exists() or target.is_symlink()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise OutputExists(
            f"the result {existing[0]} exists{more}",
            hint="replace it with --overwrite, or name another folder with --out",
        )


class OutputFolder:
    """A folder for results, made when it is entered and removed again if nothing came of it.

    Parameters
    ----------
    path
        The folder.
    overwrite
        Whether files that exist are replaced.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self.overwrite = overwrite
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder {self.path} cannot be made: {error.strerror}", hint="name another one with --out"
            ) from error
        self._made = missing
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StorageError(f"the folder {self.path} cannot be written to", hint="name another one with --out")
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # it holds results
                return

    def stage(self) -> Path:
        """A new folder inside, for files that are not whole yet."""
        return Path(tempfile.mkdtemp(prefix=".cryomamba-", dir=self.path))

    def publish(self, staged: Mapping[Path, Path]) -> None:
        """Move whole files (from → to) to their names and make that durable.

        Raises
        ------
        OutputExists
            If one of the names is taken by now; none is moved then.
        """
        taken = [target for target in staged.values() if target.exists()]
        if taken and not self.overwrite:
            raise OutputExists(f"the result {taken[0]} exists", hint="replace it with --overwrite")
        for source, target in staged.items():
            os.replace(source, target)
        sync_folder(self.path)

    def drop(self, stage: Path) -> None:
        """Remove a folder that `stage` made, with what is in it."""
        shutil.rmtree(stage, ignore_errors=True)

"""Where results go, and what must not happen to files that are there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryomamba_core.durable import sync_folder
from cryomamba_core.errors import InvalidParameter, OutputExists, StorageError

if TYPE_CHECKING:
    from cryomamba_core.plugins import PluginHost

#: Bytes of a stem: with an artifact's name behind it, it is still a file name.
LONGEST_STEM = 150
_ANOTHER_NAME = "replace it with --overwrite, or name another folder with --out"


def stem_of(name: str, host: PluginHost) -> str:
    """A tomogram's file name without the ending that a reader knows, e.g. ``a`` for ``a.nii.gz``.

    The name may be a job's label, which is any text: what comes of it is one plain file name.
    """
    endings = sorted({suffix for reader in host.readers for suffix in reader.suffixes}, key=len, reverse=True)
    for ending in endings:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return plain_name(name[: -len(ending)])
    return plain_name(name)


def plain_name(text: str) -> str:
    """A text as a file name, or the beginning of one: no folder, not hidden, no option of a command, not too long."""
    name = "".join(each if each.isprintable() and each not in "/\\" else "_" for each in text).lstrip(".-")
    return name.encode()[:LONGEST_STEM].decode(errors="ignore") or "_"


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
        raise OutputExists(f"the result {existing[0]} exists{more}", hint=_ANOTHER_NAME)


class OutputFolder:
    """A folder for results, made when it is entered and removed again if nothing came of it.

    Parameters
    ----------
    path
        The folder.
    overwrite
        Whether files that exist are replaced.
    spared
        Files that are not replaced all the same: the tomograms.
    """

    def __init__(self, path: Path, *, overwrite: bool, spared: Iterable[Path] = ()) -> None:
        self.path = path
        self.overwrite = overwrite
        self._spared = {_identity(file) for file in spared if file.exists()}
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

    @contextmanager
    def stage(self, job_id: str, *, kept_after: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
        """A hidden folder inside, for a job's files that are not whole yet, removed at the end.

        It stays if the process dies: whoever stages the same job again finds what has arrived.

        Parameters
        ----------
        job_id
            Names the folder.
        kept_after
            Errors after which it stays, too.
        """
        path, lock = self._own(self.path / f".cryomamba-{plain_name(job_id)}")
        try:
            yield path
        except kept_after:
            raise
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)

    def _own(self, wanted: Path) -> tuple[Path, int]:
        """A folder that no other process uses, `wanted` if that can be, and the descriptor that locks it."""
        wanted.mkdir(exist_ok=True)
        lock = os.open(wanted, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == wanted.stat().st_ino:
                return wanted, lock
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(lock)
        other = Path(tempfile.mkdtemp(prefix=".cryomamba-", dir=self.path))
        return other, os.open(other, os.O_RDONLY | os.O_DIRECTORY)

    def publish(self, staged: Mapping[Path, Path]) -> None:
        """Move whole files (from → to) to their names and make that durable.

        Raises
        ------
        OutputExists, InvalidParameter
            As `require_free`; none is moved then.
        """
        self.require_free(staged.values())
        for source, target in staged.items():
            os.replace(source, target)
        sync_folder(self.path)

    def require_free(self, targets: Iterable[Path]) -> None:
        """Raise unless files can be written.

        Raises
        ------
        OutputExists
            If one of the names is taken, and what has it is not to be replaced.
        InvalidParameter
            If one of the names is a tomogram's.
        """
        taken = [target for target in targets if target.exists()]
        if taken and not self.overwrite:
            raise OutputExists(f"the result {taken[0]} exists", hint=_ANOTHER_NAME)
        for target in taken:
            if _identity(target) in self._spared:  # an engine decides what it makes, so this is known only now
                raise InvalidParameter(
                    f"the result {target} would replace a tomogram", hint="name another folder with --out"
                )


def _identity(file: Path) -> tuple[int, int]:
    """What tells a file from all others, whatever it is called."""
    facts = file.stat()
    return facts.st_dev, facts.st_ino

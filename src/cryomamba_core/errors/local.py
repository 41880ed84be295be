"""Errors that can be met on one machine, and what all errors are; the tree stands in `cryomamba_core.errors`."""

from __future__ import annotations

from typing import ClassVar, Self

from attrs import field, frozen


@frozen(kw_only=True)
class ErrorInfo:
    """An error as it is written in records and messages, and shown to people.

    Attributes
    ----------
    code
        Stable name such as ``input/truncated-file``; listed in the documentation.
    message
        One lower-case clause that says what is wrong.
    hint
        What the reader can do about it; may be empty.
    retryable
        Whether the same request may succeed later without a change.
    """

    code: str
    message: str
    hint: str = ""
    retryable: bool = field(default=False)

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Describe any exception; one that is not ours becomes ``internal/fault``."""
        if isinstance(error, CryoMambaError):
            return cls(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
        if isinstance(error, MemoryError):
            return cls.of(OutOfMemory("the process ran out of memory", hint="free memory or choose a smaller volume"))
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return cls.of(StorageFull("no space is left on the disk", hint="free some space, then retry"))
        text = " ".join(str(error).split())
        message = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return cls(
            code="internal/fault", message=message, hint="this is a defect of CryoMamba or of a plugin: report it"
        )


_NO_SPACE = frozenset({28, 122})  # ENOSPC, EDQUOT


def error_of(info: ErrorInfo) -> CryoMambaError:
    """The error that `info` describes, of the class that has its code: what a server said, raised in its client."""
    kind = _by_code(CryoMambaError).get(info.code)
    return JobFailed(info) if kind is None else kind(info.message, hint=info.hint)


def _by_code(base: type[CryoMambaError]) -> dict[str, type[CryoMambaError]]:
    kinds = {base.code: base} if isinstance(base.code, str) else {}
    for kind in base.__subclasses__():
        kinds = {**_by_code(kind), **kinds}
    return kinds


class CryoMambaError(Exception):
    """Base of every error that CryoMamba raises on purpose.

    Parameters
    ----------
    message
        One lower-case clause.
    hint
        What the user can do about it.
    """

    code: ClassVar[str] = "internal/error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InputError(CryoMambaError, ValueError):
    """What the user gave cannot be used."""

    code = "input/invalid"
    exit_code = 3


class MissingFile(InputError, FileNotFoundError):
    """The named file does not exist or cannot be opened."""

    code = "input/missing-file"


class UnknownFormat(InputError):
    """No installed reader recognises the file."""

    code = "input/unknown-format"


class CorruptFile(InputError):
    """The file claims to be of a format but contradicts it."""

    code = "input/corrupt-file"


class TruncatedFile(InputError):
    """The file is shorter than its header says."""

    code = "input/truncated-file"


class UnsupportedFile(InputError):
    """The file is valid, but not a real 3D volume on an orthogonal grid."""

    code = "input/unsupported-file"


class HostileFile(InputError):
    """The file would read other files or exhaust memory."""

    code = "input/hostile-file"


class UnusableVoxelSize(InputError):
    """The voxel size in the header is zero, negative or not a number."""

    code = "input/voxel-size"


class UnusableVolume(InputError):
    """The voxels cannot be segmented: all equal, or not finite."""

    code = "input/unusable-volume"


class SourceChanged(InputError):
    """The file was written to while it was read."""

    code = "input/changed"


class InvalidParameter(InputError):
    """A parameter is unknown or has a value that is not allowed."""

    code = "input/invalid-parameter"


class ModelError(CryoMambaError):
    """The model that was named cannot be used."""

    code = "model/invalid"
    exit_code = 4


class UnknownModel(ModelError, LookupError):
    """No installed model has this name."""

    code = "model/unknown"


class UnusableModel(ModelError):
    """The model folder misses a file, or its parts contradict each other."""

    code = "model/unusable"


class HostileModel(ModelError):
    """The model's files ask to run code."""

    code = "model/hostile"


class UnsupportedModel(ModelError):
    """The model needs something that the runner cannot do."""

    code = "model/unsupported"


class ModelExists(ModelError, FileExistsError):
    """Another model is already installed under this name."""

    code = "model/exists"


class PluginError(CryoMambaError):
    """An extension is missing or misbehaves."""

    code = "plugin/invalid"
    exit_code = 5


class UnknownPlugin(PluginError, LookupError):
    """Nothing is registered under this name."""

    code = "plugin/unknown"


class PluginUnavailable(PluginError):
    """The extension is known, but what it needs is not installed."""

    code = "plugin/unavailable"


class ShardsUnavailable(PluginError):
    """The runner cannot divide a volume among several workers, or the executor cannot run them."""

    code = "plugin/no-shards"


class PluginFault(PluginError):
    """An extension broke its contract."""

    code = "plugin/fault"


class StorageError(CryoMambaError, OSError):
    """Data could not be stored or found."""

    code = "storage/error"
    exit_code = 6


class StorageFull(StorageError):
    """No space is left."""

    code = "storage/full"
    retryable = True


class StorageDamaged(StorageError):
    """Stored bytes do not match their digest or their size."""

    code = "storage/damaged"


class UnknownObject(StorageError, LookupError):
    """No stored object has this key."""

    code = "storage/unknown-object"


class QuotaExceeded(StorageError):
    """What an owner may keep on the server is used up."""

    code = "storage/quota"


class DataDirectoryUnusable(StorageError):
    """The data directory cannot hold a job store."""

    code = "storage/data-directory"


class OutputExists(StorageError, FileExistsError):
    """A result would overwrite a file."""

    code = "storage/output-exists"


class JobError(CryoMambaError):
    """A job could not do its work."""

    code = "job/error"
    exit_code = 7


class UnknownJob(JobError, LookupError):
    """No job has this id."""

    code = "job/unknown"


class IllegalTransition(JobError):
    """The job's state does not allow what was asked."""

    code = "job/illegal-transition"


class IdempotencyConflict(JobError):
    """The idempotency key came with another request before."""

    code = "job/idempotency-conflict"


class SubmissionInFlight(JobError):
    """A request with the same idempotency key is being answered right now."""

    code = "job/in-flight"
    retryable = True


class TooManyJobs(JobError):
    """As many jobs of one owner wait as may."""

    code = "job/too-many"
    retryable = True


class DoesNotFit(JobError, MemoryError):
    """The work needs more memory than the computer or its device has."""

    code = "job/does-not-fit"


class WorkerDied(JobError):
    """The worker process ended without a result."""

    code = "job/worker-died"
    retryable = True


class OutOfMemory(JobError, MemoryError):
    """The work does not fit in memory."""

    code = "job/out-of-memory"
    retryable = True


class JobWasCanceled(JobError):
    """A job whose result was awaited was canceled by somebody else."""

    code = "job/canceled"


class JobFailed(JobError):
    """A job ended in failure; carries what the worker said.

    Parameters
    ----------
    info
        The error in the job's record.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, hint=info.hint)
        self.info = info

    @property
    def code(self) -> str:  # type: ignore[override]  # the worker's code, not a class constant
        """The code of what made the job fail."""
        return self.info.code

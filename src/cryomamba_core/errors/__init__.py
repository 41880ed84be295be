"""Every error that a user of CryoMamba can meet, and whose fault it is.

::

    CryoMambaError                          exit code 1
    ├── InputError (ValueError)             exit code 3: the file or value that was given
    │   ├── MissingFile (FileNotFoundError)     input/missing-file
    │   ├── UnknownFormat                       input/unknown-format
    │   ├── CorruptFile                         input/corrupt-file
    │   ├── TruncatedFile                       input/truncated-file
    │   ├── UnsupportedFile                     input/unsupported-file
    │   ├── HostileFile                         input/hostile-file
    │   ├── UnusableVoxelSize                   input/voxel-size
    │   ├── UnusableVolume                      input/unusable-volume
    │   ├── SourceChanged                       input/changed
    │   └── InvalidParameter                    input/invalid-parameter
    ├── ModelError                          exit code 4: the model that was named
    │   ├── UnknownModel (LookupError)          model/unknown
    │   ├── UnusableModel                       model/unusable
    │   ├── HostileModel                        model/hostile
    │   ├── UnsupportedModel                    model/unsupported
    │   └── ModelExists (FileExistsError)       model/exists
    ├── PluginError                         exit code 5: an extension, or one that is missing
    │   ├── UnknownPlugin (LookupError)         plugin/unknown
    │   ├── PluginUnavailable                   plugin/unavailable
    │   ├── ShardsUnavailable                   plugin/no-shards
    │   └── PluginFault                         plugin/fault
    ├── StorageError (OSError)              exit code 6: the disk or the place for the results
    │   ├── StorageFull                         storage/full
    │   ├── StorageDamaged                      storage/damaged
    │   ├── UnknownObject (LookupError)         storage/unknown-object
    │   ├── QuotaExceeded                       storage/quota
    │   ├── DataDirectoryUnusable               storage/data-directory
    │   └── OutputExists (FileExistsError)      storage/output-exists
    ├── JobError                            exit code 7: a job that could not do its work
    │   ├── UnknownJob (LookupError)            job/unknown
    │   ├── IllegalTransition                   job/illegal-transition
    │   ├── IdempotencyConflict                 job/idempotency-conflict
    │   ├── SubmissionInFlight                  job/in-flight
    │   ├── TooManyJobs                         job/too-many
    │   ├── DoesNotFit (MemoryError)            job/does-not-fit
    │   ├── WorkerDied                          job/worker-died
    │   ├── OutOfMemory (MemoryError)           job/out-of-memory
    │   ├── JobWasCanceled                      job/canceled
    │   └── JobFailed                           the code of what made it fail
    ├── UploadError                         exit code 9: a file on its way to a server
    │   ├── UnknownUpload (LookupError)         upload/unknown
    │   ├── PartRefused                         upload/part
    │   ├── UploadConflict                      upload/conflict
    │   └── UploadIncomplete                    upload/incomplete
    ├── AccessError                         exit code 10: who one is, and what one may do
    │   ├── Unauthenticated                     access/unauthenticated
    │   ├── Forbidden (PermissionError)         access/forbidden
    │   ├── RateLimited                         access/rate-limited
    │   └── UnknownToken (LookupError)          access/unknown-token
    └── ServerError                         exit code 11: the conversation with a server
        ├── ServerUnreachable (ConnectionError) server/unreachable
        ├── ServerUntrusted                     server/untrusted
        ├── ServerStopping                      server/stopping
        ├── ServerNotReady                      server/not-ready
        ├── ServerUnusable                      server/unusable
        ├── BrokenProtocol                      server/broken-protocol
        ├── BadRequest                          request/malformed
        │   └── LengthRequired                      request/length-required
        ├── UnknownAddress (LookupError)        request/unknown-address
        ├── MethodNotAllowed                    request/method
        ├── RangeNotSatisfiable                 request/range
        ├── RequestTooLarge                     request/too-large
        └── RequestTooSlow                      request/too-slow

A message is one lower-case clause; the hint says what to do about it.
"""

from __future__ import annotations

from cryomamba_core.errors.local import (
    CorruptFile,
    CryoMambaError,
    DataDirectoryUnusable,
    DoesNotFit,
    ErrorInfo,
    HostileFile,
    HostileModel,
    IdempotencyConflict,
    IllegalTransition,
    InputError,
    InvalidParameter,
    JobError,
    JobFailed,
    JobWasCanceled,
    MissingFile,
    ModelError,
    ModelExists,
    OutOfMemory,
    OutputExists,
    PluginError,
    PluginFault,
    PluginUnavailable,
    QuotaExceeded,
    ShardsUnavailable,
    SourceChanged,
    StorageDamaged,
    StorageError,
    StorageFull,
    SubmissionInFlight,
    TooManyJobs,
    TruncatedFile,
    UnknownFormat,
    UnknownJob,
    UnknownModel,
    UnknownObject,
    UnknownPlugin,
    UnsupportedFile,
    UnsupportedModel,
    UnusableModel,
    UnusableVolume,
    UnusableVoxelSize,
    WorkerDied,
    error_of,
)
from cryomamba_core.errors.network import (
    AccessError,
    BadRequest,
    BrokenProtocol,
    Forbidden,
    LengthRequired,
    MethodNotAllowed,
    PartRefused,
    RangeNotSatisfiable,
    RateLimited,
    RequestTooLarge,
    RequestTooSlow,
    ServerError,
    ServerNotReady,
    ServerStopping,
    ServerUnreachable,
    ServerUntrusted,
    ServerUnusable,
    Unauthenticated,
    UnknownAddress,
    UnknownToken,
    UnknownUpload,
    UploadConflict,
    UploadError,
    UploadIncomplete,
)

__all__ = [
    "AccessError",
    "BadRequest",
    "BrokenProtocol",
    "CorruptFile",
    "CryoMambaError",
    "DataDirectoryUnusable",
    "DoesNotFit",
    "ErrorInfo",
    "Forbidden",
    "HostileFile",
    "HostileModel",
    "IdempotencyConflict",
    "IllegalTransition",
    "InputError",
    "InvalidParameter",
    "JobError",
    "JobFailed",
    "JobWasCanceled",
    "LengthRequired",
    "MethodNotAllowed",
    "MissingFile",
    "ModelError",
    "ModelExists",
    "OutOfMemory",
    "OutputExists",
    "PartRefused",
    "PluginError",
    "PluginFault",
    "PluginUnavailable",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RateLimited",
    "RequestTooLarge",
    "RequestTooSlow",
    "ServerError",
    "ServerNotReady",
    "ServerStopping",
    "ServerUnreachable",
    "ServerUntrusted",
    "ServerUnusable",
    "ShardsUnavailable",
    "SourceChanged",
    "StorageDamaged",
    "StorageError",
    "StorageFull",
    "SubmissionInFlight",
    "TooManyJobs",
    "TruncatedFile",
    "Unauthenticated",
    "UnknownAddress",
    "UnknownFormat",
    "UnknownJob",
    "UnknownModel",
    "UnknownObject",
    "UnknownPlugin",
    "UnknownToken",
    "UnknownUpload",
    "UnsupportedFile",
    "UnsupportedModel",
    "UnusableModel",
    "UnusableVolume",
    "UnusableVoxelSize",
    "UploadConflict",
    "UploadError",
    "UploadIncomplete",
    "WorkerDied",
    "error_of",
]

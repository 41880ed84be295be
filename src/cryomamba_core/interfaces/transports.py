"""Client → engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

from attrs import field, frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.events import JobEvent
from cryomamba_core.files import FileRecord
from cryomamba_core.jobs import JobConfig, JobRecord
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import JobPlan
from cryomamba_core.plugin_record import PluginRecord


@frozen(kw_only=True)
class Credentials:
    """Proof of who the client is; never shown.

    Attributes
    ----------
    token
        Bearer token, or None where none is needed.
    fingerprint
        SHA-256 of the certificate (DER, in hexadecimal) that the server must show; None to trust
        the certificate authorities of this computer.
    """

    token: str | None = field(default=None, repr=False)
    fingerprint: str | None = None


@frozen(kw_only=True)
class Limits:
    """What a server allows.

    Attributes
    ----------
    part_size
        Bytes of an upload's parts.
    parallel_parts
        Parts of all uploads together that the server takes in at a time; more have to wait.
    requests_per_minute
        Requests that each token may make, parts of uploads aside; 0 for any number.
    quota_bytes
        What each owner may keep in files; 0 for any amount.
    upload_hours
        An upload to which nothing was added for so long is dropped.
    url_seconds
        How long the address of an artifact can be used.
    running_jobs
        Jobs of all owners together that can run at the same time.
    """

    part_size: int
    parallel_parts: int
    requests_per_minute: int
    quota_bytes: int
    upload_hours: float
    url_seconds: int
    running_jobs: int


@frozen(kw_only=True)
class ServerInfo:
    """What a client should know of an engine.

    Attributes
    ----------
    version, api_version
        Of CryoMamba, and of its plugin interfaces.
    shares_files
        Whether the engine opens the client's own paths, so that nothing need be sent.
    devices
        One for each job that can run at the same time.
    runners, exporters
        Names.
    problems
        Plugins that were left out, one sentence each.
    limits
        What a server allows; None for an engine that is no server.
    plugins
        Every plugin that a server found; empty for an engine that is no server.
    scopes
        What the caller's token allows, sorted; None for an engine that asks for no token.
    """

    version: str
    api_version: int
    shares_files: bool
    devices: tuple[str, ...]
    runners: tuple[str, ...]
    exporters: tuple[str, ...]
    problems: tuple[str, ...] = ()
    limits: Limits | None = None
    plugins: tuple[PluginRecord, ...] = ()
    scopes: tuple[str, ...] | None = None


#: Called with bytes done and bytes in all.
OnProgress = Callable[[int, int], None]
#: Called with why an engine is waited for, and with None once it is heard again.
OnWaiting = Callable[[ErrorInfo | None], None]


class Session(ABC):
    """A client's conversation with an engine: what the command line and the desktop use.

    All methods are for trio. A method that is cancelled leaves the engine as if it had been called
    and answered, or not been called; an upload that is cancelled can be continued by the same call.

    Attributes
    ----------
    on_waiting
        Hears why the engine is waited for while methods go on trying: ``access/rate-limited`` where
        it wants fewer requests, any other code where it does not answer. Hears None once there is
        nothing to wait for. Whoever wants to know sets it; it is called in trio's thread, and returns
        at once. An engine that is always there never calls it.
    """

    on_waiting: OnWaiting | None = None

    @abstractmethod
    async def server_info(self) -> ServerInfo:
        """What the engine is and can do."""

    @abstractmethod
    async def models(self) -> Sequence[ModelInfo]:
        """Models of all runners, by runner and name."""

    @abstractmethod
    async def upload(
        self, path: Path, *, on_progress: OnProgress | None = None, on_known: OnProgress | None = None
    ) -> FileRecord:
        """Send a file; one whose content the engine already has is not sent again.

        Parameters
        ----------
        path
            The file.
        on_progress
            Hears bytes that the engine has by now, and bytes in all.
        on_known
            Hears bytes that the engine had already, and bytes in all; what was said last counts. It
            is not called where all of them have to go.

        Raises
        ------
        InputError
            If no reader takes the file.
        """

    @abstractmethod
    async def plan(self, config: JobConfig) -> JobPlan:
        """Say what a job would cost, or raise what would refuse it; nothing is started."""

    @abstractmethod
    async def submit(self, config: JobConfig, *, idempotency_key: str | None = None) -> JobRecord:
        """Queue a job.

        Parameters
        ----------
        config
            What to do.
        idempotency_key
            A second call with the same key returns the first one's job.
        """

    @abstractmethod
    async def job(self, job_id: str) -> JobRecord:
        """A job's record; raises `UnknownJob`."""

    @abstractmethod
    async def jobs(self, *, limit: int = 100, before: str | None = None) -> Sequence[JobRecord]:
        """The newest jobs first, at most `limit`, only those older than the job `before`."""

    @abstractmethod
    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job; returns when it has ended, as canceled or (had it been quicker) otherwise."""

    @abstractmethod
    async def retry(self, job_id: str) -> JobRecord:
        """Queue a failed or canceled job again; raises `IllegalTransition` for any other."""

    @abstractmethod
    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """A job's events from number `after` + 1 on, in ascending order, until it has ended.

        Older progress and previews are left out where newer ones exist; states and ends never are.
        Close the iterator (``async with aclosing(…)``) when leaving it early.
        """

    @abstractmethod
    async def download(
        self, job_id: str, artifact: Artifact | str, target: Path, *, on_progress: OnProgress | None = None
    ) -> None:
        """Fetch an artifact into the file `target`, checked against its digest and renamed into place.

        Parameters
        ----------
        job_id
            The job.
        artifact
            What the job's record says of it, so that the engine need not be asked again; or its name.
        target
            The file that it becomes.
        on_progress
            Hears bytes that are here by now, and bytes in all.

        Raises
        ------
        UnknownObject
            If the job has no such artifact.
        OutputExists
            If `target` exists.
        """


class Transport(ABC):
    """Opens sessions for one or more URL schemes."""

    #: Unique name, e.g. ``local``.
    name: ClassVar[str]
    #: URL schemes without the colon, e.g. ``("http", "https")``.
    schemes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def open(self, url: str, credentials: Credentials) -> AbstractAsyncContextManager[Session]:
        """Connect; the session ends with the context."""

"""A conversation with the engine in this process."""

from __future__ import annotations

import getpass
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import trio
from attrs import evolve

from cryomamba_core.artifacts import Artifact
from cryomamba_core.durable import CHUNK, replacing
from cryomamba_core.errors import OutputExists, StorageDamaged, UnusableModel
from cryomamba_core.events import JobEvent
from cryomamba_core.files import FileRecord
from cryomamba_core.interfaces import ModelRunner, ServerInfo, Session
from cryomamba_core.interfaces.transports import OnProgress
from cryomamba_core.jobs import JobConfig, JobRecord, Source
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import JobPlan
from cryomamba_core.plugins import PluginHost
from cryomamba_server.engine.engine import Engine


class LocalSession(Session):
    """The engine's methods, for the user who runs this process.

    Paths may be relative to the working directory, and the name of a model may be the path of a
    trained-model folder, which is installed first.

    Parameters
    ----------
    engine
        The engine.
    host
        Has the runners that install models.
    """

    def __init__(self, engine: Engine, host: PluginHost) -> None:
        self._engine = engine
        self._host = host
        self._owner = user_name()

    async def server_info(self) -> ServerInfo:
        """What the engine is and can do."""
        return self._engine.server_info(shares_files=True)

    async def models(self) -> Sequence[ModelInfo]:
        """Models of all runners."""
        return await self._engine.models()

    async def upload(
        self, path: Path, *, on_progress: OnProgress | None = None, on_known: OnProgress | None = None
    ) -> FileRecord:
        """Take a copy of a file into the data directory; nothing of it is known before."""
        return await self._engine.add_file(path.absolute(), owner=self._owner, on_piece=_reporting(on_progress))

    async def plan(self, config: JobConfig) -> JobPlan:
        """Say what a job would cost."""
        return await self._engine.plan(await self._localized(config), owner=self._owner)

    async def submit(self, config: JobConfig, *, idempotency_key: str | None = None) -> JobRecord:
        """Queue a job."""
        localized = await self._localized(config)
        return await self._engine.submit(localized, owner=self._owner, idempotency_key=idempotency_key)

    async def job(self, job_id: str) -> JobRecord:
        """A job's record."""
        return await self._engine.job(job_id, owner=self._owner)

    async def jobs(self, *, limit: int = 100, before: str | None = None) -> Sequence[JobRecord]:
        """The newest jobs first."""
        return await self._engine.jobs(owner=self._owner, limit=limit, before=before)

    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job and wait for its end."""
        return await self._engine.cancel(job_id, owner=self._owner)

    async def retry(self, job_id: str) -> JobRecord:
        """Queue a failed or canceled job again."""
        return await self._engine.retry(job_id, owner=self._owner)

    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """A job's events until it has ended."""
        return self._engine.events(job_id, owner=self._owner, after=after)

    async def download(
        self, job_id: str, artifact: Artifact | str, target: Path, *, on_progress: OnProgress | None = None
    ) -> None:
        """Copy an artifact into a file."""
        name = artifact if isinstance(artifact, str) else artifact.name
        found, key = await self._engine.artifact(job_id, name, owner=self._owner)
        copy = partial(self._copy, found, key, target.absolute(), _reporting(on_progress))
        await trio.to_thread.run_sync(copy)

    def _copy(self, artifact: Artifact, key: str, target: Path, report: OnProgress) -> None:
        _refuse_existing(target)
        digest, done = hashlib.sha256(), 0
        with replacing(target) as partial_file:
            with partial_file.open("wb") as stream:
                while done < artifact.size:
                    chunk = self._engine.storage.read(key, done, min(done + CHUNK, artifact.size))
                    if not chunk:
                        break
                    stream.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    report(done, artifact.size)
            if digest.hexdigest() != artifact.sha256:
                raise StorageDamaged(f"{artifact.name} has changed since the job made it", hint="run the job again")
            _refuse_existing(target)

    async def _localized(self, config: JobConfig) -> JobConfig:
        """The request with an absolute path, and with the name of an installed model."""
        source = config.source
        if source.path is not None:
            source = Source(path=str(Path(source.path).expanduser().absolute()))
        if config.model is None or await trio.to_thread.run_sync(_is_name, config, self._host):
            return evolve(config, source=source)
        folder = Path(config.model).expanduser().absolute()
        model = await trio.to_thread.run_sync(self._install, folder, config.runner)
        return evolve(config, source=source, model=model.name, runner=model.runner)

    def _install(self, folder: Path, runner: str | None) -> ModelInfo:
        runners: list[ModelRunner] = list(self._host.runners) if runner is None else [self._host.runners.get(runner)]
        for candidate in runners:
            if candidate.recognises(folder):
                return candidate.install(folder)
        names = ", ".join(candidate.name for candidate in runners) or "none"
        raise UnusableModel(
            f"no runner recognises the folder {folder} as a model",
            hint=f"name the folder that holds plans.json and fold_0 or the like; runners: {names}",
        )


def user_name() -> str:
    """The name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without an entry, as in containers
        return f"uid-{os.getuid()}"


def _is_name(config: JobConfig, host: PluginHost) -> bool:
    """Whether the model is named, not given as a folder; an installed name wins over a folder of that name."""
    model = config.model or ""
    runners = [runner for runner in host.runners if config.runner in (None, runner.name)]
    if any(info.name == model for runner in runners for info in runner.models()):
        return True
    return not Path(model).expanduser().is_dir()


def _reporting(on_progress: OnProgress | None) -> Callable[[int, int], None]:
    """Report from a worker thread in trio's, and stop the work there if the caller is cancelled."""

    def report(done: int, total: int) -> None:
        trio.from_thread.check_cancelled()
        if on_progress is not None:
            trio.from_thread.run_sync(on_progress, done, total)

    return report


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise OutputExists(f"{target} exists", hint="choose another folder, or move the file away")

"""What plugins implement: one abstract class for each kind of extension."""

from cryomamba_core.interfaces.executors import Executor, Resources, WorkerExit, WorkerHandle
from cryomamba_core.interfaces.exporters import Exporter
from cryomamba_core.interfaces.readers import VolumeReader
from cryomamba_core.interfaces.runners import JobCanceled, ModelRunner, RunContext
from cryomamba_core.interfaces.storages import ObjectInfo, Storage
from cryomamba_core.interfaces.transports import Credentials, Limits, ServerInfo, Session, Transport

__all__ = [
    "Credentials",
    "Executor",
    "Exporter",
    "JobCanceled",
    "Limits",
    "ModelRunner",
    "ObjectInfo",
    "Resources",
    "RunContext",
    "ServerInfo",
    "Session",
    "Storage",
    "Transport",
    "VolumeReader",
    "WorkerExit",
    "WorkerHandle",
]

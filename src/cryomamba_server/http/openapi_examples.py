"""Examples for the OpenAPI document: values of the vocabulary, so that they cannot contradict it, and commands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import attrs

from cryomamba_core.artifacts import Artifact
from cryomamba_core.jobs import JobConfig, JobProgress, JobState, Source
from cryomamba_core.labels import Label
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import JobPlan, RunPlan
from cryomamba_core.protocol.jobs import JobPage, JobView
from cryomamba_core.protocol.uploads import PartReceipt, UploadedFile, UploadRequest, UploadStatus
from cryomamba_core.wire import to_plain
from cryomamba_server.http.routing import Guard, Route

_JOB = "019ab0c2-5d1e-7c43-9a57-3f1f6d1b7e20"
_UPLOAD = "019ab0c1-93aa-7e0d-8f0c-52d1b6a1c9f4"
_DIGEST = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
_FILE = f"sha256-{_DIGEST}"
_SIZE = 20_000_000
_PART = 8 << 20
_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

_CONFIG = JobConfig(source=Source(file_id=_FILE), model="membranes", artifacts=("mask.mrc",), label="tomo_17.mrc")
_MASK = Artifact(
    name="mask.mrc",
    media_type="application/x-mrc",
    size=8_389_632,
    sha256=_DIGEST,
    url=f"/v1/files/{_JOB}/mask.mrc?signature=…",
    url_expires_at=_NOON.replace(minute=15),
)
_VIEW = JobView(
    job_id=_JOB,
    owner="ada",
    state=JobState.RUNNING,
    config=_CONFIG,
    progress=JobProgress(stage="segmenting", done=61, total=245, unit="tiles", fraction=0.24, eta_seconds=93.0),
    queue_position=None,
    eta_seconds=93.0,
    starts_in_seconds=None,
    attempt=1,
    created_at=_NOON,
    started_at=_NOON.replace(second=2),
    finished_at=None,
    error=None,
    artifacts=(),
    versions={"cryomamba": "0.1.0"},
)
_VALUES: tuple[Any, ...] = (
    _CONFIG,
    _MASK,
    _VIEW,
    JobPage(jobs=(_VIEW,), next_before=_JOB),
    JobPlan(
        run=RunPlan(tiles=245, ram_bytes=700_000_000, seconds=120.0),
        device="cuda:0",
        disk_bytes=900_000_000,
        queue_position=1,
    ),
    ModelInfo(
        name="membranes",
        runner="nnunet",
        labels=(Label(value=1, name="membrane", color="#56b4e9"),),
        voxel_size=(10.0, 10.0, 10.0),
        digest=_DIGEST,
    ),
    UploadRequest(filename="tomo_17.mrc", size=_SIZE, fingerprint="tomo_17.mrc:20000000:1795435200"),
    UploadStatus(
        upload_id=_UPLOAD,
        filename="tomo_17.mrc",
        size=_SIZE,
        part_size=_PART,
        part_count=3,
        received=(0,),
        digests={"0": _DIGEST},
        expires_at=_NOON.replace(day=26),
    ),
    PartReceipt(upload_id=_UPLOAD, index=1, size=_PART, sha256=_DIGEST),
    UploadedFile(file_id=_FILE, filename="tomo_17.mrc", size=_SIZE, sha256=_DIGEST, created_at=_NOON),
)
_BY_TYPE = {type(value): value for value in _VALUES}

#: Argument of a rule → how the commands name it.
_ARGUMENTS = {"upload_id": "$UPLOAD", "job_id": "$JOB", "index": "0", "idx": "0", "artifact": "mask.mrc"}


def example_of(kind: Any) -> Any:
    """An example of a type, as JSON types; None where there is none."""
    value = _BY_TYPE.get(kind)
    return None if value is None else to_plain(value)


def command(route: Route) -> str:
    """A command that asks a route; the variables in it are the server's address, a token and ids."""
    address = re.sub(
        r"<(?:\w+(?:\(.*?\))?:)?(\w+)>", lambda found: _ARGUMENTS.get(found[1], f"${found[1].upper()}"), route.rule
    )
    if route.method == "WEBSOCKET":
        return " \\\n  ".join(["wsdump", f"--headers {_BEARER}", f'"${{CRYOMAMBA_SERVER/#http/ws}}{address}?after=0"'])
    return " \\\n  ".join(["curl --fail-with-body", *_options(route), f'"$CRYOMAMBA_SERVER{address}"'])


_BEARER = '"Authorization: Bearer $CRYOMAMBA_TOKEN"'


def _argument(name: str) -> str:
    return _ARGUMENTS.get(name, f"${name.upper()}")


def _options(route: Route) -> Iterable[str]:
    if route.media_type == "text/event-stream":
        yield "--no-buffer"
    if route.method not in ("GET", "PUT") and (route.method != "POST" or route.takes is None):
        yield f"--request {route.method}"
    if route.access is not Guard.OPEN:
        yield f"--header {_BEARER}"
    if route.takes is bytes:
        yield '--header "Content-Digest: sha-256=:$(openssl dgst -sha256 -binary part | base64):"'
        yield "--upload-file part"
    elif route.takes is not None:
        yield "--header 'Content-Type: application/json'"
        yield f"--data {shlex.quote(json.dumps(_short(route.takes), ensure_ascii=False))}"


def _short(kind: Any) -> Any:
    """An example without the fields that have their default."""
    value = _BY_TYPE[kind]
    plain: dict[str, Any] = to_plain(value)
    usual = {field.name: field.default for field in attrs.fields(kind)}
    return {name: each for name, each in plain.items() if each and getattr(value, name) != usual[name]}

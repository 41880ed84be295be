"""The rows of tables that are read off the code; needs no Sphinx, so that tests can look at them too."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, get_args

import attrs
import numpy as np
from wsproto.frame_protocol import CloseReason

from cryomamba_core import errors, events, hookspecs, job_directory, jobs
from cryomamba_core.cli.failures import EXIT_CODES
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.jobs import TRANSITIONS
from cryomamba_core.previews import Preview
from cryomamba_core.protocol.live import event_to_json
from cryomamba_core.protocol.uploads import MAX_FILENAME, MAX_PARTS
from cryomamba_core.settings import Settings
from cryomamba_server.engine import part_slots, uploads
from cryomamba_server.engine.store import MOST_QUEUED
from cryomamba_server.http import audience, protocol, serving
from cryomamba_server.http.access import addresses, authentication, claims, gate, tokens
from cryomamba_server.http.app import MAX_JSON, all_routes
from cryomamba_server.http.command import serve
from cryomamba_server.http.errors import STATUSES, status_of
from cryomamba_server.http.metrics import Metrics
from cryomamba_server.http.openapi import path_template
from cryomamba_server.http.openapi_schemas import field_descriptions
from cryomamba_server.http.routing import Guard, Route, Scope
from cryomamba_server.http.settings import ServeSettings


def error_codes() -> Iterable[Sequence[str]]:
    """Each error that has a code of its own."""
    yield "Code", "Meaning", "Exit code", "Worth retrying", "Class"
    for error in _classes_below(errors.CryoMambaError):
        if isinstance(error.code, str):
            meaning = inspect.getdoc(error) or ""
            retry = "yes" if error.retryable else ""
            yield f"``{error.code}``", meaning.split("\n")[0], str(error.exit_code), retry, f"``{error.__name__}``"
    yield "``internal/fault``", "Anything else: a defect of CryoMamba or of a plugin.", "1", "", ""


def exit_codes() -> Iterable[Sequence[str]]:
    """What the command's exit status says."""
    yield "Exit code", "Meaning"
    for code, meaning in EXIT_CODES.items():
        yield str(code), meaning


def worker_exit_codes() -> Iterable[Sequence[str]]:
    """What the exit status of a worker says."""
    yield "Exit code", "Meaning"
    yield "0", "The last event is ``Completed``."
    yield str(job_directory.EXIT_CANCELED), "It found the order to cancel and stopped."
    yield str(job_directory.EXIT_FAILED), "The last event is ``Failed`` and says why."
    yield "anything else", "It died; a new worker is started while attempts are left."


def settings() -> Iterable[Sequence[str]]:
    """Each setting with its variable, its key, its default and its meaning."""
    meanings = field_descriptions(Settings)
    yield "Variable", "Key in the file", "Default", "Meaning"
    for setting in attrs.fields(Settings):
        default = "the user's data folder" if setting.name == "data_dir" else f"``{_shown(setting.default)}``"
        variable = f"``CRYOMAMBA_{setting.name.upper()}``"
        yield variable, f"``{setting.name}``", default, meanings[setting.name]


def serve_settings() -> Iterable[Sequence[str]]:
    """Each setting of a server with its variable, key, option, default and meaning."""
    meanings = field_descriptions(ServeSettings)
    options = {parameter.name: parameter.opts[0] for parameter in serve.params}
    yield "Key in the file, variable, option", "Default", "Meaning"
    for setting in attrs.fields(ServeSettings):
        names = [setting.name, f"CRYOMAMBA_SERVE_{setting.name.upper()}", options.get(setting.name)]
        shown = _shown(setting.default)
        yield (
            ", ".join(f"``{name}``" for name in names if name),
            f"``{shown}``" if shown else "none",
            meanings[setting.name],
        )


def hooks() -> Iterable[Sequence[str]]:
    """Each hook with its arguments."""
    yield "Hook", "Arguments", "Meaning"
    for name, hook in vars(hookspecs).items():
        if name.startswith("cryomamba_"):
            meaning = (inspect.getdoc(hook) or "").split("\n")[0]
            yield f"``{name}``", ", ".join(f"``{p}``" for p in inspect.signature(hook).parameters), meaning


def transitions() -> Iterable[Sequence[str]]:
    """Which states may follow each."""
    yield "State", "May become"
    for before, after in TRANSITIONS.items():
        yield f"``{before}``", ", ".join(f"``{state}``" for state in sorted(after)) or "nothing else"


#: What each scope is for.
SCOPES = {
    Scope.JOBS_READ: "see and follow one's jobs, list files and models, ask what the server is, use the status page",
    Scope.JOBS_WRITE: "plan, queue, cancel and retry jobs",
    Scope.UPLOADS_WRITE: "send files",
    Scope.ARTIFACTS_READ: "fetch results, and get their signed addresses",
    Scope.METRICS_READ: "read the counters; not part of a token unless it is named",
}

#: What a route without a scope asks for.
GUARDS = {
    Guard.OPEN: "nothing",
    Guard.SIGNATURE: f"a signed address, or ``{Scope.ARTIFACTS_READ}``",
    Guard.COOKIE: f"a login at the status page, or ``{Scope.JOBS_READ}``",
}

#: Why the server closes a WebSocket.
CLOSE_CODES = {
    audience.ENDED: ("the job has ended, and the message that says so was sent", "stop"),
    audience.REFUSED: ("the token has expired or was taken back", "get another token"),
    audience.TOO_BIG: (
        "the client sent a message that is too large; it has nothing to say",
        "repair the client",
    ),
    audience.FAULT: ("the server met an error; the reason is its code", "connect again, with ``after``"),
    audience.STOPPING: ("the server is about to stop", "connect again, with ``after``"),
}


def scopes() -> Iterable[Sequence[str]]:
    """What a token may allow."""
    yield "Scope", "Allows to", "In a token by default"
    for scope in Scope:
        yield f"``{scope}``", SCOPES[scope], "yes" if scope in tokens.DEFAULT_SCOPES else ""


def routes() -> Iterable[Sequence[str]]:
    """Every address of the server."""
    yield "Request", "Needs", "Meaning, and good answers"
    for route in all_routes():
        method = "GET" if route.method == "WEBSOCKET" else route.method
        said = (
            f"{route.summary.rstrip('.')} ({route.status}).",
            *(f"{code}: {why}" for code, why in route.also.items()),
        )
        yield f"``{method} {path_template(route.rule)}``", _needs(route), _literals(" ".join(said))


def _needs(route: Route) -> str:
    return f"``{route.access}``" if isinstance(route.access, Scope) else GUARDS[route.access]


def request_headers() -> Iterable[Sequence[str]]:
    """The headers that particular addresses look at."""
    yield "Header", "Address", "Meaning"
    for route in all_routes():
        for header, meaning in route.headers.items():
            yield f"``{header}``", f"``{path_template(route.rule)}``", _literals(meaning)


def statuses() -> Iterable[Sequence[str]]:
    """Which errors have which status."""
    yield "Status", "Name", "Codes"
    codes: dict[int, list[str]] = {}
    for kind in (errors.CryoMambaError, *_classes_below(errors.CryoMambaError)):
        if kind in STATUSES:
            family = f"{kind.code.partition('/')[0]}/…"
            first_of_many = errors.CryoMambaError in kind.__bases__
            said = f"others of ``{family}``" if first_of_many else f"``{kind.code}``"
            codes.setdefault(status_of(kind), []).append(said)
    codes[500] = ["``internal/fault``", *(code for code in codes[500] if code != f"``{errors.CryoMambaError.code}``")]
    for status in sorted(codes):
        yield str(status), HTTPStatus(status).phrase, ", ".join(codes[status])


def limits() -> Iterable[Sequence[str]]:
    """What the server takes at most."""
    default = ServeSettings()
    yield "What", "At most", "Setting"
    yield (
        "connections at a time",
        f"{serving.MOST_CONNECTIONS}, or half of the descriptors that it may have",
        "",
    )
    yield "first line and headers of a request", f"{protocol.MAX_HEADERS} bytes, {protocol.MAX_HEADER_LINES} lines", ""
    yield "a JSON body", f"{MAX_JSON} bytes", ""
    yield "a pause in a body", f"{default.idle_seconds:g} s", "``idle_seconds``"
    yield "time for a body", f"what {default.least_rate} bytes a second take, and one pause", "``least_rate``"
    yield "requests a minute that count, of each token", str(default.requests_per_minute), "``requests_per_minute``"
    yield "requests a minute for the status page, of each token", str(gate.PAGES_PER_MINUTE), ""
    yield "wrong tokens and signatures a minute, from one address", str(authentication.FAILURES), ""
    yield "parts and artifacts under way", f"{gate.DATA_OF_EACH} of each owner, {gate.DATA_TOGETHER} of all", ""
    yield "parts in memory, of all uploads", str(default.parallel_parts), "``parallel_parts``"
    yield "a part's wait for room in memory", f"{part_slots.LONGEST_WAIT:g} s", ""
    yield (
        "time for a part while others wait for its room",
        (f"what {part_slots.LEAST_RATE} bytes a second take, but {part_slots.LEAST_SECONDS:g} s at least"),
        "",
    )
    yield "a part of an upload", f"{default.part_size} bytes, exactly that but for the last", "``part_size``"
    yield "parts of one file", str(MAX_PARTS), ""
    yield "time for the first part of an upload", f"{uploads.EMPTY_SECONDS / 60:g} min", ""
    yield "a file name", f"{MAX_FILENAME} bytes", ""
    yield "jobs of one owner that wait", str(MOST_QUEUED), ""
    yield (
        "what a job is asked with",
        f"{jobs.MAX_LABEL} characters of label, {jobs.MAX_PARAMS} bytes of parameters, {jobs.MAX_ARTIFACTS} artifacts",
        "",
    )
    yield "age of a signed address", f"{addresses.MAX_SECONDS} s", "``url_seconds``, for less"
    yield "age of a token", f"{tokens.MAX_TTL.days} days", ""
    yield "length of a token", f"{claims.MAX_TOKEN} characters", ""
    yield "a message of a WebSocket client", f"{audience.MOST_HEARD} bytes", ""


def live_messages() -> Iterable[Sequence[str]]:
    """What a listener of a job may hear."""
    yield "``type``", "Fields", "A slow listener gets", "Meaning"
    for kind in get_args(events.JobEvent):
        named = ", ".join(f"``{name}``" for name in _fields_on_the_wire(kind))
        which = "the newest" if issubclass(kind, events.Progress | events.PreviewReady) else "every one"
        yield f"``{kind.type}``", named, which, (inspect.getdoc(kind) or "").split("\n")[0]


def _fields_on_the_wire(kind: Any) -> Iterable[str]:
    """Names beyond those that every message has."""
    if kind is events.PreviewReady:
        grid = VoxelGrid(shape=(1, 1, 1), voxel_size=(10.0, 10.0, 10.0))
        labels = np.zeros(grid.shape, np.uint8)
        preview = Preview.pack(labels, sequence=1, factor=1, grid=grid, covered=grid.whole, provisional=False)
        names = json.loads(event_to_json(kind(seq=1, at=datetime.now(UTC), preview=preview)))
    else:
        names = (field.name for field in attrs.fields(kind))
    return [name for name in names if name not in ("seq", "type", "at")]


def close_codes() -> Iterable[Sequence[str]]:
    """With which codes the server closes a WebSocket."""
    yield "Code", "Name", "Why", "What to do"
    for code, (why, what) in sorted(CLOSE_CODES.items()):
        yield str(code), CloseReason(code).name.lower().replace("_", " "), why, what


def metrics() -> Iterable[Sequence[str]]:
    """What a server counts."""
    registry = Metrics().registry
    labels = {getattr(each, "_name", ""): getattr(each, "_labelnames", ()) for each in registry._collector_to_names}
    yield "Name", "Kind", "Labels", "Meaning"
    for family in registry.collect():
        if family.name.startswith("cryomamba_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            names = ", ".join(f"``{label}``" for label in labels[family.name])
            yield f"``{name}``", family.type, names, family.documentation


TABLES = {
    "close-codes": close_codes,
    "error-codes": error_codes,
    "exit-codes": exit_codes,
    "hooks": hooks,
    "job-states": transitions,
    "limits": limits,
    "live-messages": live_messages,
    "metrics": metrics,
    "request-headers": request_headers,
    "routes": routes,
    "scopes": scopes,
    "serve-settings": serve_settings,
    "settings": settings,
    "statuses": statuses,
    "worker-exit-codes": worker_exit_codes,
}


def _classes_below(base: type[errors.CryoMambaError]) -> Iterable[type[errors.CryoMambaError]]:
    for child in base.__subclasses__():
        if child.__module__.startswith(errors.__name__):
            yield child
            yield from _classes_below(child)


def _shown(default: Any) -> str:
    """A default as one would write it; empty for none."""
    if isinstance(default, attrs.Factory):
        default = default.factory()
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, tuple) else "" if default is None else str(default)


def _literals(text: str) -> str:
    """Text of Markdown, whose literals have one backtick, as that of a table."""
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)

"""JSON schemas of the vocabulary, as `cryomamba_core.wire` writes it.

A class becomes a component with the name of the class. What a class says of its fields in the section
"Attributes" of its docstring becomes the description of each; what it checks about their values, which no
annotation says, stands in `LIMITS`.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.jobs import (
    MAX_ARTIFACT,
    MAX_ARTIFACTS,
    MAX_LABEL,
    MAX_MODEL,
    MAX_PARAMS,
    MAX_RUNNER,
    MAX_SHARDS,
    JobConfig,
    JobProgress,
    Source,
)
from cryomamba_core.previews import LEAST_VOXELS, MOST_VOXELS, Preview, PreviewPolicy
from cryomamba_core.protocol.live import ENCODING
from cryomamba_core.protocol.uploads import MOST_BYTES, PartReceipt, UploadedFile, UploadRequest, UploadStatus
from cryomamba_core.wire import to_plain

Schema = dict[str, Any]

#: Where the components of a document are.
REFERENCE = "#/components/schemas/"

_DIGEST: Schema = {"pattern": "^[0-9a-f]{64}$"}
_SIZE: Schema = {"minimum": 1, "maximum": MOST_BYTES}

#: (class, field) → what its values keep to.
LIMITS: dict[tuple[type, str], Schema] = {
    (Artifact, "sha256"): _DIGEST,
    (Artifact, "size"): {"minimum": 0},
    (Artifact, "url"): {"format": "uri-reference"},
    (JobConfig, "artifacts"): {"maxItems": MAX_ARTIFACTS, "items": {"type": "string", "maxLength": MAX_ARTIFACT}},
    (JobConfig, "label"): {"maxLength": MAX_LABEL},
    (JobConfig, "model"): {"maxLength": MAX_MODEL},
    (JobConfig, "params"): {"description": f"Parameters of the runner; at most {MAX_PARAMS} bytes as JSON."},
    (JobConfig, "runner"): {"maxLength": MAX_RUNNER},
    (JobConfig, "shards"): {"minimum": 1, "maximum": MAX_SHARDS},
    (JobConfig, "voxel_size"): {"items": {"type": "number", "exclusiveMinimum": 0}},
    (JobProgress, "fraction"): {"minimum": 0, "maximum": 1},
    (PartReceipt, "index"): {"minimum": 0},
    (PartReceipt, "sha256"): _DIGEST,
    (PreviewPolicy, "interval_seconds"): {"minimum": 0},
    (PreviewPolicy, "max_voxels"): {"anyOf": [{"const": 0}, {"minimum": LEAST_VOXELS, "maximum": MOST_VOXELS}]},
    (UploadRequest, "filename"): {"minLength": 1, "maxLength": 255},
    (UploadRequest, "fingerprint"): {"minLength": 1, "maxLength": 256},
    (UploadRequest, "sha256"): _DIGEST,
    (UploadRequest, "size"): _SIZE,
    (UploadStatus, "sha256"): _DIGEST,
    (UploadedFile, "sha256"): _DIGEST,
}

_SCALARS: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    datetime: {"type": "string", "format": "date-time"},
    float: {"type": "number"},
    int: {"type": "integer"},
    str: {"type": "string"},
    types.NoneType: {"type": "null"},
}

_EVENTS = (StateChanged, Progress, PreviewReady, Completed, Failed)


class Schemas:
    """The components of one document; `of` adds what it meets.

    Parameters
    ----------
    requests
        Types of requests: in these, and in what they hold, fields with a default may be left out and
        unknown ones are refused. In an answer all fields are there, and later versions may add to them.
    """

    def __init__(self, requests: Iterable[Any] = ()) -> None:
        self.components: dict[str, Schema] = {}
        self._asked = frozenset(_reachable(requests))

    def of(self, kind: Any) -> Schema:
        """The schema of a type; classes are added to the components and referred to."""
        if kind is Any:
            return {}
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        if kind == JobEvent:
            return self._component("JobEvent", self._job_event)
        if kind is PreviewReady:
            return self._component("PreviewReady", self._preview_message)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self._component(kind.__name__, lambda: _enumeration(kind))
        if attrs.has(kind):
            return self._component(kind.__name__, lambda: self._object(kind))
        return self._compound(get_origin(kind), get_args(kind))

    def error_envelope(self) -> Schema:
        """What every answer that is no good one holds."""
        return self._component(
            "Error",
            lambda: {
                "type": "object",
                "description": "What every answer that is no good one holds.",
                "properties": {"error": self.of(ErrorInfo)},
                "required": ["error"],
            },
        )

    def _component(self, name: str, make: Callable[[], Schema]) -> Schema:
        if name not in self.components:
            self.components[name] = {}  # so that a type may hold itself
            self.components[name] = make()
        return {"$ref": REFERENCE + name}

    def _compound(self, origin: Any, inner: tuple[Any, ...]) -> Schema:
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(kind) for kind in inner]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(inner[1]) or True}
        if origin is tuple and inner[-1] is not Ellipsis:
            return _fixed_array([self.of(kind) for kind in inner])
        return {"type": "array", "items": self.of(inner[0])}

    def _object(self, kind: type[Any]) -> Schema:
        hints = get_type_hints(kind)
        said = field_descriptions(kind)
        fields = [field for field in attrs.fields(kind) if field.init]
        schema: Schema = {
            "type": "object",
            "description": _markdown(summary(kind)),
            "properties": {field.name: self._field(kind, field, hints[field.name], said) for field in fields},
            "required": [field.name for field in fields],
        }
        if kind in self._asked:
            schema["required"] = [field.name for field in fields if field.default is attrs.NOTHING]
            schema["additionalProperties"] = False
        if kind is Source:
            schema["oneOf"] = [
                {"required": [name], "properties": {name: {"type": "string"}, other: {"type": "null"}}}
                for name, other in (("file_id", "path"), ("path", "file_id"))
            ]
        return schema

    def _field(self, kind: type, field: attrs.Attribute[Any], hint: Any, said: Mapping[str, str]) -> Schema:
        schema = self.of(hint)
        if limits := LIMITS.get((kind, field.name)):
            schema = _limited(schema, limits)
        if field.name in said:
            schema["description"] = _markdown(said[field.name])
        if kind in self._asked and field.default is not attrs.NOTHING:
            schema["default"] = to_plain(_default(field))
        return schema

    def _job_event(self) -> Schema:
        messages = {kind.type: self.of(kind) for kind in _EVENTS}
        for name, message in messages.items():
            _mark(self.components[message["$ref"].removeprefix(REFERENCE)], name)
        return {
            "description": "A message about a job, as WebSocket frames and Server-Sent Events carry it.",
            "oneOf": list(messages.values()),
            "discriminator": {
                "propertyName": "type",
                "mapping": {name: message["$ref"] for name, message in messages.items()},
            },
        }

    def _preview_message(self) -> Schema:
        """A preview is flat in messages: its grid's fields stand beside its own."""
        preview, grid = (self._object(kind)["properties"] for kind in (Preview, VoxelGrid))
        order = ("sequence", "factor", "covered", "provisional", "dtype")
        payload = f"{preview['payload']['description']} In a binary frame it is not here: it follows the header."
        properties = {
            **{name: self.of(hint) for name, hint in (("seq", int), ("at", datetime))},
            **{name: preview[name] for name in order},
            **grid,
            "encoding": {"const": ENCODING, "description": "How the payload is packed."},
            "payload": {**preview["payload"], "description": payload},
            "companions": preview["companions"],
        }
        description = f"{_markdown(summary(PreviewReady))} Shape, voxel size and origin are those of the preview."
        return {"type": "object", "description": description, "properties": properties, "required": list(properties)}


def summary(described: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(described) or "").partition("\n")[0]


def field_descriptions(described: type) -> dict[str, str]:
    """Name → text of the section "Attributes" of a numpydoc docstring, each on one line."""
    section = (inspect.getdoc(described) or "").partition("Attributes\n----------\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line.startswith(" "):
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
        elif line:
            names = [name.strip() for name in line.split(",")]
            found |= dict.fromkeys(names, "")
    return found


def _reachable(kinds: Iterable[Any]) -> Iterable[type]:
    """The classes among some types and in their fields."""
    waiting, seen = list(kinds), set()
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        waiting += get_args(kind)
        if isinstance(kind, type) and attrs.has(kind):
            yield kind
            waiting += get_type_hints(kind).values()


def _enumeration(kind: type[Enum]) -> Schema:
    return {"type": "string", "description": _markdown(summary(kind)), "enum": [member.value for member in kind]}


def _fixed_array(items: list[Schema]) -> Schema:
    if all(item == items[0] for item in items):
        return {"type": "array", "items": items[0], "minItems": len(items), "maxItems": len(items)}
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _limited(schema: Schema, limits: Schema) -> Schema:
    """The schema with limits; those of an optional value do not concern null."""
    if "anyOf" not in schema:
        return {**schema, **limits}
    return {"anyOf": [each if each == _SCALARS[types.NoneType] else {**each, **limits} for each in schema["anyOf"]]}


def _mark(schema: Schema, name: str) -> None:
    """Give the schema of a message its type, and what is common to all messages their meaning."""
    common = schema["properties"]
    schema["properties"] = {
        "seq": {**common.pop("seq"), "minimum": 1, "description": "Number of the event within its job, from 1."},
        "type": {"const": name, "description": "Says which message this is."},
        "at": {**common.pop("at"), "description": "When it happened (UTC)."},
        **common,
    }
    schema["required"] = list(schema["properties"])


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if hasattr(default, "factory") else default


def _markdown(text: str) -> str:
    """Docstring text with literals as Markdown has them."""
    return re.sub(r"``(.+?)``", r"`\1`", text).replace("None", "null")

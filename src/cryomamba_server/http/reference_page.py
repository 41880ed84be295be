"""The OpenAPI document as a page for people: one file, no script, nothing from elsewhere."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

from attrs import frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cryomamba_server.http.openapi_schemas import REFERENCE

Json = dict[str, Any]


@frozen(kw_only=True)
class Page:
    """A page, and what browsers may do with it.

    Attributes
    ----------
    html
        All of it.
    policy
        Its Content-Security-Policy: its own style, and nothing else.
    """

    html: str
    policy: str


def reference_page(document: Json) -> Page:
    """Render a document."""
    templates = Environment(
        loader=PackageLoader("cryomamba_server.http"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"prose": prose, "kind": kind_of, "pretty": _pretty, "anchor": anchor}
    style = templates.get_template("reference.css").render()
    html = templates.get_template("reference.html").render(
        document=document,
        groups=_by_tag(document),
        style=Markup(style),  # noqa: S704  # a file of this package
    )
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; {_NOTHING_ELSE}"
    return Page(html=html, policy=policy)


_NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _by_tag(document: Json) -> list[tuple[Json, list[Json]]]:
    """Each tag with its operations, which know their path and method."""
    operations = [
        {**operation, "path": path, "method": "websocket" if "101" in operation["responses"] else method}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return [(tag, [each for each in operations if each["tags"] == [tag["name"]]]) for tag in document["tags"]]


def anchor(name: str) -> str:
    """What may follow ``#`` for a name."""
    return re.sub(r"\W+", "-", name)


def prose(text: str) -> Markup:
    """The little of Markdown that the document uses: paragraphs, lists, and words between backticks."""
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block]
    return Markup("").join(_list(block) if block.startswith("- ") else _paragraph(block) for block in blocks)


def _list(block: str) -> Markup:
    items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(_inline(item)) for item in items))


def _paragraph(block: str) -> Markup:
    return Markup("<p>{}</p>").format(_inline(block))


def _inline(text: str) -> Markup:
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return Markup("").join(
        Markup("<code>{}</code>").format(piece[1:-1]) if piece.startswith("`") else escape(piece) for piece in pieces
    )


def kind_of(schema: Json) -> Markup:
    """The type of a value in words; names of schemas lead to them."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for choice in ("anyOf", "oneOf"):
        if choice in schema and "properties" not in schema:
            return Markup(" or ").join(kind_of(each) for each in schema[choice])
    if "const" in schema:
        return Markup("<code>{}</code>").format(json.dumps(schema["const"]))
    if "enum" in schema:
        return Markup(" or ").join(Markup("<code>{}</code>").format(json.dumps(each)) for each in schema["enum"])
    if schema.get("type") == "array":
        count = f"{schema['minItems']} × " if schema.get("minItems") and "maxItems" in schema else ""
        return Markup("array of {}{}").format(count, kind_of(schema.get("items", {})))
    if isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(kind_of(schema["additionalProperties"]))
    return _plain_kind(schema)


def _plain_kind(schema: Json) -> Markup:
    detail = schema.get("format") or schema.get("contentEncoding") or ""
    limits = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if key in schema]
    details = ", ".join(each for each in (detail, *limits) if each)
    return escape(schema.get("type", "anything")) + escape(f" ({details})" if details else "")


_LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "pattern": "matches",
}


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

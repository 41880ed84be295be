"""The parameters of a runner, described for people and parsed from text.

A runner's `params_type` is an attrs class; everything that a form or a command line needs is read
from it: names, types, defaults, help and choices.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from cryomamba_core.errors import CryoMambaError, InvalidParameter
from cryomamba_core.wire import dump_json

_WORDS = {True: ("true", "yes", "on", "1"), False: ("false", "no", "off", "0")}


@frozen(kw_only=True)
class Parameter:
    """One parameter of a runner.

    Attributes
    ----------
    name
        As the user writes it.
    kind
        The annotated type, e.g. ``float`` or ``tuple[int, ...]``.
    type_name
        The type in words, e.g. ``whole numbers, comma-separated``.
    default
        Its value when it is not given.
    help
        What it does, in one sentence; may be empty.
    choices
        The only values it may take, as the user writes them; empty where any value of the type will do.
    section
        Whether its value names a section of the tomogram, as ``z=120`` does: a desktop offers the one that is shown.
    labels
        Whether its values are names of the model's labels, or ``all`` for every one: a shell offers them.
    """

    name: str
    kind: Any
    type_name: str
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    section: bool = False
    labels: bool = False


def describe_parameters(params_type: type[Any]) -> tuple[Parameter, ...]:
    """The parameters of an attrs class, in the order of its fields."""
    hints = get_type_hints(params_type)
    return tuple(
        Parameter(
            name=field.alias or field.name,
            kind=hints.get(field.name, str),
            type_name=_type_name(hints.get(field.name, str)),
            default=_default(field),
            help=str(field.metadata.get("help", "")),
            choices=_choices(hints.get(field.name, str)),
            section=bool(field.metadata.get("section", False)),
            labels=bool(field.metadata.get("labels", False)),
        )
        for field in attrs.fields(params_type)
        if field.init
    )


def parse_assignments(params_type: type[Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``name=value`` pairs as the fields of `params_type` ask.

    Returns
    -------
    params
        Only what was given, as JSON types, fit for `JobConfig.params`.

    Raises
    ------
    InvalidParameter
        If a name is unknown or given twice, or a value does not fit.
    """
    known = {parameter.name: parameter for parameter in describe_parameters(params_type)}
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, text = _split(assignment, values)
        if name not in known:
            raise _unknown(name, known)
        values[name] = parse_value(known[name], text)
    try:
        params_type(**values)
    except CryoMambaError:
        raise
    except (ValueError, TypeError) as error:
        raise InvalidParameter(
            " ".join(str(error.args[0] if error.args else error).split()), hint=_hint(known.values())
        ) from error
    return {name: _for_the_wire(name, value) for name, value in values.items()}


def parse_untyped(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``name=value`` pairs for a runner that is not installed here: the engine will judge them."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, text = _split(assignment, values)
        values[name] = _guess(text)
    return values


def parse_value(parameter: Parameter, text: str) -> Any:
    """The value that `text` stands for; raises `InvalidParameter`."""
    try:
        return _parse(parameter.kind, text.strip())
    except ValueError:
        near = _nearest(text, parameter.choices)
        hint = parameter.help if not near else f"did you mean {near}?"
        raise InvalidParameter(
            f"parameter {parameter.name} cannot be {text!r}: expected {parameter.type_name}", hint=hint
        ) from None


def format_value(value: Any) -> str:
    """A value as the user would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple):
        return ",".join(format_value(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _split(assignment: str, seen: Mapping[str, Any]) -> tuple[str, str]:
    name, equals, text = assignment.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InvalidParameter(f"{assignment!r} gives no value to a parameter", hint="write it as name=value")
    if name in seen:
        raise InvalidParameter(f"parameter {name} is given twice", hint="give it once")
    return name, text


def _for_the_wire(name: str, value: Any) -> Any:
    try:
        return json.loads(dump_json(value))
    except ValueError as error:
        raise InvalidParameter(
            f"parameter {name} cannot be {format_value(value)!r}: a job keeps finite numbers only",
            hint="give a finite number",
        ) from error


def _unknown(name: str, known: Mapping[str, Parameter]) -> InvalidParameter:
    near = _nearest(name, known)
    hint = _hint(known.values())
    return InvalidParameter(f"there is no parameter {name!r}", hint=f"did you mean {near}? {hint}" if near else hint)


def _hint(parameters: Iterable[Parameter]) -> str:
    listed = ", ".join(parameter.name for parameter in parameters)
    return f"parameters are: {listed}" if listed else "this runner has no parameters"


def _nearest(word: str, words: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(words), n=1)
    return found[0] if found else ""


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        return None if default.takes_self else default.factory()
    return None if default is attrs.NOTHING else default


def _parse(kind: Any, text: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(get_args(kind), text)
    if origin is Literal:
        for choice in get_args(kind):
            if format_value(choice).lower() == text.lower():
                return choice
        raise ValueError
    if origin in (tuple, list):
        return _parse_sequence(kind, text)
    if kind in (None, types.NoneType):
        if text.lower() not in ("none", ""):
            raise ValueError
        return None
    if kind is bool:
        for value, words in _WORDS.items():
            if text.lower() in words:
                return value
        raise ValueError
    if kind is Any:
        return _guess(text)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _parse_enum(kind, text)
    return kind(text)


def _parse_enum(kind: type[Enum], text: str) -> Enum:
    for member in kind:
        if text.lower() in (format_value(member).lower(), member.name.lower()):
            return member
    raise ValueError


def _parse_union(members: tuple[Any, ...], text: str) -> Any:
    """The first member that takes the text, plain text being the last resort."""
    for member in sorted(members, key=lambda kind: (kind is str, kind is not types.NoneType)):
        try:
            return _parse(member, text)
        except ValueError:
            continue
    raise ValueError


def _parse_sequence(kind: Any, text: str) -> tuple[Any, ...]:
    members = get_args(kind)
    parts = [part.strip() for part in _unwrapped(text).split(",") if part.strip()]
    if not members:
        return tuple(_guess(part) for part in parts)
    if get_origin(kind) is list or members[-1] is Ellipsis:
        return tuple(_parse(members[0], part) for part in parts)
    return tuple(_parse(member, part) for member, part in zip(members, parts, strict=True))


def _unwrapped(text: str) -> str:
    """A text without the brackets around it; those that belong to a word, as in ``small (1)``, stay."""
    inner = text.strip()[1:-1]
    wrapped = text.strip() in (f"({inner})", f"[{inner}]")
    return inner if wrapped and not any(bracket in inner for bracket in "()[]") else text


def _guess(text: str) -> Any:
    """The value of a type that is not known; words for what is no finite number stay text, since JSON has none."""
    if "," in text:
        return [_guess(part.strip()) for part in text.split(",") if part.strip()]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _choices(kind: Any) -> tuple[str, ...]:
    origin = get_origin(kind)
    if origin is Literal:
        return tuple(format_value(choice) for choice in get_args(kind))
    if kind is bool:
        return ("true", "false")
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(format_value(member) for member in kind)
    if origin in (Union, types.UnionType):
        parts = [_choices(member) for member in get_args(kind) if member is not types.NoneType]
        if parts and all(parts):
            none = ("none",) if types.NoneType in get_args(kind) else ()
            return (*(choice for part in parts for choice in part), *none)
    return ()


def _type_name(kind: Any) -> str:
    origin, members = get_origin(kind), get_args(kind)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return _enumerate(_choices(kind))
    if origin in (Union, types.UnionType):
        return _enumerate([_type_name(member) for member in members])
    if origin in (tuple, list) and members:
        if origin is list or members[-1] is Ellipsis:
            return f"{_PLURALS.get(members[0], 'values')}, comma-separated"
        return f"{len(members)} {_PLURALS.get(members[0], 'values')}, comma-separated"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _enumerate(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


_NAMES: dict[Any, str] = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
    types.NoneType: "none",
}
_PLURALS: dict[Any, str] = {bool: "true or false values", float: "numbers", int: "whole numbers", str: "words"}

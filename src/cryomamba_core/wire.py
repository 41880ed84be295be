"""One converter for every type of the vocabulary: JSON on the wire and in every file."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_origin

from cattrs import Converter, transform_error
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.errors import BaseValidationError
from cattrs.strategies import configure_tagged_union

from cryomamba_core.errors import CryoMambaError, InvalidParameter

T = TypeVar("T")


@lru_cache(maxsize=1)
def converter() -> Converter:
    """The converter: unknown keys are refused, bytes are base64, times are ISO 8601 in UTC."""
    from cryomamba_core.events import JobEvent

    made = Converter(forbid_extra_keys=True, detailed_validation=True)
    made.register_structure_hook(datetime, lambda value, _: _time(value))
    made.register_unstructure_hook(datetime, lambda value: value.astimezone(UTC).isoformat())
    made.register_structure_hook(bytes, lambda value, _: base64.b64decode(value, validate=True))
    made.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    made.register_structure_hook(bool, _strict(bool))
    made.register_structure_hook(int, lambda value, _: _whole_number(value))
    made.register_structure_hook(float, lambda value, _: _number(value))
    made.register_structure_hook(str, _strict(str))
    made.register_structure_hook_factory(_is_row, _row_structure)
    made.register_structure_hook(StrEnum, lambda value, kind: kind(value))
    configure_tagged_union(JobEvent, made, tag_name="type", tag_generator=lambda kind: str(vars(kind)["type"]))
    return made


def _is_row(kind: Any) -> bool:
    """Whether it is a tuple of any length, such as ``tuple[str, ...]``."""
    return get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,)


def _row_structure(kind: Any, converter: Converter) -> Any:
    """Make tuples of JSON lists only: a text could be gone through as well, letter by letter."""
    structure = homogenous_tuple_structure_factory(kind, converter)

    def structure_row(value: Any, given: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {type(value).__name__}")
        return structure(value, given)

    return structure_row


def _strict(kind: type) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        return value

    return structure


def _whole_number(value: Any) -> int:
    """JSON has one kind of number: 2.0 is 2."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(f"time {value!r} has no zone")
    return time


def prepare(*kinds: type) -> None:
    """Have the converter make its functions for some types now.

    It would make them when each is needed first, which takes up to 20 ms: too long for who is waited for then.
    """
    # cattrs forgets what it has made when it meets the first dictionary of a kind: in the second round there is none
    for kind in (*kinds, *kinds):
        converter().get_structure_hook(kind)
        converter().get_unstructure_hook(kind)


def to_plain(value: Any, kind: Any = None) -> Any:
    """A value as JSON types; name `kind` for a union such as `JobEvent`."""
    return converter().unstructure(value, unstructure_as=kind)


def from_plain(plain: Any, kind: type[T]) -> T:
    """A value of `kind` from JSON types.

    Raises
    ------
    InvalidParameter
        If a key is unknown or missing or a value does not fit; the message names each place.
    """
    try:
        return converter().structure(plain, kind)
    except CryoMambaError:
        raise
    except BaseValidationError as error:
        own = _first_of_ours(error)
        if own is not None:
            raise own from error
        raise InvalidParameter("; ".join(transform_error(error, path=getattr(kind, "__name__", "$")))) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidParameter(f"{error} @ {getattr(kind, '__name__', '$')}") from error


def _first_of_ours(error: BaseException) -> CryoMambaError | None:
    if isinstance(error, CryoMambaError):
        return error
    for inner in getattr(error, "exceptions", ()):
        found = _first_of_ours(inner)
        if found is not None:
            return found
    return None


def dump_json(value: Any, kind: Any = None, *, indent: int | None = None) -> str:
    """A value as JSON text; NaN and infinity are refused."""
    return json.dumps(to_plain(value, kind), ensure_ascii=False, allow_nan=False, indent=indent)


def load_json(text: str | bytes, kind: type[T]) -> T:
    """A value of `kind` from JSON text; raises as `from_plain`."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise InvalidParameter(f"not JSON: {error}") from error
    return from_plain(plain, kind)

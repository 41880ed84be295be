"""Parameters of runners, as people write them."""

from __future__ import annotations

import json
from enum import Enum
from typing import Literal

import pytest
from attrs import field, frozen, validators

from cryomamba_core.errors import InvalidParameter
from cryomamba_core.parameters import describe_parameters, format_value, parse_assignments, parse_untyped
from cryomamba_core.wire import dump_json, from_plain


class Shape(Enum):
    ROUND = "round"
    FLAT = "flat"


@frozen(kw_only=True)
class Params:
    mode: Literal["exact", "fast"] = field(default="exact", metadata={"help": "how careful to be"})
    mirroring: bool = True
    step: float = field(default=0.5, validator=validators.gt(0))
    tries: int = 3
    folds: tuple[int, ...] | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    name: str = "x"
    shape: Shape = Shape.ROUND
    limit: float = 0.0
    only: tuple[str, ...] = field(default=(), metadata={"labels": True})


def test_every_field_is_described_in_words():
    described = {parameter.name: parameter for parameter in describe_parameters(Params)}
    assert described["mode"].help == "how careful to be"
    assert described["mode"].choices == ("exact", "fast")
    assert described["mirroring"].type_name == "true or false"
    assert described["folds"].type_name == "whole numbers, comma-separated or none"
    assert described["spacing"].default == (1.0, 1.0, 1.0)
    assert described["shape"].choices == ("round", "flat")
    assert described["only"].type_name == "words, comma-separated"
    assert [name for name, parameter in described.items() if parameter.labels] == ["only"]


@pytest.mark.parametrize(
    ("assignment", "name", "value"),
    [
        ("mode=fast", "mode", "fast"),
        ("mode=FAST", "mode", "fast"),
        ("mirroring=false", "mirroring", False),
        ("mirroring=yes", "mirroring", True),
        ("step=0.25", "step", 0.25),
        ("step=1", "step", 1.0),
        ("tries=7", "tries", 7),
        ("folds=0,1", "folds", [0, 1]),
        ("folds=2", "folds", [2]),
        ("folds=none", "folds", None),
        ("spacing=1,2,3.5", "spacing", [1.0, 2.0, 3.5]),
        ("name=a=b", "name", "a=b"),
        ("shape=flat", "shape", "flat"),
        ("only=membrane", "only", ["membrane"]),
        ("only=gold bead, 80S", "only", ["gold bead", "80S"]),
        ("only=(gold, 80S)", "only", ["gold", "80S"]),
        ("only=gold (5 nm), gold (10 nm)", "only", ["gold (5 nm)", "gold (10 nm)"]),
        ("only=(5) gold (nm)", "only", ["(5) gold (nm)"]),
        ("only=", "only", []),
    ],
)
def test_text_becomes_what_the_field_holds(assignment, name, value):
    parsed = parse_assignments(Params, [assignment])
    assert list(parsed) == [name]
    assert parsed[name] == value
    assert type(parsed[name]) is type(value)


def test_what_is_parsed_is_fit_for_the_wire():
    params = parse_assignments(Params, ["folds=0,1", "step=1", "mode=fast", "shape=flat", "spacing=1,2,3"])
    made = from_plain(params, Params)
    assert (made.folds, made.step, made.mode, made.shape) == ((0, 1), 1.0, "fast", Shape.FLAT)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("mode=slow", "mode cannot be 'slow'"),
        ("mirroring=perhaps", "expected true or false"),
        ("step=fast", "expected a number"),
        ("tries=1.5", "expected a whole number"),
        ("spacing=1,2", "expected 3 numbers"),
        ("folds=a", "expected whole numbers"),
        ("step=-1", "step"),
        ("mode", "gives no value"),
        ("=3", "gives no value"),
    ],
)
def test_what_does_not_fit_is_named(assignment, said):
    with pytest.raises(InvalidParameter, match=said):
        parse_assignments(Params, [assignment])


def test_a_misspelt_name_gets_the_nearest_one_and_all_others():
    with pytest.raises(InvalidParameter) as caught:
        parse_assignments(Params, ["miroring=true"])
    assert "did you mean mirroring?" in caught.value.hint
    assert "folds" in caught.value.hint


def test_a_parameter_that_is_given_twice_is_refused():
    with pytest.raises(InvalidParameter, match="given twice"):
        parse_assignments(Params, ["tries=1", "tries=2"])


def test_parameters_of_an_unknown_runner_are_guessed():
    given = ["a=1", "b=2.5", "c=true", "d=none", "e=word", "f=0,1"]
    assert parse_untyped(given) == {"a": 1, "b": 2.5, "c": True, "d": None, "e": "word", "f": [0, 1]}


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "Infinity", "1e999"])
def test_what_is_no_finite_number_stays_text_where_the_type_is_unknown(word):
    parsed = parse_untyped([f"a={word}", f"b=1.5,{word}"])
    assert parsed == {"a": word, "b": [1.5, word]}
    assert json.loads(dump_json(parsed)) == parsed


@pytest.mark.parametrize("assignment", ["limit=inf", "limit=nan", "limit=-Infinity", "limit=1e999", "spacing=1,nan,1"])
def test_what_is_no_finite_number_is_refused_where_a_number_is_asked_for(assignment):
    name = assignment.partition("=")[0]
    with pytest.raises(InvalidParameter, match=f"parameter {name} cannot be .*finite") as caught:
        parse_assignments(Params, [assignment])
    assert caught.value.hint


def test_a_value_is_written_as_it_would_be_typed():
    assert format_value((0, 1)) == "0,1"
    assert format_value(None) == "none"
    assert format_value(True) == "true"
    assert format_value(0.5) == "0.5"
    assert format_value(Shape.FLAT) == "flat"

"""How large a request for a job may be."""

import pytest

from cryomamba_core.errors import InvalidParameter
from cryomamba_core.jobs import (
    MAX_ARTIFACT,
    MAX_ARTIFACTS,
    MAX_DEPTH,
    MAX_LABEL,
    MAX_MODEL,
    MAX_PARAMS,
    MAX_RUNNER,
    JobConfig,
    Source,
)
from cryomamba_core.wire import dump_json, from_plain, to_plain

SOURCE = Source(path="/a.mrc")
#: `{"x": "…"}` as JSON.
FRAME = 9


@pytest.mark.parametrize(
    ("field", "largest", "larger"),
    [
        ("label", "ü" * MAX_LABEL, "x" * (MAX_LABEL + 1)),
        ("model", "m" * MAX_MODEL, "m" * (MAX_MODEL + 1)),
        ("runner", "r" * MAX_RUNNER, "r" * (MAX_RUNNER + 1)),
        ("artifacts", ("a" * MAX_ARTIFACT,) * MAX_ARTIFACTS, ("a",) * (MAX_ARTIFACTS + 1)),
        ("artifacts", ("a" * MAX_ARTIFACT,), ("b", "a" * (MAX_ARTIFACT + 1))),
        ("params", {"x": "y" * (MAX_PARAMS - FRAME)}, {"x": "y" * (MAX_PARAMS - FRAME + 1)}),
        ("params", {"x": "ü" * ((MAX_PARAMS - FRAME) // 2)}, {"x": "ü" * (MAX_PARAMS // 2)}),
    ],
)
def test_what_is_too_large_is_refused_by_the_name_of_its_field(field, largest, larger):
    plain = to_plain(JobConfig(source=SOURCE, **{field: largest}))
    assert from_plain(plain, JobConfig) == JobConfig(source=SOURCE, **{field: largest})
    for make in (
        lambda: JobConfig(source=SOURCE, **{field: larger}),
        lambda: from_plain(plain | {field: larger if isinstance(larger, dict | str) else list(larger)}, JobConfig),
    ):
        with pytest.raises(InvalidParameter, match=f"^{field} "):
            make()


def nested(levels):
    params = {}
    for level in range(levels):
        params = {"x": [params] if level % 2 else params}
    return params


def test_parameters_that_are_nested_without_end_are_refused():
    assert dump_json(JobConfig(source=SOURCE, params=nested(MAX_DEPTH // 2)))
    for levels in (MAX_DEPTH + 1, 700, 100_000):  # 700 levels can be read, but not written again
        with pytest.raises(InvalidParameter, match=r"^params "):
            JobConfig(source=SOURCE, params=nested(levels))


def test_a_file_of_the_longest_name_can_be_segmented():
    assert JobConfig(source=SOURCE, label="x" * 251 + ".mrc").label

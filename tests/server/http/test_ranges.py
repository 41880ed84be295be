"""The table of ranges; what curl makes of them is in ``test_artifacts.py``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryomamba_core.errors import RangeNotSatisfiable
from cryomamba_server.http.ranges import ByteRange, matches, wanted_range

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 1000),
        ("bytes=10-19", 10, 20),
        ("bytes=999-", 999, 1000),
        ("bytes=999-999", 999, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=5-99999999999999999999999999", 5, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-1000", 0, 1000),
        ("bytes=-1001", 0, 1000),
        ("bytes=-99999999999999999999999999", 0, 1000),
        ("bytes=0000000000000000000000007-8", 7, 9),
        ("Bytes=1-2", 1, 3),
        ("bytes= 1-2 ", 1, 3),
    ],
)
def test_a_range_is_read(header, start, stop):
    assert wanted_range(header, SIZE) == ByteRange(start=start, stop=stop, size=SIZE)


@pytest.mark.parametrize(
    "header",
    ["bytes=1000-", "bytes=1000-1001", "bytes=5000-", "bytes=-0", "bytes=99999999999999999999999999-"],
)
def test_a_range_behind_the_end_is_refused_with_the_size(header):
    with pytest.raises(RangeNotSatisfiable) as refused:
        wanted_range(header, SIZE)
    assert refused.value.size == SIZE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "bytes=5-4",
        "bytes=0-1,5-6",
        "bytes=0-1,",
        "bytes=a-b",
        "bytes=1.5-2",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes 0-1",
        "bytes =0-1",
        "sections=0-1",
        "bytes=\u0661-\u0662",
        "bytes=0-1\n",
        "0-1",
    ],
)
def test_what_is_no_single_range_of_bytes_asks_for_the_whole(header):
    assert wanted_range(header, SIZE) is None


def test_an_empty_file_has_no_first_byte():
    with pytest.raises(RangeNotSatisfiable):
        wanted_range("bytes=0-", 0)
    assert wanted_range("bytes=-5", 0) is None


@given(st.text(max_size=40) | st.from_regex(r"bytes=[0-9]{0,30}-[0-9]{0,30}", fullmatch=True), st.integers(0, 2**62))
def test_whatever_is_asked_the_range_lies_in_the_file(header, size):
    try:
        found = wanted_range(header, size)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found.start < found.stop <= size


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, False),
        ("", False),
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ('"b"', False),
        ("a", False),
        ("*", True),
    ],
)
def test_a_tag_is_found_among_those_that_the_client_has(header, same):
    assert matches(header, '"a"') is same

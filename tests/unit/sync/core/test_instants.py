"""Instants compare by time, whatever digits and offsets they are written with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from sync.core import instants


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00-00:30", 1_800_000_000_000),
        ("2024-04-12T10:18:48.831Z", 1_712_917_128_831_000_000),
        ("2024-02-29 12:00:00z", 1_709_208_000_000_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
    ],
)
def test_parse_reads_rfc_3339(text: str, ns: int) -> None:
    assert instants.parse(text) == ns


def test_s09_nine_and_three_digits_compare_by_instant() -> None:
    """As text, ".5Z" sorts after ".499999999Z" but ".50Z" before ".5Z"; as instants there is one order."""
    texts = ["2024-04-12T10:00:00.49Z", "2024-04-12T10:00:00.499999999Z", "2024-04-12T10:00:00.500Z"]
    assert [instants.parse(text) for text in texts] == sorted(instants.parse(text) for text in texts)
    assert instants.parse("2024-04-12T10:00:00.5Z") == instants.parse("2024-04-12T10:00:00.500000000Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        17,
        "2024-04-12",
        "2024-04-12T10:00:00",
        "2024-13-12T10:00:00Z",
        "2023-02-29T10:00:00Z",
        "2024-04-12T24:00:00Z",
        "2024-04-12T10:60:00Z",
        "2024-04-12T10:00:61Z",
        "2024-04-12T10:00:00.Z",
        "2024-04-12T10:00:00.1234567890Z",
        "2024-04-12T10:00:00+24:00",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "2262-01-01T00:00:00Z",
        "٢٠٢٤-04-12T10:00:00Z",
        "2024-04-12T10:00:00Z\n",
    ],
)
def test_parse_refuses_everything_else(text: object) -> None:
    with pytest.raises(instants.InstantError, match="is not an RFC 3339 time"):
        instants.parse(text)


@given(st.integers(0, instants.parse("2261-12-31T23:59:59.999999999Z")))
def test_text_and_parse_are_inverse(ns: int) -> None:
    text = instants.text(ns)
    assert instants.parse(text) == ns
    assert text.endswith("Z")
    assert not text.removesuffix("Z").endswith(".000")


@given(st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31)))
def test_parse_agrees_with_the_standard_library(moment: datetime) -> None:
    expected = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) * 1000
    assert instants.parse(moment.replace(tzinfo=UTC).isoformat()) == expected


def test_microseconds_have_six_digits() -> None:
    assert instants.text_us(1_795_395_356_406_607) == "2026-11-23T00:55:56.406607Z"
    assert instants.text_us(1_795_395_356_000_000) == "2026-11-23T00:55:56.000000Z"
    assert instants.text_us(1_795_395_356_406_000) == "2026-11-23T00:55:56.406000Z"

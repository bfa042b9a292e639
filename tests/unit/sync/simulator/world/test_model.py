from __future__ import annotations

import pytest

from sync.core.instants import text_us
from sync.simulator.world.model import Period, parse_us


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("2024-04-12T10:18:48Z", 1_712_917_128_000_000),
        ("2024-04-12T10:18:48.8Z", 1_712_917_128_800_000),
        ("2024-04-12T10:18:48.831000Z", 1_712_917_128_831_000),
        ("2024-04-12T10:18:48.831000999Z", 1_712_917_128_831_000),
        ("2024-04-12T12:18:48.831+02:00", 1_712_917_128_831_000),
    ],
)
def test_parses_what_paddle_writes(text: str, at_us: int) -> None:
    assert parse_us(text) == at_us


@pytest.mark.parametrize("text", ["", "now", "2024-04-12", "2024-04-12T10:18:48", "2024-13-12T10:18:48Z", "1" * 5000])
def test_refuses_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_us(text)


@pytest.mark.parametrize(
    ("at", "after"),
    [
        ("2024-04-12T10:18:47.635628Z", "2024-05-12T10:18:47.635628Z"),
        ("2024-12-31T00:00:00.000000Z", "2025-01-31T00:00:00.000000Z"),
        ("2024-01-31T00:00:00.000000Z", "2024-02-29T00:00:00.000000Z"),
        ("2025-01-31T00:00:00.000000Z", "2025-02-28T00:00:00.000000Z"),
    ],
)
def test_a_month_ends_on_the_same_day_or_the_last(at: str, after: str) -> None:
    assert text_us(Period.month(parse_us(at)).ends_us) == after

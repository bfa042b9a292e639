"""Foreign text cannot command a terminal, and JSON that is escaped for one still means the same."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, strategies as st

from sync.core.plain_text import json_text, plain, plain_lines

HOSTILE = ["\x1b[2J", "\x9b2J", "\x07", "\x00", "\x7f", "\u202e", "\u2066", "\u200b", "\u2028", "\ufeff", "\U000e0001"]


def is_harmless(text: str) -> bool:
    return all(letter == " " or unicodedata.category(letter)[0] not in "CZ" for letter in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for shown in (plain(f"a{text}b"), plain_lines(f"a{text}b"), json_text({"a": text, text: 1})):
        assert is_harmless(shown)
        assert "a" in shown


def test_text_of_people_stays_as_it_is() -> None:
    for text in ("", "plain text, 100 %", "Zürich – ñ 日本語 😀"):
        assert plain(text) == plain_lines(text) == text
    assert json_text({"name": "Zürich 日本語"}) == '{"name":"Zürich 日本語"}'


def test_lines_and_tabs_stay_where_there_are_several_lines() -> None:
    assert plain_lines("a\n\tb\r\x1b[0m") == "a\n\tb\\u000d\\u001b[0m"
    assert plain("a\nb") == "a\N{REPLACEMENT CHARACTER}b"


@given(
    st.recursive(st.none() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_the_json_means_the_same_on_one_harmless_line(value: object) -> None:
    shown = json_text(value)
    assert is_harmless(shown)
    assert json.loads(shown) == value

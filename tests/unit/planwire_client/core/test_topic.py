"""A topic has exactly one spelling, and everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from planwire_client.core.topic import LIVE, Topic, TopicError, environment_of

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9._~@-]{1,128}", fullmatch=True)


@given(env=NAMES, kind=NAMES, id_=IDS)
def test_what_str_writes_parse_reads(env: str, kind: str, id_: str) -> None:
    topic = Topic(env, kind, id_)
    assert Topic.parse(str(topic)) == topic
    assert environment_of(str(topic)) == env


@given(st.text() | st.from_regex(r"([a-z/]{0,3}/)?[a-z:]{1,4}:[a-z ]{0,4}"))
def test_any_text_is_a_topic_in_its_only_spelling_or_none(text: str) -> None:
    try:
        topic = Topic.parse(text)
    except TopicError:
        return
    assert str(topic) == text


def test_no_prefix_means_live() -> None:
    assert Topic.parse("tenant:acme") == Topic(LIVE, "tenant", "acme")
    assert Topic.parse("sandbox/tenant:acme") == Topic("sandbox", "tenant", "acme")
    assert str(Topic(LIVE, "tenant", "acme")) == "tenant:acme"
    assert str(Topic("sandbox", "tenant", "acme")) == "sandbox/tenant:acme"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tenant",
        "tenant:",
        ":acme",
        "/tenant:acme",
        "live/tenant:acme",
        "Tenant:acme",
        "1tenant:acme",
        "tenant:a b",
        "tenant:acme\n",
        "\ntenant:acme",
        "tenant:a:b",
        "tenant:a/b",
        "a/b/tenant:acme",
        "tenant:{acme}",
        "tenant:é",
        "tenant:acme\x00",
        "Sandbox/tenant:acme",
        "t" * 33 + ":a",
        "e" * 33 + "/tenant:a",
        "tenant:" + "a" * 129,
        "tenant:٣",
    ],
)
def test_what_is_not_a_topic(text: str) -> None:
    with pytest.raises(TopicError):
        Topic.parse(text)


def test_the_longest_name_of_each_part_is_a_topic() -> None:
    text = f"{'e' * 32}/{'k' * 32}:{'i' * 128}"
    assert str(Topic.parse(text)) == text


def test_the_error_says_what_was_expected_and_does_not_repeat_a_long_text() -> None:
    with pytest.raises(TopicError, match="sandbox/tenant:acme") as caught:
        Topic.parse("x" * 10_000)
    assert len(str(caught.value)) < 500
    assert isinstance(caught.value, ValueError)

"""A topic has exactly one spelling, and everything else is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

import planwire_client
from planwire_client.core.topic import (
    ID_MAX_BYTES,
    LIVE,
    MISSING_VALUES,
    Topic,
    TopicError,
    decode_id,
    decoded_topic,
    encode_id,
    environment_of,
    matched,
    read_topic,
    topic,
)
from tests.support.bodies import ROOT

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9._~@-]{1,128}", fullmatch=True)


def is_id(text: str) -> bool:
    is_somebody = re.search(r"[^\s\ufeff]", text) is not None and text not in MISSING_VALUES
    return is_somebody and len(text.encode()) <= ID_MAX_BYTES


FOREIGN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(is_id)
"""Ids of the outside world. A blank text is none."""
VECTORS = json.loads((ROOT / "tests" / "vectors" / "topics.json").read_text())


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
        "tenant:%7c",
        "tenant:%41",
        "tenant:%40",
        "tenant:%",
        "tenant:%2",
        "tenant:%zz",
        "tenant:" + "%7C" * 129,
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


@pytest.mark.parametrize("row", VECTORS, ids=str)
def test_vectors(row: dict[str, Any]) -> None:
    arguments = row["kind"], row["id"], *([row["env"]] if "env" in row else [])
    if row["topic"] is None:
        with pytest.raises(TopicError):
            planwire_client.topic(*arguments)
    else:
        assert planwire_client.topic(*arguments) == row["topic"]
        assert Topic.parse(row["topic"]).readable == row["readable"]
        assert str(read_topic(row["readable"])) == row["topic"]


@given(FOREIGN)
def test_an_encoded_id_is_a_topic_and_decodes_to_itself(id_: str) -> None:
    name = topic("tenant", id_, "sandbox")
    assert matched(name)
    assert decode_id(encode_id(id_)) == id_
    assert Topic.parse(name) == Topic("sandbox", "tenant", encode_id(id_)) == decoded_topic(f"sandbox/tenant:{id_}")


@given(FOREIGN, FOREIGN)
def test_different_ids_have_different_topics(one: str, other: str) -> None:
    assert (encode_id(one) == encode_id(other)) == (one == other)


@given(FOREIGN | st.text() | st.from_regex(r"(%[0-9A-Fa-f]{2}|[a%|é ]){1,9}", fullmatch=True))
def test_the_canonical_spelling_of_a_canonical_name_is_itself(id_: str) -> None:
    """What somebody writes is a topic or refused; its name and its readable form lead to it again."""
    try:
        found = read_topic(f"tenant:{id_}")
    except TopicError:
        return
    assert matched(str(found))
    assert read_topic(str(found)) == found == read_topic(found.readable)


@given(st.from_regex(r"(%[0-9A-F]{2}|[a-z@|]){1,9}", fullmatch=True))
def test_a_topic_has_one_spelling(id_: str) -> None:
    name = f"tenant:{id_}"
    if matched(name) and "\ufffd" not in decode_id(id_):
        assert encode_id(decode_id(id_), any_name=True) == id_


@pytest.mark.parametrize("id_", sorted(MISSING_VALUES))
def test_a_missing_value_names_nobody_and_a_topic_of_that_name_from_earlier_can_be_read(id_: str) -> None:
    name = f"tenant:{id_.replace('[', '%5B').replace(' ', '%20').replace(']', '%5D')}"
    assert str(Topic.parse(name)) == name
    for read in (topic, lambda kind, id_: Topic.named(name), lambda kind, id_: read_topic(f"tenant:{id_}")):
        with pytest.raises(TopicError, match="names nobody"):
            read("tenant", id_)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tenant:auth0|5f", "tenant:auth0%7C5f"),
        ("tenant:auth0%7c5f", "tenant:auth0%7C5f"),
        ("tenant:%61cme", "tenant:acme"),
        ("sandbox/tenant:a b", "sandbox/tenant:a%20b"),
    ],
)
def test_the_error_says_how_the_topic_is_written(text: str, name: str) -> None:
    with pytest.raises(TopicError, match=f"write {name} "):
        Topic.parse(text)


def test_a_readable_form_that_would_mislead_is_not_used() -> None:
    """Text that changes what is around it on a screen, and text that would be read as another topic."""
    for id_ in ("a\u202eb", "a\x1b[31mb", "a\nb", "a%7Cb"):
        found = Topic.parse(topic("tenant", id_))
        assert found.readable == str(found)
    assert Topic.parse("tenant:a%FF").readable == "tenant:a%FF"


@pytest.mark.parametrize("id_", [None, True, 1.5, [], b"x", 2**53, -(2**53)])
def test_an_id_is_text_or_an_exact_integer(id_: Any) -> None:
    with pytest.raises(TopicError):
        topic("tenant", id_)

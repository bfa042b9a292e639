"""The pages of several gateways and the store's names become one list of topics."""

from __future__ import annotations

from typing import Any

from gateway.console.reports import topic_list
from gateway.console.reports.topic_list import TopicQuery
from gateway.fleet.ask import Answers


def test_pages_of_several_gateways_make_one_page() -> None:
    def row(version: int, **tabs: int) -> dict[str, Any]:
        return {"version": version, "sockets": sum(tabs.values()), "watchers": 1, "tabs": tabs}

    answers = Answers(
        {
            "one": {"rows": {"a": row(1, SYNCED=1), "c": row(1, SYNCED=1)}, "matching": 2},
            "two": {"rows": {"a": row(2, BEHIND=1, SYNCED=2)}, "matching": 1},
            "deaf": None,
        },
        (),
    ).documents.values()
    rows, following, matching = topic_list.merged(answers, ["a", "b", "d"], TopicQuery(limit=3))
    assert [(one["name"], one["gateways"], one["is_live"]) for one in rows] == [
        ("a", 2, True),
        ("b", 0, False),
        ("c", 1, True),
    ]
    assert (rows[0]["version"], rows[0]["sockets"], rows[0]["tabs"], rows[0]["status"]) == (
        2,
        4,
        {"BEHIND": 1, "SYNCED": 3},
        "BEHIND",
    )
    assert (following, matching, rows[1]["status"]) == ("c", 3, None)
    rows, following, _ = topic_list.merged(answers, ["a", "b", "d"], TopicQuery(limit=3, after="c"))
    assert ([one["name"] for one in rows], following) == (["d"], None)
    assert topic_list.merged([], [], TopicQuery()) == ([], None, 0)


def test_a_search_is_for_a_part_or_for_a_beginning() -> None:
    names = ["sandbox/tenant:B", "tenant:a", "tenant:b"]
    assert TopicQuery("tenant:b").matching(names) == ["sandbox/tenant:B", "tenant:b"]
    assert TopicQuery("^tenant:b").matching(names) == ["tenant:b"]
    assert TopicQuery().matching(reversed(names)) == names
    foreign = ["tenant:auth0%7C5F", "tenant:b"]
    for search in ("auth0|5f", "^tenant:auth0|", "0%7c5", "^tenant:auth0%7c"):
        assert TopicQuery(search).matching(foreign) == foreign[:1]


def test_a_question_survives_the_control_channel() -> None:
    page = TopicQuery("acme", "live", "tenant:a", 20)
    assert TopicQuery.read(page._asdict()) == page
    assert TopicQuery.read({"limit": "many", "of a later build": 1}) == TopicQuery()


def test_the_gateways_own_topics_are_not_listed() -> None:
    assert topic_list.is_listed("sandbox/tenant:acme")
    assert not topic_list.is_listed("gateway:1f")
    assert not topic_list.is_listed("no topic")


def test_a_row_has_the_newer_of_the_live_and_the_stored_version() -> None:
    rows: list[dict[str, Any]] = [{"version": 5_000_000}, {"version": 0}]
    topic_list.dated(rows, [7_000_000, 0], now=10.0)
    assert rows == [{"version": 7_000_000, "age_s": 3.0}, {"version": 0, "age_s": None}]

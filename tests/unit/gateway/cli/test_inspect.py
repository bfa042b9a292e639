"""What `planwire trace`, `log`, `diff` and `drift` show of the console's answers, and their exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway import cli
from gateway.cli.common import Api

TAB = {"gateway": "g1", "session": "s_1", "sub": "ann", "client": "web", "status": "SYNCED", "why": "It shows it."}
CHAIN: dict[str, Any] = {
    "topic": "tenant:acme",
    "committed": {
        "version": 1_767_225_602_500_000,
        "age_s": 90.0,
        "cause": {
            "event_type": "subscription.updated",
            "occurred_at": "2026-01-01T00:00:00Z",
            "received_at": "2026-01-01T00:00:02Z",
        },
    },
    "gateways": [{"gateway": "g1", "status": "SYNCED", "sockets": 2, "watchers": 1, "why": "It has the newest."}],
    "tabs": [TAB | {"acked": 7}],
    "counts": {"SYNCED": 2},
    "silent": [],
}


EVENT = {"event_id": "evt_1", "outcome": "parked", "type": "t", "reason": "why"}


SEEN: dict[str, Any] = {"listed": True, "is_known": True, "is_seen": True}


def run(monkeypatch: pytest.MonkeyPatch, answers: dict[str, dict[str, Any]], *arguments: str) -> Result:
    def send(_: Api, method: str, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        name = path.removeprefix("/console/api/").partition("/")[0]
        return 200, {"shadow": SEEN, **answers}[name]

    monkeypatch.setattr(Api, "send", send)
    return CliRunner().invoke(cli.cli, [*arguments, "--url", "http://x"])


def trace(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Result:
    answers = {"topics": CHAIN | changes, "events": {"events": [*[EVENT] * 9, EVENT | {"outcome": "applied"}]}}
    return run(monkeypatch, answers, "trace", "acme")


def test_the_chain_has_each_step_with_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    result = trace(monkeypatch)
    assert result.exit_code == 0
    assert result.output.splitlines()[:8] == [
        "tenant:acme  version 1767225602500000, 1 min 30 s old",
        "  occurred   2026-01-01T00:00:00Z                     subscription.updated",
        "  received   2026-01-01T00:00:02Z             +2.0 s",
        "  committed  2026-01-01T00:00:02.500000Z     +500 ms",
        "  gateway g1  SYNCED  2 tabs, 1 readers  It has the newest.",
        "    SYNCED  s_1  ann  web  acked 7",
        "    and 1 more",
        "  event evt_1  parked  t  why",
    ]
    assert result.output.count("event evt_1") == 5, "the newest few"


def test_an_event_that_was_used_since_it_was_parked_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [EVENT | {"outcome": "applied"}, EVENT, EVENT | {"event_id": "evt_2"}]
    output = run(monkeypatch, {"topics": CHAIN, "events": {"events": events}}, "trace", "acme").output
    assert ("event evt_1" in output, "event evt_2" in output) == (False, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": {"BEHIND": 1}},
        {"silent": ["g2"]},
        {"gateways": [CHAIN["gateways"][0] | {"status": "STALE"}]},
    ],
)
def test_what_is_not_in_order_exits_1(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    assert trace(monkeypatch, **changes).exit_code == 1


def test_a_tab_that_owes_an_answer_says_for_how_long_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    late = TAB | {"status": "BEHIND", "acked": None, "lag_ms": 2500, "buffered_bytes": 9, "why": "It waits."}
    assert "nothing acked, owes its answer for 2.5 s, 9 bytes wait  It waits" in trace(monkeypatch, tabs=[late]).output


def test_a_topic_without_a_state_has_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: dict[str, Any] = {"version": 0, "age_s": None, "cause": {}}
    lines = trace(monkeypatch, committed=nothing, gateways=[], tabs=[]).output.splitlines()
    assert lines[:5] == [
        "tenant:acme  has no state",
        "  occurred   -",
        "  received   -",
        "  committed  -",
        "  no gateway has a tab of it",
    ]


def test_the_newest_two_versions_are_compared_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [
        {"path": "/plan", "old": '"free"', "new": '"pro"'},
        {"path": "/seats", "old": None, "new": "1"},
        {"path": "", "old": "1", "new": None},
    ]
    answers: dict[str, dict[str, Any]] = {
        "timeline": {"versions": [{"version": 2}, {"version": 1}]},
        "diff": {"differences": differences, "more": True},
    }
    result = run(monkeypatch, answers, "diff", "acme")
    assert result.output.splitlines() == ['~ /plan  "free" -> "pro"', "+ /seats  1", "- /  1", "and more"]
    answers["timeline"]["versions"].pop()
    assert run(monkeypatch, answers, "diff", "acme").exit_code == 1


def test_a_log_names_what_each_version_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [
        {"at": "t2", "version": 2, "cause": {"source": "api"}, "changed": 3, "paths": ["/a", "/b"]},
        {"at": "t1", "version": 1, "cause": {}, "changed": None, "paths": None},
    ]
    lines = run(monkeypatch, {"timeline": {"versions": versions}}, "log", "acme").output.splitlines()
    assert [line.split(maxsplit=3) for line in lines[1:]] == [
        ["t2", "2", "api", "/a, /b and 1 more"],
        ["t1", "1", "-", "the oldest kept"],
    ]


def test_drift_is_asked_of_a_gateway_that_takes_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"at": "t", "kind": "k", "topic": "tenant:a", "subject": "sub", "why": "w", "here": {"a": 1}, "there": None}
    result = run(monkeypatch, {"drift": {"listed": True, "drift": [row]}}, "drift")
    assert result.output.splitlines()[1].split() == ["t", "k", "tenant:a", "sub", "w", '{"a":1}', "null"]
    result = run(monkeypatch, {"drift": {"listed": False}}, "drift")
    assert (result.exit_code, "PLANWIRE_INTAKE=0" in result.output) == (1, True)


def test_drift_of_money_shows_both_amounts_or_what_was_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    row: dict[str, Any] = {"at": "t", "kind": "money", "topic": "tenant:a", "subject": "pv_1"}
    here, there = {"currency": "EUR", "due_now": 2000}, {"currency": "EUR", "due_now": 2100}
    rows = [{**row, "why": "billed", "here": here, "there": there}, {**row, "why": "unbilled", "here": here}]
    result = run(monkeypatch, {"drift": {"listed": True, "drift": rows}}, "drift")
    lines = [line.split() for line in result.output.splitlines()[1:]]
    quoted, billed = '{"currency":"EUR","due_now":2000}', '{"currency":"EUR","due_now":2100}'
    assert lines == [
        ["t", "money", "tenant:a", "pv_1", "billed", quoted, billed],
        ["t", "money", "tenant:a", "pv_1", "unbilled", quoted, "-"],
    ]
    output = run(monkeypatch, {"drift": {"listed": True, "drift": rows}}, "drift", "--json").output
    assert [json.loads(line) for line in output.splitlines()] == rows


def test_a_tenant_in_the_shadow_has_what_billing_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = {"plan": {"key": "pro"}, "status": "active"}
    shadow = {"listed": True, "is_known": True, "is_seen": False, "computed": computed, "differences": [{}]}
    result = run(monkeypatch, {"topics": CHAIN, "events": {"events": []}, "shadow": shadow}, "trace", "acme")
    says = "pages do not see what billing computes: pro, active; 1 fields differ from the other system"
    assert result.output.splitlines()[1] == f"  shadow     {says}"

"""`planwire catalog migrate`: what it sends to move tenants to a version of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway import cli
from gateway.cli.common import Api

KEY = {"PLANWIRE_PUBLISH_KEY": "k"}


class Gateway:
    """Answers pages of versions, and moves tenants; it is busy at first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str]]) -> None:
        self.rows = dict(rows)
        self.moved: list[tuple[str, Mapping[str, str], Any]] = []
        self.busy = 2
        self.fails_at = ""
        monkeypatch.setattr(Api, "send", lambda _, *given: self.send(*given))
        monkeypatch.setattr("time.sleep", lambda _: None)

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        if self.busy:
            self.busy -= 1
            return 429, {"code": "rate_limited", "detail": "too many requests"}
        asked = query or {}
        if method == "GET":
            assert (path, asked["plan"], asked["env"]) == ("/v1/plan-versions", "pro", "sandbox")
            names = sorted(self.rows)[int(asked.get("from", 0)) :][:2]
            rows = [
                {"tenant": name, "subscription": f"paddle:{name}", "version": self.rows[name], "plan": "pro"}
                for name in names
            ]
            following = int(asked.get("from", 0)) + 2
            more = {"next": str(following)} if following < len(self.rows) else {}
            # A tenant may be listed twice.
            return 200, {"versions": rows + rows, "catalog": {"pro": ["2027", "2026"], "free": ["current"]}, **more}
        tenant = path.split("/")[3]
        if tenant == self.fails_at:
            return 503, {"code": "store_unavailable", "detail": "the store did not answer"}
        self.moved.append((tenant, asked, body))
        self.rows[tenant] = body["value"]
        return 200, {"outcome": "applied", "version": 7}


def migrate(*arguments: str, version: str = "2027") -> Result:
    given = ("migrate", "pro", "--version", version, "--reason", "announced", "--env", "sandbox", *arguments)
    return CliRunner(env=KEY).invoke(cli.cli, ["catalog", *given])


def test_all_with_another_version_are_moved_once_and_a_stopped_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, [("a", "2026"), ("b", "2027"), ("c", "2026"), ("d", "2026"), ("e", "2027")])
    gateway.fails_at = "d"
    assert migrate("--by", "eve").exit_code == 1
    body = {"kind": "version", "name": "pro", "value": "2027", "reason": "announced", "by": "eve"}
    assert gateway.moved == [(name, {"env": "sandbox"}, body) for name in ("a", "c")]
    gateway.fails_at = ""
    assert "d  applied" in migrate("--by", "eve").output
    assert [name for name, _, _ in gateway.moved] == ["a", "c", "d"]
    assert "nobody has to be moved" in migrate().output


def test_chosen_ones_are_moved_whatever_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, [])
    result = migrate("--tenant", "acme", "--tenant", "sandbox/tenant:b", version="2026")
    assert result.exit_code == 0
    assert [name for name, _, _ in gateway.moved] == ["acme", "b"]
    assert "acme has no pro now: a move counts once it has again what it bought before" in result.output


def test_a_chosen_one_that_is_named_twice_is_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, [("b", "2026")])
    result = migrate("--tenant", "b", "--tenant", "sandbox/tenant:b")
    assert "1 of 1 tenants moved" in result.output
    assert "has no pro" not in result.output
    assert [name for name, _, _ in gateway.moved] == ["b"]


def test_an_unknown_version_moves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, [("a", "2026")])
    result = migrate("--dry-run", version="2028")
    assert result.exit_code == 2
    assert "the plan pro has no version 2028: expected one of 2027, 2026" in result.output
    assert migrate("--dry-run", "--tenant", "a", version="2028").exit_code == 2
    assert gateway.moved == []


def test_a_dry_run_counts_who_would_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, [("b", "2026"), ("a", "2026"), ("c", "2027")])
    result = migrate("--dry-run")
    assert result.stdout == "a  would be moved\nb  would be moved\n"
    assert "2 tenants would be moved to pro 2027" in result.output
    assert gateway.moved == []

"""`planwire catalog`: what it says of files, and what it sends to move tenants to a version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from gateway import cli
from gateway.cli.common import Api

KEY = {"PLANWIRE_PUBLISH_KEY": "k"}
FREE = '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n'
PRO = '[plans.pro]\nname = "Pro"\nrank = 20\nlimits = { seats = 9 }\nprices.paddle.live = ["pri_1", "pri_2"]\n'
VERSION = '[[plans.pro.versions]]\nversion = "2026"\nuntil = 2027-01-01T00:00:00Z\nlimits = { seats = 99 }\n'


def run(*arguments: str) -> Result:
    return CliRunner(env=KEY).invoke(cli.cli, ["catalog", *arguments])


def written(directory: Path, text: str, name: str = "new.toml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_check_says_what_is_there(tmp_path: Path) -> None:
    path = written(tmp_path, FREE + PRO + VERSION)
    assert run("check", path).output == (
        f"{path}: 2 plans, 0 add-ons, 2 ids; the default is free\n"
        "plan pro: new customers get version current\n"
        "  version 2026 until 2027-01-01T00:00:00Z; as in the plan, also after later edits of it: "
        "name, features, per_unit, modules\n"
    )


def test_what_cannot_be_used_is_bad_input_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, FREE + PRO + VERSION.replace("until", "unto"))
    for arguments in (("check", path), ("diff", path, path)):
        result = run(*arguments)
        assert result.exit_code == 2
        assert f"{path}:12: plans.pro.versions[0].unto is not known here" in result.output
    assert run("check").exit_code == 2
    assert run("check", str(tmp_path / "none.toml")).exit_code == 2


def test_the_catalog_of_the_environment_is_compared_with(tmp_path: Path) -> None:
    old, new = written(tmp_path, FREE + PRO, "old.toml"), written(tmp_path, FREE + PRO + VERSION)
    result = CliRunner(env={"PLANWIRE_CATALOG": new}).invoke(cli.cli, ["catalog", "diff", old])
    assert result.output.startswith("existing customers of pro\n  gains limit seats: 9 -> 99\n")


def test_diff_says_what_existing_customers_get(tmp_path: Path) -> None:
    old = written(tmp_path, FREE + PRO, "old.toml")
    basic = '[plans.basic]\nname = "Basic"\nrank = 10\nprices.paddle.live = ["pri_2"]\n'
    moved = run("diff", old, written(tmp_path, FREE + PRO.replace(', "pri_2"', "") + basic))
    assert "existing customers of pro\n  get basic by pri_2\n  loses limit seats: 9 -> none\n" in moved.output
    gone = run("diff", old, written(tmp_path, FREE + PRO.replace(', "pri_2"', "")))
    assert gone.output == ("existing customers of pro\n  the catalog no longer has pri_2: what was published stays\n")
    assert run("diff", old, old).output == "no difference: nobody gains or loses anything\n"


def test_diff_prints_the_lines_that_keep_existing_customers(tmp_path: Path) -> None:
    old, cut = written(tmp_path, FREE + PRO, "old.toml"), FREE + PRO.replace("9", "3")
    found = run("diff", old, written(tmp_path, cut)).output
    lines = found[found.index("[[plans.pro.versions]]") :]
    kept = written(tmp_path, cut + lines)
    assert run("diff", old, kept).output == "new customers of pro\n  loses limit seats: 9 -> 3\n"
    (row,) = map(orjson.loads, run("diff", old, kept, "--json").output.splitlines())
    assert (row["who"], row["offer"], row["difference"]["loses"]) == ("new", "pro", ["limit seats: 9 -> 3"])


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
    return run(*given)


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


def test_an_unknown_version_moves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, [("a", "2026")])
    result = migrate("--dry-run", version="2028")
    assert result.exit_code == 2
    assert "the plan pro has no version 2028: expected one of 2027, 2026" in result.output
    assert gateway.moved == []

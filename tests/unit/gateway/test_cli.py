"""What the command line makes of its environment and its arguments, before it talks to anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner

from gateway import cli
from gateway.cli import calling, operating, publishing


def test_the_environment_is_completed_and_wins(tmp_path: Path) -> None:
    (tmp_path / "dev.env").write_text("PORT=9\nPLANWIRE_JWT_SECRET=file\nPLANWIRE_PUBLISH_KEY=file\n")
    given = {"PLANWIRE_DATA_DIR": str(tmp_path), "PLANWIRE_JWT_SECRET": "given", "PLANWIRE_PUBLISH_KEY": ""}
    found = calling.environment(given)
    assert (found["PORT"], found["PLANWIRE_JWT_SECRET"], found["PLANWIRE_PUBLISH_KEY"]) == ("9", "given", "file")


def test_without_a_file_it_is_the_environment(tmp_path: Path) -> None:
    given = {"PLANWIRE_DATA_DIR": str(tmp_path / "none")}
    assert calling.environment(given) == given


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev.env").mkdir()
    with pytest.raises(calling.Failed, match=r"cannot read .*dev\.env"):
        calling.environment({"PLANWIRE_DATA_DIR": str(tmp_path)})


def test_base_urls() -> None:
    assert calling.base_url(None, {}) == "http://127.0.0.1:8000"
    assert calling.base_url(None, {"PORT": "9"}) == "http://127.0.0.1:9"
    assert calling.base_url("https://x.example/", {}) == "https://x.example"
    with pytest.raises(click.BadParameter):
        calling.base_url("x.example", {})


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["1"], {"state": 1}),
        (["null"], {"state": None}),
        (["{}", "--order", "7", "--if-version", "0"], {"state": {}, "order": 7, "if_version": 0}),
        (["{}", "--order", "2026-01", "--event-id", "e"], {"state": {}, "order": "2026-01", "event_id": "e"}),
        (["{}", "--private", "null"], {"state": {}, "private": None}),
    ],
)
def test_what_publish_sends(monkeypatch: pytest.MonkeyPatch, arguments: list[str], body: dict[str, Any]) -> None:
    sent: list[object] = []

    def post(url: str, change: object, key: str, base: str) -> tuple[int, dict[str, Any]]:
        sent.extend((url, change, key, base))
        return 200, {"verdict": "applied", "version": 5}

    monkeypatch.setattr(publishing, "post", post)
    result = CliRunner().invoke(cli.cli, ["publish", "tenant:a", *arguments, "--key", "k", "--url", "http://x"])
    assert (result.exit_code, result.output) == (0, "applied 5\n")
    assert sent == ["http://x/v1/publish", {"topic": "tenant:a", **body}, "k", "http://x"]


def test_what_simulate_sends_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    from sync.simulator import client

    asked: list[object] = []

    def run_action(base: str, action: str, tenant: str, **params: object) -> client.ActionResult:
        asked.extend((base, action, tenant, params))
        delivered = client.Delivered("evt_1", "subscription.updated", "delivered", 200, "applied", None, 12.4)
        return client.ActionResult("sub_1", "active", (("evt_1", "subscription.updated"),), (delivered,))

    monkeypatch.setattr(client, "run_action", run_action)
    arguments = [
        "upgrade",
        "--tenant",
        "acme",
        "--plan",
        "pro",
        "--set",
        "when=now",
        "--set",
        "days=3",
        "--url",
        "http://s",
    ]
    result = CliRunner().invoke(cli.cli, ["simulate", *arguments])
    assert asked == ["http://s", "upgrade", "acme", {"wait": True, "plan": "pro", "when": "now", "days": 3}]
    assert result.output == "sub_1 active\nevt_1 subscription.updated applied 12 ms\n"
    result = CliRunner().invoke(cli.cli, ["simulate", *arguments, "--json"])
    assert orjson.loads(result.output)["subscription_id"] == "sub_1"


def test_a_version_tells_its_instant() -> None:
    assert calling.instant(1_795_395_356_406_607) == "2026-11-23T00:55:56.406607Z"


def test_all_pages_of_parked_events_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def send(
        method: str, url: str, query: dict[str, str], body: object, key: str, base: str
    ) -> tuple[int, dict[str, Any]]:
        assert (method, url, body, key) == ("GET", "http://x/v1/parked", None, "k")
        asked.append(dict(query))
        count = min(int(query["limit"]), 500)
        events = [{"event_id": f"evt_{len(asked)}_{number}"} for number in range(count)]
        return 200, {"parked": events, "next": f"{len(asked)}.x"}

    monkeypatch.setattr(operating, "send", send)
    arguments = ["parked", "--limit", "1100", "--json", "--key", "k", "--url", "http://x"]
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 0
    assert asked == [{"limit": "500"}, {"limit": "500", "after": "1.x"}, {"limit": "100", "after": "2.x"}]
    assert len(result.output.splitlines()) == 1100


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert calling.table(("id", "reason"), [{"id": "evt_1", "reason": "a b"}, {"id": "e"}]) == [
        "id     reason",
        "evt_1  a b",
        "e      -",
    ]

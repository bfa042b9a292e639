"""What the command line makes of its environment and its arguments, before it talks to anyone."""

from __future__ import annotations

import ast
import time
import tomllib
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner, Result

from gateway import cli
from gateway.cli import common, output
from gateway.cli.common import Api
from gateway.cli.tenants import until
from gateway.cli.watch import show
from planwire_client.replica.snapshot import Snapshot
from sync.core import instants

KEY = {"PLANWIRE_PUBLISH_KEY": "k"}
COMMANDS = Path(cli.__file__).parent
HOSTILE = "a\x1b[2J\x9b31m\u202eb"


def test_the_environment_is_completed_and_wins(tmp_path: Path) -> None:
    (tmp_path / "dev.env").write_text("PORT=9\nPLANWIRE_JWT_SECRET=file\nPLANWIRE_PUBLISH_KEY=file\n")
    given = {"PLANWIRE_DATA_DIR": str(tmp_path), "PLANWIRE_JWT_SECRET": "given", "PLANWIRE_PUBLISH_KEY": ""}
    found = common.environment(given)
    assert (found["PORT"], found["PLANWIRE_JWT_SECRET"], found["PLANWIRE_PUBLISH_KEY"]) == ("9", "given", "file")


def test_without_a_file_it_is_the_environment(tmp_path: Path) -> None:
    given = {"PLANWIRE_DATA_DIR": str(tmp_path / "none")}
    assert common.environment(given) == given


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev.env").mkdir()
    with pytest.raises(common.Failed, match=r"cannot read .*dev\.env"):
        common.environment({"PLANWIRE_DATA_DIR": str(tmp_path)})


def test_base_urls() -> None:
    assert common.base_url(None, {}) == "http://127.0.0.1:8000"
    assert common.base_url(None, {"PORT": "9"}) == "http://127.0.0.1:9"
    assert common.base_url("https://x.example/", {}) == "https://x.example"
    with pytest.raises(click.BadParameter):
        common.base_url("x.example", {})


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

    def send(api: Api, method: str, path: str, query: object = None, body: object = None) -> tuple[int, dict[str, Any]]:
        sent.extend((method, path, body, api.secret, api.base))
        return 200, {"verdict": "applied", "version": 5}

    monkeypatch.setattr(Api, "send", send)
    result = CliRunner(env=KEY).invoke(cli.cli, ["publish", "tenant:a", *arguments, "--url", "http://x"])
    assert (result.exit_code, result.output) == (0, "applied 5\n")
    assert sent == ["POST", "/v1/publish", {"topic": "tenant:a", **body}, "k", "http://x"]


@pytest.mark.parametrize(
    ("arguments", "method", "path", "body"),
    [
        (
            "grant acme pro --until 2027-01-31 --reason r --by eve --trial",
            "POST",
            "/v1/tenants/acme/overrides",
            {
                "kind": "plan",
                "name": "pro",
                "value": True,
                "expires_at": "2027-01-31T00:00:00+00:00",
                "reason": "r",
                "by": "eve",
                "trial": True,
            },
        ),
        (
            "grant tenant:auth0|5f1c pro --until 2027-01-31T12:30:00+02:00 --reason r --units 9",
            "POST",
            "/v1/tenants/auth0%7C5f1c/overrides",
            {"kind": "plan", "name": "pro", "value": 9, "expires_at": "2027-01-31T10:30:00+00:00", "reason": "r"},
        ),
        ("overrides acme", "GET", "/v1/tenants/acme/overrides", None),
        (
            "overrides acme --remove plan:pro --reason r",
            "DELETE",
            "/v1/tenants/acme/overrides/plan/pro",
            {"reason": "r"},
        ),
        ("revive acme --reason r --by eve", "POST", "/v1/tenants/acme/revive", {"reason": "r", "by": "eve"}),
        (
            "link stripe:sub_1 tenant:auth0%7C5f1c --reason r --by eve",
            "POST",
            "/v1/links",
            {"subscription": "stripe:sub_1", "tenant": "auth0|5f1c", "reason": "r", "by": "eve"},
        ),
        ("links acme", "GET", "/v1/tenants/acme/links", None),
        ("parked drop evt_1 --reason r", "POST", "/v1/parked/evt_1/drop", {"reason": "r"}),
        ("parked retry evt_1", "POST", "/v1/parked/evt_1/retry", None),
        ("parked --retry evt_1", "POST", "/v1/parked/evt_1/retry", None),
        (
            "parked retry tenant:acme --queue timers",
            "POST",
            "/v1/parked-items/retry",
            {"queue": "timers", "item": "tenant:acme"},
        ),
        (
            "parked drop tenant:acme --queue timers --reason r",
            "POST",
            "/v1/parked-items/drop",
            {"queue": "timers", "item": "tenant:acme", "reason": "r"},
        ),
    ],
)
def test_what_operators_commands_send(
    monkeypatch: pytest.MonkeyPatch, arguments: str, method: str, path: str, body: object
) -> None:
    sent: list[object] = []

    def send(api: Api, *given: object) -> tuple[int, dict[str, Any]]:
        sent.extend(given)
        linked = {"subscription": "stripe:sub_1", "topic": "tenant:acme", "was": "tenant:b", "overrules": "b"}
        return 200, {"outcome": "applied", "version": 5, "overrides": [], "links": [], "moved": [], **linked}

    monkeypatch.setattr(Api, "send", send)
    result = CliRunner(env=KEY).invoke(cli.cli, [*arguments.split(), "--env", "live"])
    assert result.exit_code == 0, result.output
    assert result.output in (
        "applied 5\n",
        "applied 5\nstripe:sub_1 belongs to tenant:acme, was tenant:b; overrules b in the metadata\n",
        "no override: the tenant has what is paid for\n",
        "no subscription belongs to it\n",
    )
    assert sent == [method, path, {"env": "live"}, body]


def test_a_span_counts_from_now() -> None:
    for text, seconds in (("14d", 14 * 86_400), ("36h", 36 * 3_600)):
        assert abs(instants.parse(until(text)) / 10**9 - time.time() - seconds) < 10


@pytest.mark.parametrize(
    "arguments",
    [
        "grant acme pro --until soon --reason r",
        "grant acme pro --reason r",
        "grant acme pro --until 14d",
        "overrides acme --remove pro",
        "parked drop evt_1",
        "parked drop --reason r",
        "parked retry evt_1 --reason r",
        "parked forget evt_1",
        "parked items tenant:acme",
        "parked items --queue timers",
        "parked retry --queue timers",
    ],
)
def test_bad_input_of_operators_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.setattr(Api, "send", lambda *_: pytest.fail("nothing is sent"))
    assert CliRunner(env=KEY).invoke(cli.cli, arguments.split()).exit_code == 2


def test_the_lines_that_ignore_unknown_prices_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        {"event_id": "1", "provider": "paddle", "env": "live", "unknown_prices": ["pri_1", "pri_2"]},
        {"event_id": "2", "provider": "paddle", "env": "live", "unknown_prices": ["pri_2"]},
        {"event_id": "3", "provider": "stripe", "env": "sandbox", "unknown_prices": ["price_3"]},
        {"event_id": "4", "provider": "stripe", "env": "sandbox"},
        {"event_id": "5", "provider": "polar", "env": "live", "unknown_products": ["8f0e"]},
    ]
    monkeypatch.setattr(Api, "send", lambda *_: (200, {"parked": events}))
    printed = CliRunner(env=KEY).invoke(cli.cli, ["parked"]).output
    tables = tomllib.loads(printed[printed.index("[ignore]") :])
    prices = {"paddle": {"live": ["pri_1", "pri_2"]}, "stripe": {"sandbox": ["price_3"]}}
    assert tables == {"ignore": {"prices": prices, "products": {"polar": {"live": ["8f0e"]}}}}


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


def test_all_pages_of_parked_events_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def send(
        api: Api, method: str, path: str, query: dict[str, str], body: object = None
    ) -> tuple[int, dict[str, Any]]:
        assert (method, api.base, path, body, api.secret) == ("GET", "http://x", "/v1/parked", None, "k")
        asked.append(dict(query))
        count = min(int(query["limit"]), 500)
        events = [{"event_id": f"evt_{len(asked)}_{number}"} for number in range(count)]
        return 200, {"parked": events, "next": f"{len(asked)}.x"}

    monkeypatch.setattr(Api, "send", send)
    arguments = ["parked", "--limit", "1100", "--json", "--url", "http://x"]
    result = CliRunner(env=KEY).invoke(cli.cli, arguments)
    assert result.exit_code == 0
    assert asked == [{"limit": "500"}, {"limit": "500", "after": "1.x"}, {"limit": "100", "after": "2.x"}]
    assert len(result.output.splitlines()) == 1100


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert output.table(("id", "reason"), [{"id": "evt_1", "reason": "a b"}, {"id": "e"}]) == [
        "id     reason",
        "evt_1  a b",
        "e      -",
    ]


class TestSecrets:
    """They come from the environment, a file or standard input: arguments are in the process list."""

    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        keys: list[str] = []

        def send(api: Api, method: str, path: str, *, body: object) -> tuple[int, dict[str, Any]]:
            keys.append(api.secret)
            return 200, {"verdict": "applied", "version": 5}

        monkeypatch.setattr(Api, "send", send)
        return keys

    def run(self, *arguments: str, stdin: str = "", **environ: str) -> Result:
        runner = CliRunner(env={"PLANWIRE_PUBLISH_KEY": "", **environ})
        return runner.invoke(cli.cli, ["publish", "tenant:a", "1", "--url", "http://x", *arguments], input=stdin)

    def test_from_a_file_standard_input_and_the_environment(self, sent: list[str], tmp_path: Path) -> None:
        (tmp_path / "key").write_text("  of-a-file\n")
        for result in (
            self.run("--key-file", str(tmp_path / "key"), PLANWIRE_PUBLISH_KEY="of-the-environment"),
            self.run("--key-file", "-", stdin="of-stdin\n"),
            self.run(PLANWIRE_PUBLISH_KEY="of-the-environment"),
        ):
            assert (result.exit_code, result.output) == (0, "applied 5\n")
        assert sent == ["of-a-file", "of-stdin", "of-the-environment"]

    def test_as_an_argument_it_still_works_and_is_warned_of(self, sent: list[str]) -> None:
        result = self.run("--key", "an-argument")
        assert (result.exit_code, result.stdout, sent) == (0, "applied 5\n", ["an-argument"])
        assert "--key shows the secret to every user of this machine" in result.stderr
        assert "--key-file" in result.stderr
        assert "an-argument" not in result.stderr

    @pytest.mark.parametrize("content", ["", " \n", "two words", "two\nlines", "x" * 20_000])
    def test_a_file_that_holds_no_secret_is_named_and_not_shown(
        self, sent: list[str], tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "key").write_text(content)
        result = self.run("--key-file", str(tmp_path / "key"))
        assert result.exit_code == 2
        assert f"--key-file: {tmp_path / 'key'} must hold one line" in " ".join(result.output.split())
        assert "two" not in result.output
        assert sent == []

    def test_what_cannot_be_read_or_is_said_twice_is_bad_input(self, sent: list[str], tmp_path: Path) -> None:
        assert "cannot read" in self.run("--key-file", str(tmp_path / "none")).output
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        assert "cannot read" in self.run("--key-file", str(tmp_path / "bytes")).output
        assert "exclude each other" in self.run("--key", "a", "--key-file", "-").output
        assert sent == []

    def test_no_command_shows_an_option_that_takes_a_secret(self) -> None:
        for name, command in cli.cli.commands.items():
            for option in command.params:
                if {"--key", "--token", "--secret", "--password"} & set(option.opts):
                    assert isinstance(option, click.Option)
                    assert option.hidden, name


class TestForeignText:
    """What a state, a provider or a gateway says cannot command the terminal."""

    def test_a_watched_state_is_shown_escaped_and_means_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        for as_json in (False, True):
            show(Snapshot("t:a", 1, {"n": HOSTILE}, {"event_id": HOSTILE}), as_json)
            shown = capsys.readouterr().out.rstrip("\n")
            assert shown.isprintable()
            told = orjson.loads(shown[shown.index("{") :])
            assert (told["state"] if as_json else told) == {"n": HOSTILE}

    def test_parked_events_and_items_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        document: dict[str, Any] = {"parked": [{"event_id": HOSTILE, "reason": HOSTILE}]}
        document["items"] = [{"queue": "timers", "item": HOSTILE, "reason": HOSTILE, "attempts": 8}]
        monkeypatch.setattr(Api, "send", lambda *_: (200, document))
        for arguments in ((), ("--json",), ("items",), ("items", "--json")):
            result = CliRunner(env=KEY).invoke(cli.cli, ["parked", *arguments])
            assert result.exit_code == 0
            assert all(line.isprintable() for line in result.output.split("\n"))

    def test_every_command_prints_by_the_functions_that_escape(self) -> None:
        """A row of `click.echo` and `print` would be the way around them. `top` draws its screen by itself."""
        found = {
            path.name
            for path in COMMANDS.glob("*.py")
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "sys.stdout.write")
        }
        assert found == {"output.py", "top.py", "__init__.py"}


def test_a_failure_is_told_in_plain_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Api, "send", lambda *_: (500, {"code": HOSTILE, "detail": HOSTILE}))
    monkeypatch.setattr("sys.argv", ["planwire", "parked"])
    monkeypatch.setenv("PLANWIRE_PUBLISH_KEY", "k")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("planwire: a")
    assert line.isprintable()

"""The status of a tab follows from values alone."""

from __future__ import annotations

from typing import Any

from gateway.console.reports import tab_status
from gateway.console.reports.tab_status import Status, View
from gateway.hub.subscription import Subscription
from gateway.hub.topic import LiveTopic

NOW = 1_800_000_000.0
VERSION = int((NOW - 60) * 1e6)
SINCE = NOW - 30


class Wire:
    """A socket that takes everything."""

    def __init__(self) -> None:
        self.pending: dict[Subscription, None] | None = None
        self.deflate = False
        self.opened_at = SINCE
        self.direct_fd = -1

    def write_remainder(self, data: bytes, sent: int) -> None:
        """Drop it."""

    def write(self, data: bytes) -> None:
        """Drop it."""

    def end(self, topic: str, reason: str) -> None:
        """Drop it."""


def tab(version: int = VERSION, **fields: Any) -> Subscription:
    live = LiveTopic("tenant:acme", b"pw:{tenant:acme}", version, state=b"{}", known=True)
    made = Subscription(Wire(), live, fields.pop("held", 0), 0)
    live.subscriptions.append(made)
    made.sent = version
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def view(**fields: Any) -> View:
    return View(NOW, 1.75, 100, True)._replace(**fields)


def status(subscription: Subscription, since: float = SINCE, **fields: Any) -> Status:
    subscription.socket.opened_at = since
    return tab_status.evaluate(subscription, view(**fields)).status


def test_a_tab_that_said_it_shows_the_newest_is_synced() -> None:
    assert status(tab(acked=VERSION)) is Status.SYNCED
    assert status(tab(held=VERSION)) is Status.SYNCED
    assert tab_status.evaluate(tab(acked=VERSION), view()).owed_s is None


def test_a_tab_told_that_there_is_no_state_has_nothing_to_answer() -> None:
    assert status(tab(version=0, sent=0)) is Status.SYNCED


def test_a_tab_without_an_answer_is_behind_once_the_answer_is_due() -> None:
    evaluated = tab_status.evaluate(tab(acked=VERSION - 1), view())
    assert evaluated.status is Status.BEHIND
    assert evaluated.owed_s == 30
    assert status(tab(), since=NOW - 1) is Status.SENT
    assert status(tab(), since=NOW - 2) is Status.BEHIND


def test_a_tab_that_does_not_drain_is_behind_at_once() -> None:
    slow = tab(sent=VERSION - 1)
    slow.socket.pending = {}
    slow.socket.opened_at = NOW
    evaluated = tab_status.evaluate(slow, view())
    assert evaluated.status is Status.BEHIND
    assert "no more data" in evaluated.why


def test_what_a_blocked_socket_got_and_did_not_answer_is_behind_but_a_proved_one_is_not() -> None:
    slow = tab()
    slow.socket.pending = {}
    assert status(slow, since=NOW) is Status.BEHIND
    slow.acked = VERSION
    assert status(slow, since=NOW) is Status.SYNCED


def test_a_refusal_counts_for_the_newest_version_only_and_until_it_is_taken_after_all() -> None:
    assert status(tab(nacked=VERSION)) is Status.NACKED
    assert status(tab(nacked=VERSION - 1, acked=VERSION)) is Status.SYNCED
    assert status(tab(nacked=VERSION, acked=VERSION)) is Status.SYNCED
    assert status(tab(nacked=VERSION + 9)) is Status.BEHIND
    assert status(tab(version=0, sent=0, nacked=0)) is Status.SYNCED


def test_nothing_is_synced_while_the_gateway_is_not_proved_current() -> None:
    assert status(tab(acked=VERSION), is_current=False) is Status.STALE
    assert status(tab(acked=VERSION, sent=-1)) is Status.STALE
    unknown = tab(acked=VERSION)
    unknown.live.known = False
    assert status(unknown) is Status.STALE


def test_a_member_of_a_crowd_is_not_blamed_for_an_ack_that_nobody_asked_for() -> None:
    member = tab()
    assert status(member, crowd=1) is Status.BEHIND
    member.live.subscriptions.append(member)
    assert status(member, crowd=1) is Status.SENT
    member.sent = VERSION - 1
    assert status(member, crowd=1) is Status.BEHIND


def test_a_tab_sent_back_is_not_asked_to_acknowledge_again() -> None:
    assert status(tab(acked=VERSION + 5)) is Status.SENT


def test_the_worst_comes_first() -> None:
    evaluated = [(tab(), tab_status.TabStatus(one, "", None)) for one in (Status.SYNCED, Status.NACKED, Status.BEHIND)]
    assert [item[1].status for item in tab_status.worst_first(evaluated)] == [
        Status.NACKED,
        Status.BEHIND,
        Status.SYNCED,
    ]
    assert tab_status.worst({Status.SYNCED: 3, Status.STALE: 1, Status.NACKED: 0}) is Status.STALE
    assert tab_status.worst({}) is None


def test_counts_of_several_gateways_are_added() -> None:
    assert tab_status.total([{"SYNCED": 2}, {"SYNCED": 1, "NACKED": 1}]) == {
        "NACKED": 1, "BEHIND": 0, "STALE": 0, "SENT": 0, "SYNCED": 3,
    }  # fmt: skip


def test_the_page_knows_the_refusal_that_is_none() -> None:
    from pathlib import Path

    from gateway import console
    from sync.billing.domain.facts.reducer import ASKED_SINCE

    assert f'"{ASKED_SINCE}"' in (Path(console.__file__).parent / "static" / "model" / "attention.js").read_text()


def test_the_console_offers_the_scenarios_that_the_simulator_has() -> None:
    from gateway.console.routes.actions import SCENARIOS
    from sync.simulator.scenarios.scenario import BUNDLED

    assert tuple(f"scenario:{name}" for name in BUNDLED) == SCENARIOS


def test_the_page_explains_every_status() -> None:
    import re
    from pathlib import Path

    from gateway import console

    text = (Path(console.__file__).parent / "static" / "model" / "status.js").read_text()
    explained = text[text.index("EXPLAINED = {") : text.index("};")]
    assert re.findall(r"^  ([A-Z]+):", explained, re.MULTILINE) == [one.value for one in Status]

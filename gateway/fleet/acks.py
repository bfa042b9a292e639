"""Which versions of a topic open tabs have acknowledged: one gateway's part, and the parts of several as one.

Acknowledgements live in the gateways' memory; nothing is written for them. They are collected when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.fleet.ask import FleetQuery
from gateway.fleet.question_formats import AcksFormat
from gateway.hub.hub import Hub
from gateway.hub.topic import LiveTopic
from sync.store.store import Store


class Acks(FleetQuery):
    """Questions and answers about acknowledgements."""

    def __init__(self, store: Store, hub: Hub, gateway: str) -> None:
        """Answer as `gateway` from the live topics of `hub`."""

        async def answer(_: str, about: Mapping[str, Any]) -> dict[str, int]:
            return summary(hub.topic(str(about["topic"])))

        super().__init__(store, gateway, AcksFormat(), answer)

    async def of_topic(self, topic: str) -> dict[str, int]:
        """Return what the tabs of a topic have acknowledged, across all gateways that answer in time.

        Returns:
            sessions: tabs that have it open. acked_min, acked_max: the versions that they show, where any has said so.
            unacked: tabs that have not acknowledged the newest version (of a crowd only a share is asked to).
            nacked: tabs that could not use it. gateways: how many answered; silent: how many did not.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return together(*await self.ask_everyone(AcksFormat.op, {"topic": topic}))


def summary(live: LiveTopic | None) -> dict[str, int]:
    """Return one gateway's part of the answer; versions that nobody has acknowledged are left out."""
    if live is None:
        return {"sessions": 0, "unacked": 0, "nacked": 0}
    # A tab that held the newest version when it subscribed is not asked to acknowledge it again.
    shown = [max(tab.acked, tab.client_version if tab.sent == tab.client_version else 0) for tab in live.subscriptions]
    said = [version for version in shown if version]
    counts = {
        "sessions": len(shown),
        "unacked": sum(version < live.version for version in shown),
        "nacked": sum(tab.nacked == live.version > tab.acked for tab in live.subscriptions),
    }
    return counts | ({"acked_min": min(said), "acked_max": max(said)} if said else {})


def together(answers: list[dict[str, int]], silent: int) -> dict[str, int]:
    """Return the answers of several gateways as one."""
    counts = {name: sum(answer[name] for answer in answers) for name in ("sessions", "unacked", "nacked")}
    for name, choose in (("acked_min", min), ("acked_max", max)):
        said = [answer[name] for answer in answers if name in answer]
        if said:
            counts[name] = choose(said)
    return counts | {"gateways": len(answers), "silent": silent}

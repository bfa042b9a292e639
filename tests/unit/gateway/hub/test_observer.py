"""The hub calls its observers, and works the same when one of them fails."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.hub.hub import Hub
from gateway.hub.observer import HubObserver
from gateway.hub.subscription import Subscription
from gateway.hub.topic import LiveTopic
from gateway.metrics import Metrics
from planwire_client.core.commit import PUBLISHER
from sync.core.announcement import Announcement
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Snapshot
from tests.support.announcements import payload_of

TOPIC = "tenant:a"
CHANNEL = keys.channel(TOPIC).encode()


class Wire:
    """A socket that takes everything through its transport."""

    def __init__(self) -> None:
        self.pending: dict[Subscription, None] | None = None
        self.deflate = False
        self.opened_at = 0.0
        self.direct_fd = -1
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def write_remainder(self, data: bytes, sent: int) -> None:
        raise AssertionError("nothing is written directly")

    def end(self, topic: str, reason: str) -> None:
        raise AssertionError("nothing was erased")


class Diary(HubObserver):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def subscription_opened(self, subscription: Subscription) -> None:
        self.seen.append(("opened", subscription.live.name))

    def subscription_closed(self, subscription: Subscription) -> None:
        self.seen.append(("closed", len(subscription.live.subscriptions)))

    def version_applied(self, live: LiveTopic) -> None:
        self.seen.append(("applied", live.version))

    def version_acked(self, subscription: Subscription) -> None:
        self.seen.append(("acked", subscription.acked))

    def version_nacked(self, subscription: Subscription, reason: str) -> None:
        self.seen.append(("nacked", subscription.nacked, reason))


class Broken(HubObserver):
    """Fails whatever it is called for."""

    def __getattribute__(self, name: str) -> object:
        if name in vars(HubObserver) and not name.startswith("_"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


def live_through(*observers: HubObserver) -> list[bytes]:
    """Return what a socket is sent from its subscription to its end."""
    hub, wire = Hub(Metrics(), lambda channel: None, lambda channel: None, lambda name: None), Wire()
    for observer in observers:
        hub.observers.add(observer)
        hub.observers.add(observer)
    subscription = hub.attach(wire, TOPIC, 0)
    hub.confirmed(CHANNEL)
    hub.apply_snapshot(Snapshot(TOPIC, 4, b"{}", b"", b""))
    hub.announce(CHANNEL, payload_of(Announcement(5, 0, b"", b"", b'{"a":1}', PUBLISHER)))
    hub.acks.record(subscription, 5)
    hub.acks.record(subscription, 4)
    hub.acks.record(subscription, 6)
    hub.acks.record_nack(subscription, 6, "never sent")
    hub.acks.record_nack(subscription, 5, "why not")
    hub.detach(subscription)
    return wire.written


def test_an_observer_is_called_once_for_each_fact() -> None:
    diary = Diary()
    live_through(diary)
    assert diary.seen == [
        ("opened", TOPIC),
        ("applied", 4),
        ("applied", 5),
        ("acked", 5),
        ("nacked", 5, "why not"),
        ("closed", 0),
    ]


def test_one_that_fails_is_logged_and_neither_the_push_nor_the_others_notice() -> None:
    diary = Diary()
    with capture_logs() as lines:
        assert live_through(Broken(), diary) == live_through()
    assert len(diary.seen) == 6
    assert [line["event"] for line in lines].count("observer_failed") == 6


def test_one_that_was_removed_is_called_no_more() -> None:
    hub, diary = Hub(Metrics(), lambda channel: None, lambda channel: None, lambda name: None), Diary()
    hub.observers.add(diary)
    hub.observers.remove(diary)
    hub.observers.remove(diary)
    hub.attach(Wire(), TOPIC, 0)
    assert diary.seen == []

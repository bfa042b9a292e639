"""A usage topic keeps its tenant's topic live, and is read again with each version of that."""

from __future__ import annotations

import pytest

from gateway.hub import hub as hub_module
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from planwire_client.core.commit import BILLING
from sync.core.announcement import Announcement
from sync.store.models import Snapshot
from tests.support.announcements import payload_of

TENANT, USAGE = b"pw:{tenant:acme}", b"pw:{tenant:acme}:usage"
SHOWN = b'{"base":%d,"since":1,"run":"a","entitlements":1,"meters":{}}'


class World:
    """A hub, and what it has asked for."""

    def __init__(self) -> None:
        self.channels: set[bytes] = set()
        self.reads: list[str] = []
        self.lost: list[tuple[str, int, bytes]] = []
        self.hub = Hub(
            Metrics(),
            self.channels.add,
            self.channels.discard,
            self.reads.append,
            want_usage=lambda name, version, state: self.lost.append((name, version, state)),
        )

    def announce(self, channel: bytes, version: int, state: bytes) -> None:
        self.hub.announce(channel, payload_of(Announcement(version, 0, b"", b"", state, BILLING)))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(hub_module, "LINGER_S", -1.0)
    return World()


def test_the_tenant_is_live_as_long_as_its_usage_and_has_no_readers_of_its_own(world: World) -> None:
    hub = world.hub
    with hub.reader("usage:acme"):
        tenant = hub.topic("tenant:acme")
        assert tenant is not None
        assert (tenant.readers, hub.usage_count, world.channels) == (0, 1, {TENANT, USAGE})
        with hub.reader("tenant:acme"):
            pass
        hub.expire_idle()
        assert hub.topic("tenant:acme") is tenant
    hub.expire_idle()
    hub.expire_idle()
    assert (hub.topics, hub.usage_count, world.channels) == ({}, 0, set())


def test_a_tenant_that_is_read_outlives_its_usage(world: World) -> None:
    hub = world.hub
    with hub.reader("tenant:acme") as tenant:
        with hub.reader("usage:acme"):
            pass
        hub.expire_idle()
        assert (set(hub.topics), hub.usage_count, tenant.usage) == ({TENANT}, 0, None)


def test_a_new_version_of_the_tenant_has_its_usage_read(world: World) -> None:
    with world.hub.reader("usage:acme"):
        world.hub.apply_snapshot(Snapshot("tenant:acme", 1, b"{}", b"", b"", owner=BILLING))
        world.reads.clear()
        world.announce(TENANT, 2, b"{}")
        assert world.reads == ["usage:acme"]


def test_what_the_store_has_lost_is_to_be_restored(world: World) -> None:
    with world.hub.reader("usage:acme") as live:
        world.hub.apply_snapshot(Snapshot("usage:acme", 10, SHOWN % 8, b"", b"", owner=BILLING))
        world.announce(USAGE, 20, SHOWN % 10)
        assert world.lost == []
        world.announce(USAGE, 30, SHOWN % 15)
        assert world.lost == [("usage:acme", 20, SHOWN % 10)]
        world.lost.clear()
        # The store's clock is behind the lost one's: its new versions are lower.
        world.announce(USAGE, 25, SHOWN % 15)
        assert world.hub.apply_snapshot(Snapshot("usage:acme", 25, SHOWN % 15, b"", b"", owner=BILLING))
        assert world.lost == [("usage:acme", 30, SHOWN % 15)]
        assert live.version == 25

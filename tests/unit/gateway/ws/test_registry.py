"""What browsers are told about coming back: soon where they are few, spread where they are many."""

from __future__ import annotations

from typing import cast

import pytest

from gateway.auth.tokens import Auth
from gateway.auth.verify_keys import KeySet
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.ws.registry import ConnectionRegistry
from gateway.ws.session_socket import SessionSocket
from tests.support.gateway import environment


def _nothing(name: object) -> None:
    pass


@pytest.mark.parametrize(
    ("sockets", "settings", "bounds"),
    [
        (0, {}, (500, 5_000)),
        (5_001, {}, (500, 5_001)),
        (90_000, {}, (500, 30_000)),
        (9_000, {"RECONNECT_MAX_MS": "2000"}, (500, 2_000)),
        (0, {"RECONNECT_MIN_MS": "8000"}, (8_000, 8_000)),
    ],
)
def test_the_back_off_grows_with_the_crowd(sockets: int, settings: dict[str, str], bounds: tuple[int, int]) -> None:
    metrics = Metrics()
    hub = Hub(metrics, _nothing, _nothing, _nothing)
    parsed = GatewaySettings.from_env(environment("redis://127.0.0.1", **settings))
    registry = ConnectionRegistry(parsed, Auth(KeySet([])), hub, metrics, "one")
    registry.sockets = cast("set[SessionSocket]", set(range(sockets)))
    assert registry.reconnect_ms() == bounds

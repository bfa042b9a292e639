"""A socket is opened for allowed origins, within the limits; those that end make room."""

from __future__ import annotations

import pytest

from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.ws.admission import Admission
from gateway.ws.handshake import HandshakeRejected, Headers
from tests.support.gateway import environment


def admission(metrics: Metrics, **settings: str) -> Admission:
    return Admission(GatewaySettings.from_env(environment("redis://127.0.0.1", **settings)), metrics)


def rejection(checked: Admission, headers: Headers | None = None, peer: str = "192.0.2.1") -> str:
    """Return the code of the rejection, empty if there is none."""
    try:
        checked.admit(headers or {}, peer)
    except HandshakeRejected as rejected:
        return rejected.code
    return ""


@pytest.mark.parametrize(("origin", "code"), [(b"https://app.example.com", ""), (b"https://evil.example", "origin")])
def test_pages_connect_from_allowed_origins_only(origin: bytes, code: str) -> None:
    metrics = Metrics()
    checked = admission(metrics, ALLOWED_ORIGINS="https://app.example.com")
    assert rejection(checked, {b"origin": origin, b"host": b"api.example.com"}) == code
    assert metrics.refused == ({code: 1} if code else {})


def test_the_limits_of_an_address_and_a_subject_count_what_is_open() -> None:
    metrics = Metrics()
    checked = admission(metrics, SOCKETS_PER_ADDRESS="1", SOCKETS_PER_SUBJECT="1")
    checked.opened(checked.admit({}, "192.0.2.1"))
    assert rejection(checked) == "too_many_sockets"
    assert rejection(checked, peer="192.0.2.2") == ""
    assert checked.greet("ann")
    assert not checked.greet("ann")
    assert checked.greet("ben")
    assert metrics.refused == {"address": 1, "subject": 1}
    checked.closed("192.0.2.1", "ann")
    assert rejection(checked) == ""
    assert checked.greet("ann")


def test_an_ipv6_network_counts_as_one_address() -> None:
    checked = admission(Metrics(), SOCKETS_PER_ADDRESS="1")
    checked.opened(checked.admit({}, "2001:db8::1"))
    assert rejection(checked, peer="2001:db8::2") == "too_many_sockets"
    assert rejection(checked, peer="2001:db8:0:1::1") == ""


def test_a_full_or_stopping_process_admits_nobody() -> None:
    metrics = Metrics()
    checked = admission(metrics, SOCKETS_MAX="2")
    metrics.sockets = 2
    assert rejection(checked) == "busy"
    metrics.sockets, metrics.draining = 0, True
    assert rejection(checked) == "busy"
    assert metrics.refused == {"sockets_max": 1, "draining": 1}

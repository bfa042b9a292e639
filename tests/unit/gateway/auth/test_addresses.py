"""Which client a request comes from, behind proxies that are trusted to tell and in front of those that are not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from gateway.auth.addresses import (
    LOCAL,
    MESH_HEADERS,
    TrustedProxies,
    canonical,
    group,
    is_forwarded,
    is_internal,
    is_loopback,
    parse_network,
)

PROXIES = TrustedProxies(map(parse_network, ["10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1"]))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        (" 198.51.100.7:51234 ", "198.51.100.7"),  # as Azure's Application Gateway writes it
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("[::ffff:198.51.100.7]:443", "198.51.100.7"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", "unknown"),
        ("_Hidden", "_hidden"),
        ("x" * 100, "x" * 64),
    ],
)
def test_each_address_has_one_spelling(text: str, address: str) -> None:
    assert canonical(text) == address


def test_the_last_hop_that_is_no_trusted_proxy_is_the_client() -> None:
    assert PROXIES.client("10.1.1.1", "6.6.6.6, 198.51.100.7:5, 10.2.2.2") == "198.51.100.7"
    assert PROXIES.client("::ffff:10.1.1.1", "198.51.100.7") == "198.51.100.7"
    assert PROXIES.client(LOCAL, "198.51.100.7, ,") == "198.51.100.7"
    assert PROXIES.client("10.1.1.1", "10.2.2.2") == "10.1.1.1"
    assert PROXIES.client("10.1.1.1", "") == "10.1.1.1"


def test_a_peer_that_is_not_trusted_tells_nothing() -> None:
    assert PROXIES.client("198.51.100.1", "203.0.113.9") == "198.51.100.1"
    assert TrustedProxies(()).client(LOCAL, "203.0.113.9") == LOCAL


def test_limits_count_an_ipv6_customer_network_as_one() -> None:
    assert group("2001:db8:5:6::1") == group("2001:db8:5:6:ffff::9") == "2001:db8:5:6::/64"
    assert group("2001:db8:5:7::1") != group("2001:db8:5:6::1")
    assert (group("198.51.100.7"), group("unknown")) == ("198.51.100.7", "unknown")


@pytest.mark.parametrize("text", ["172.17.0.1/16", "nonsense", "10.0.0.0/33", ""])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address or network such as") as raised:
        parse_network(text)
    assert repr(text) in str(raised.value)


@given(st.text(), st.sampled_from(["10.1.1.1", "198.51.100.1", LOCAL, "::1"]))
def test_any_header_gives_an_address_that_is_no_trusted_proxy_or_the_peer(header: str, peer: str) -> None:
    found = PROXIES.client(peer, header)
    assert len(found) <= 64
    assert found == canonical(peer) or not PROXIES.includes(found)
    group(found)


@given(st.ip_addresses())
def test_a_canonical_address_stays_as_it_is(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    once = canonical(str(address))
    assert canonical(once) == once


@pytest.mark.parametrize(
    ("names", "forwarded"),
    [
        (["host", "accept", "x-forwarded-for"], True),
        (["x-forwarded-host"], True),
        (["x-forwarded"], True),
        (["forwarded"], True),
        (["via"], True),
        (["x-real-ip"], True),
        (["host", "origin", "user-agent", "x-forward", "x-requested-with"], False),
        ([], False),
    ],
)
def test_what_a_proxy_passed_on_is_known_by_its_headers(names: list[str], forwarded: bool) -> None:
    assert is_forwarded(names) is forwarded


def test_what_a_service_mesh_adds_is_some_of_that() -> None:
    assert MESH_HEADERS
    assert all(is_forwarded([name]) for name in MESH_HEADERS)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
     ("::", False), ("0.0.0.0", False), ("localhost", False), ("", False)],
)  # fmt: skip
def test_loopback_is_known_in_every_spelling(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    "address",
    [LOCAL, "127.0.0.1", "127.9.9.9", "::1", "10.0.0.7", "172.31.255.1", "192.168.1.1", "100.64.3.4", "100.127.0.1",
     "169.254.1.1", "fd12:3456::1", "fe80::1%eth0", "::ffff:10.1.2.3"],
)  # fmt: skip
def test_an_internal_address_is_nobodys_on_the_internet(address: str) -> None:
    assert is_internal(address)


@pytest.mark.parametrize(
    "address", ["", "unknown", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "10.0.0"]
)
def test_any_other_address_is_not_internal(address: str) -> None:
    assert not is_internal(address)

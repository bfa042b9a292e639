"""Client addresses: the address that a request comes from, also behind trusted proxies. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

FORWARDING_HEADERS = frozenset((
    "cf-connecting-ip", "fastly-client-ip", "forwarded", "true-client-ip", "via", "x-client-ip", "x-cluster-client-ip",
    "x-original-for", "x-original-host", "x-real-ip",
))  # fmt: skip
FORWARDING_PREFIX = "x-forwarded"
"""Prefix of further headers (lower case) that proxies and tunnels add, beside FORWARDING_HEADERS."""

MESH_HEADERS = frozenset(("x-forwarded-client-cert", "x-forwarded-proto"))
"""Forwarding headers that a service mesh adds to requests between its own pods."""

LOCAL = "local"
"""The peer of a unix socket: always a proxy on the same machine."""

TEXT_MAX = 64
"""Characters kept of a forwarded address that is not an IP address."""

PARSED_KEPT = 4096
"""Size of the cache of parsed addresses. A proxy's address is parsed on every request, a client's three times."""

IPV6_GROUP_BITS = 64
"""Prefix length of an IPv6 network that limits count as one client: providers assign one such network per customer."""

_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""Shared addresses of carriers and of some clouds' pods (RFC 6598); the internet does not route them."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """Return the network written in `text` as an address or `ADDRESS/BITS`.

    Raises:
        ValueError: `text` is neither; the message says what to write.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or network such as 10.0.0.5 or 10.0.0.0/8: {error}") from None


class TrustedProxies:
    """The proxies whose X-Forwarded-For header is trusted."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)

    def includes(self, peer: str) -> bool:
        """Return whether `peer` (the address of a TCP peer, or LOCAL) is a trusted proxy."""
        if not self._networks:
            return False
        address = _parse(peer)
        if address is None:
            return peer == LOCAL
        return any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """Return the client's address: the last one in X-Forwarded-For that is not a trusted proxy's.

        Args:
            peer: the address of the TCP peer, or LOCAL.
            forwarded_for: the value of X-Forwarded-For; several headers joined by commas, empty without one.

        Returns:
            The address in canonical form, without a port; the peer's if the header has no address to trust.
        """
        if self.includes(peer):
            for hop in reversed(forwarded_for.split(",")):
                address = canonical(hop)
                if address and not self.includes(address):
                    return address
        return canonical(peer)


def is_forwarded(names: Iterable[str]) -> bool:
    """Return whether header names (lower case) show that a proxy forwarded the request."""
    return any(name in FORWARDING_HEADERS or name.startswith(FORWARDING_PREFIX) for name in names)


def is_loopback(address: str) -> bool:
    """Return whether this is a loopback address, also as IPv4 inside IPv6."""
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def canonical(text: str) -> str:
    """Return the canonical form of an address: no port, no brackets, no zone, IPv4 inside IPv6 as IPv4.

    Other text is returned in lower case, cut to TEXT_MAX characters.
    """
    address = _parse(text)
    return text.strip().lower()[:TEXT_MAX] if address is None else str(address)


def is_internal(address: str) -> bool:
    """Return whether this address is internal: loopback, private, link-local, shared (RFC 6598) or LOCAL."""
    if address == LOCAL:
        return True
    parsed = _parse(address)
    return parsed is not None and (parsed.is_private or (parsed.version == 4 and parsed in _SHARED))


def group(address: str) -> str:
    """Return the key under which limits count `address`: itself, or the /64 network of an IPv6 address."""
    if ":" not in address:
        return address
    parsed = _parse(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.ip_network((parsed, IPV6_GROUP_BITS), strict=False))


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in `text`, or None. A port is ignored (`1.2.3.4:5`, `[::1]:5`)."""
    text = text.strip()
    return _parse_short(text) if len(text) <= TEXT_MAX else _parse_short.__wrapped__(text)


@lru_cache(PARSED_KEPT)
def _parse_short(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

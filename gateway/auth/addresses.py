"""Client addresses: which one a request comes from, behind the proxies that are trusted to tell. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

FORWARDING_HEADERS = frozenset((
    "cf-connecting-ip", "fastly-client-ip", "forwarded", "true-client-ip", "via", "x-client-ip", "x-cluster-client-ip",
    "x-original-for", "x-original-host", "x-real-ip",
))  # fmt: skip
FORWARDING_PREFIX = "x-forwarded"
"""What proxies and tunnels add to a request that they pass on, in lower case."""

MESH_HEADERS = frozenset(("x-forwarded-client-cert", "x-forwarded-proto"))
"""Those of them that a service mesh adds to what its own pods send each other."""

LOCAL = "local"
"""The peer of a unix socket, on which only a proxy of the same machine can be."""

TEXT_MAX = 64
"""Characters kept of a forwarded address that is no IP address."""

PARSED_KEPT = 4096
"""Size of the cache of parsed addresses. A proxy's is parsed with every request, a client's three times."""

IPV6_GROUP_BITS = 64
"""Limits count an IPv6 network of this prefix length as one client: it is what a provider gives to one customer."""

_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""Addresses of carriers and of some clouds' pods (RFC 6598), which reach nobody outside."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """Return the network that `text` names, an address or `ADDRESS/BITS`.

    Raises:
        ValueError: it is neither; the text names it and says what to write.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or network such as 10.0.0.5 or 10.0.0.0/8: {error}") from None


class TrustedProxies:
    """The networks whose X-Forwarded-For is believed."""

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
        """Return the address of the client: the last one in X-Forwarded-For that is not a trusted proxy's.

        Args:
            peer: the address of the TCP peer, or LOCAL.
            forwarded_for: the value of X-Forwarded-For; several such headers joined by commas, empty for none.

        Returns:
            The address in its canonical spelling, without a port; where nothing can be believed, the peer's.
        """
        if self.includes(peer):
            for hop in reversed(forwarded_for.split(",")):
                address = canonical(hop)
                if address and not self.includes(address):
                    return address
        return canonical(peer)


def is_forwarded(names: Iterable[str]) -> bool:
    """Return whether one of these names of headers (lower case) shows that a proxy passed the request on."""
    return any(name in FORWARDING_HEADERS or name.startswith(FORWARDING_PREFIX) for name in names)


def is_loopback(address: str) -> bool:
    """Return whether this is an address of the machine itself, also where it is IPv4 inside IPv6."""
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def canonical(text: str) -> str:
    """Return one spelling for each address: no port, no brackets, no zone, IPv4 inside IPv6 as IPv4.

    Text that is no address is returned in lower case, at most TEXT_MAX characters of it.
    """
    address = _parse(text)
    return text.strip().lower()[:TEXT_MAX] if address is None else str(address)


def is_internal(address: str) -> bool:
    """Return whether nobody on the internet has this address: loopback, private, link-local, or LOCAL."""
    if address == LOCAL:
        return True
    parsed = _parse(address)
    return parsed is not None and (parsed.is_private or (parsed.version == 4 and parsed in _SHARED))


def group(address: str) -> str:
    """Return what limits count `address` as: itself, or the /64 network of an IPv6 address."""
    if ":" not in address:
        return address
    parsed = _parse(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.ip_network((parsed, IPV6_GROUP_BITS), strict=False))


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in `text`, which may have a port (`1.2.3.4:5`, `[::1]:5`), or None."""
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

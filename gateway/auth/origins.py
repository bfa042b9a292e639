"""Origins of pages: parsing them as browsers send them, and recognizing the gateway's own pages. Pure.

Sources: https://fetch.spec.whatwg.org/#origin-header, https://url.spec.whatwg.org/#host-parsing, RFC 6454.
"""

from __future__ import annotations

import difflib
import ipaddress
import re

import idna

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))

DEFAULT_PORTS = {"http": 80, "https": 443}
"""Ports that browsers omit from an origin, by scheme."""

NEVER_SENT = frozenset(
    ("about", "blob", "content", "data", "file", "filesystem", "ftp", "intent", "javascript", "mailto", "view-source")
)
"""Schemes without an origin of their own: their pages send `null` or the origin of another page."""

EXTENSION_IDS = {
    "chrome-extension": re.compile(r"[a-p]{32}"),
    "moz-extension": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "safari-web-extension": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f#%/:<>?@\[\\\]^|]")
_OPAQUE = re.compile(r"[a-z0-9._~-]+(?::[0-9]{1,5})?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse(text: str) -> str:
    """Return an origin as browsers send it: lower case, no default port, punycode.

    Accepted schemes: `http`, `https`, those of browser extensions, and those of applications that show web pages
    (`capacitor`, `ionic`, `tauri`, `app`, ...).

    Raises:
        ValueError: browsers do not send this; the message says what to write instead.
    """
    scheme, separator, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if "*" in text:
        raise _wrong(text, "a wildcard matches none; list the origin of every page")
    if text.strip().lower() == "null":
        raise _wrong(text, "it stands for every local file and every sandboxed frame, whoever made it")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _wrong(text, "it has the form SCHEME://HOST or SCHEME://HOST:PORT")
    if not rest or re.search(r"[/?#\\]", rest):
        raise _wrong(text, "it ends behind the host or the port: no path, no final slash")
    if "@" in rest:
        raise _wrong(f"{scheme}://...@...", "it names no user")
    if scheme in ("ws", "wss"):
        raise _wrong(text, f"write the page's own scheme, {'https' if scheme == 'wss' else 'http'}")
    if scheme in NEVER_SENT:
        raise _wrong(text, f"pages of the scheme {scheme} have no origin of their own")
    if scheme in DEFAULT_PORTS:
        return f"{scheme}://{_authority(text, rest, DEFAULT_PORTS[scheme])}"
    meant = difflib.get_close_matches(scheme, DEFAULT_PORTS, 1, 0.75)
    if meant:
        raise _wrong(text, f"did you mean {meant[0]}://")
    rest = rest.lower()
    known = EXTENSION_IDS.get(scheme)
    if known is not None and not known.fullmatch(rest):
        raise _wrong(text, f"{scheme}:// is followed by the extension's id")
    if not _OPAQUE.fullmatch(rest):
        raise _wrong(text, "what follows the scheme is no host")
    return f"{scheme}://{rest}"


def is_own_page(origin: str, host: str) -> bool:
    """Return whether a page of `origin` was served by this gateway, which the Host header names.

    Args:
        origin: the Origin header.
        host: the Host header, as the browser sent it.
    """
    scheme, _, authority = origin.lower().partition("://")
    if scheme not in DEFAULT_PORTS or not authority:
        return False
    default = f":{DEFAULT_PORTS[scheme]}"
    return authority.removesuffix(default) == host.lower().removesuffix(default)


def is_rebinding_proof(origin: str) -> bool:
    """Return whether this origin is safe from DNS rebinding, where a foreign host name resolves to this gateway.

    With https the certificate would not match the name. An IP address or `localhost` cannot be rebound.
    """
    scheme, _, authority = origin.lower().partition("://")
    return scheme == "https" or _address_of(authority) is not None or is_loopback(authority)


def is_loopback(authority: str) -> bool:
    """Return whether a Host header names this machine: `localhost`, `x.localhost` or a loopback address."""
    authority = authority.lower()
    host, address = _host_of(authority), _address_of(authority)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def _address_of(authority: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(_host_of(authority))
    except ValueError:
        return None


def _host_of(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] if ":" in authority else authority


def _authority(text: str, rest: str, default_port: int) -> str:
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        address = _address_of(f"[{host}]")
        is_plain = isinstance(address, ipaddress.IPv6Address) and not address.scope_id
        if not bracket or not is_plain or (after and not after.startswith(":")):
            raise _wrong(text, "an IPv6 address is written [2001:db8::1] or [2001:db8::1]:8443")
        host = f"[{address}]"
    else:
        host, colon, port = rest.partition(":")
        host, after = _name(text, host), colon + port
    if not after:
        return host
    port = after[1:]
    if not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65_536:
        raise _wrong(text, "the port is a number from 1 to 65535")
    return host if int(port) == default_port else f"{host}:{int(port)}"


def _name(text: str, host: str) -> str:
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True, std3_rules=False).decode()
        except idna.IDNAError:
            raise _wrong(text, "write the host as browsers do, in punycode (xn--...)") from None
    host = host.lower()
    labels = host.removesuffix(".").split(".")
    if _FORBIDDEN.search(host) or "" in labels:
        raise _wrong(text, "what follows the scheme is no host")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _wrong(text, "browsers write an IPv4 address as four numbers without leading zeros") from None
    return host


def _wrong(text: str, reason: str) -> ValueError:
    return ValueError(f"{text.strip()[:200]!r} is not an origin such as https://app.example.com: {reason}")

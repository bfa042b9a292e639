"""The parts of a store URL: addresses, login, options and TLS. Opens no connection."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from sync.core.errors import SyncError

FORMS = (
    "redis://, rediss://, unix://, redis+sentinel://host:port,host:port/SERVICE, redis+cluster://host:port,host:port; "
    "rediss+sentinel:// and rediss+cluster:// with TLS"
)
"""The accepted forms of a store URL, for error texts."""

SENTINEL_PORT, SERVER_PORT = 26379, 6379

TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
"""Options in the query of a URL with TLS."""


class StoreUrlError(SyncError, ValueError):
    """PLANWIRE_REDIS_URL cannot be used. The text says what is wrong with it and never shows its password."""

    def __str__(self) -> str:
        return f"PLANWIRE_REDIS_URL: {super().__str__()}"


@dataclass(frozen=True, slots=True)
class ServerList:
    """The parts of a URL that names several servers."""

    addresses: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    path: str
    query: dict[str, str]
    tls: ssl.SSLContext | None
    tls_options: dict[str, Any]

    @property
    def login(self) -> dict[str, Any]:
        """The servers' login, as arguments of a client."""
        return {"username": self.username, "password": self.password}


def parse_servers(url: str, default_port: int, options: tuple[str, ...]) -> ServerList:
    """Return the parts of a URL of several servers.

    Args:
        url: the URL.
        default_port: of an address without one.
        options: names that the query may have, besides TLS_OPTIONS where the scheme has TLS.

    Raises:
        StoreUrlError: an unknown option, or an address that is not host:port.
        OSError: a certificate cannot be read.
    """
    split = urlsplit(url)
    query = dict(parse_qsl(split.query))
    has_tls = split.scheme.startswith("rediss")
    unknown = [name for name in query if name not in options and not (has_tls and name in TLS_OPTIONS)]
    if unknown:
        raise StoreUrlError(f"{split.scheme} has no option {', '.join(unknown)}")
    userinfo, _, hosts = split.netloc.rpartition("@")
    name, _, secret = userinfo.partition(":")
    addresses = tuple(_address(item, default_port) for item in hosts.split(","))
    tls_options: dict[str, Any] = {}
    if has_tls:
        tls_options = {"ssl": True, **{name: value for name, value in query.items() if name in TLS_OPTIONS}}
        if "ssl_check_hostname" in tls_options:
            tls_options["ssl_check_hostname"] = query["ssl_check_hostname"].lower() not in ("false", "0")
        if query.get("ssl_cert_reqs") == "none":
            tls_options["ssl_check_hostname"] = False
    return ServerList(
        addresses,
        unquote(name) or None,
        unquote(secret) or None,
        split.path.strip("/"),
        query,
        tls_context(query) if has_tls else None,
        tls_options,
    )


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the TLS context that TLS_OPTIONS describe.

    Raises:
        OSError: a certificate cannot be read.
    """
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if str(options.get("ssl_check_hostname", True)).lower() in ("false", "0"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _address(item: str, default_port: int) -> tuple[str, int]:
    bare = "]" if item.startswith("[") else ""  # [::1] has colons of its own
    host, port = item, str(default_port)
    if ":" in item.rpartition(bare)[2] if bare else ":" in item:
        host, _, port = item.rpartition(":")
    if not host.strip("[]") or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise StoreUrlError(f"{item!r} is not host:port")
    return host.strip("[]"), int(port)

"""Creates the listening sockets (IPv4 and IPv6) of one or several web processes."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from typing import Any

from gateway.settings import SettingsError

PORT_ATTEMPTS = 10
"""With PORT=0: attempts to find one port that is free on every address of a name."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""Family and socket address; the port is ignored."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of `host`, all on one port. They do not accept connections yet.

    `::` accepts IPv4 connections too, as `::ffff:a.b.c.d`; every other IPv6 address accepts only IPv6.

    Args:
        host: an address, with or without brackets, or a name such as `localhost`.
        port: the TCP port; 0: the system picks one.

    Raises:
        SettingsError: PLANWIRE_HOST is not an address of this machine, or PORT cannot be used there.
    """
    host = host.removeprefix("[").removesuffix("]")
    addresses = _resolve(host, port)
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            if port == 0 and error.errno == errno.EADDRINUSE and attempt < PORT_ATTEMPTS - 1:
                continue
            raise SettingsError([_sentence(error, host, port)]) from error
    raise AssertionError("the last attempt returns or raises")


def address_text(address: tuple[Any, ...]) -> str:
    """Return a socket's address as `HOST:PORT`, IPv6 in brackets."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            [f"PLANWIRE_HOST: {host!r} is no address, and no name that resolves here ({reason}); such as 127.0.0.1, ::"]
        ) from error
    # A host may be listed several times.
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind_all(addresses: Iterable[_Address], port: int) -> list[socket.socket]:
    """Return a socket for each address that this machine has.

    Raises:
        OSError: one of them cannot be bound, or the machine has none of them.
    """
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        absent: OSError | None = None
        for family, address in addresses:
            try:
                bound = stack.enter_context(_bind(family, address, port))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error  # a name may have an address of a family that is disabled here
                continue
            port = bound.getsockname()[1]
            sockets.append(bound)
        if not sockets:
            assert absent is not None
            raise absent
        stack.pop_all()
        return sockets


def _bind(family: socket.AddressFamily, address: tuple[Any, ...], port: int) -> socket.socket:
    # With IPPROTO_TCP asyncio disables Nagle's algorithm on accepted connections.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        bound.bind((address[0], port, *address[2:]))
        bound.set_inheritable(True)
    except OSError:
        bound.close()
        raise
    return bound


def _sentence(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"PORT: {port} on {host} is taken by another program: stop that one, or set another PORT"
        case errno.EACCES:
            return f"PORT: {port} on {host} needs more rights: set one above 1023"
        case errno.EADDRNOTAVAIL:
            return f"PLANWIRE_HOST: {host} is not an address of this machine; :: and 0.0.0.0 stand for all of them"
        case errno.EAFNOSUPPORT:
            return (
                f"PLANWIRE_HOST: {host} needs IPv6, which is switched off here; 0.0.0.0 stands for all IPv4 addresses"
            )
        case _:
            return f"PLANWIRE_HOST: {host} with PORT {port} cannot be listened on: {error.strerror}"

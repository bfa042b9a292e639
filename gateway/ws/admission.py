"""Admission of sockets: the allowed origins, and the limits per process, address and subject."""

from __future__ import annotations

from collections import Counter

from gateway.auth import origins
from gateway.auth.addresses import TrustedProxies, group
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.ws.handshake import HandshakeRejected, Headers


class Admission:
    """Counts the sockets by address and subject, and rejects those beyond a limit."""

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._per_address: Counter[str] = Counter()
        self._per_subject: Counter[str] = Counter()

    def admit(self, headers: Headers, peer: str) -> str:
        """Return the client's address if it may open a socket.

        Args:
            headers: the headers of the handshake.
            peer: the address of the TCP peer, or LOCAL.

        Raises:
            HandshakeRejected: the process is stopping, the origin is not allowed, or a limit is reached.
        """
        settings, metrics = self._settings, self._metrics
        if metrics.draining or metrics.sockets >= settings.sockets_max:
            metrics.refused["draining" if metrics.draining else "sockets_max"] += 1
            raise HandshakeRejected(503, "busy", "no more sockets here, try again", (("Retry-After", "2"),))
        origin = headers.get(b"origin")
        # A browser always sends an Origin. For other clients the token alone decides.
        if origin is not None and not self._is_allowed(origin.decode("latin-1"), headers):
            metrics.refused["origin"] += 1
            raise HandshakeRejected(403, "origin", "pages of this origin may not connect; see PLANWIRE_ALLOWED_ORIGINS")
        address = self._proxies.client(peer, headers.get(b"x-forwarded-for", b"").decode("latin-1"))
        if self._per_address[group(address)] >= settings.sockets_per_address:
            metrics.refused["address"] += 1
            detail = "too many sockets from this address"
            raise HandshakeRejected(429, "too_many_sockets", detail, (("Retry-After", "5"),))
        return address

    def _is_allowed(self, origin: str, headers: Headers) -> bool:
        """Return whether a page of `origin` may connect: an allowed origin, or the console's own if there is one."""
        if self._settings.origin_allowed(origin):
            return True
        host = headers.get(b"host", b"").decode("latin-1")
        has_console = bool(self._settings.console_token.get_secret_value())
        return has_console and origins.is_own_page(origin, host) and origins.is_rebinding_proof(origin)

    def opened(self, address: str) -> None:
        """Count a socket of this address."""
        self._per_address[group(address)] += 1

    def greet(self, subject: str) -> bool:
        """Count a socket of this subject; return False, without counting, if the limit is reached."""
        if self._per_subject[subject] >= self._settings.sockets_per_subject:
            self._metrics.refused["subject"] += 1
            return False
        self._per_subject[subject] += 1
        return True

    def closed(self, address: str, subject: str | None) -> None:
        """Stop counting a socket. `subject`: None if its hello was not accepted."""
        _decrement(self._per_address, group(address))
        if subject is not None:
            _decrement(self._per_subject, subject)


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]

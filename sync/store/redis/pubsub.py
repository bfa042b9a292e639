"""Where announcements come from: the seam between the gateway's subscriber and the store in each of its forms."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from sync.store.redis.slots import WHOLE, Layout


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that carries announcements: a unix socket `path`, or `host` and `port`."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


class Bus(Protocol):
    """The shards that announce, and how to reach each."""

    @property
    def is_sharded(self) -> bool:
        """Whether a channel is announced by its slot's shard only (SSUBSCRIBE), or by any server (SUBSCRIBE)."""

    @property
    def layout(self) -> Layout | None:
        """Which shard announces which slot; None before the first `refresh`."""

    async def refresh(self) -> Layout:
        """Read the layout from the servers and return it.

        Raises:
            StoreError: no server tells it.
        """

    async def endpoint(self, shard: str) -> Endpoint:
        """Return a shard's present address; it is asked for before every connection, since a failover changes it.

        Raises:
            StoreError: no server is known.
        """

    def moved(self, slot: int, shard: str) -> None:
        """Note that a server named this shard as the slot's owner."""

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever the layout has changed."""

    def listen_left(self, on_left: Callable[[], None]) -> None:
        """Call `on_left` whenever the store's server is the wrong one: its address must be looked up again."""


class SingleServerPubSub:
    """The bus of a store with one server. `where` returns its present address; `listen_left`: see `Bus`."""

    is_sharded = False
    layout = WHOLE

    def __init__(
        self,
        where: Callable[[], Awaitable[Endpoint]],
        listen_left: Callable[[Callable[[], None]], None] = lambda on_left: None,
    ) -> None:
        self._where = where
        self.listen_left = listen_left

    async def refresh(self) -> Layout:
        """Return the only layout there is."""
        return WHOLE

    async def endpoint(self, shard: str) -> Endpoint:
        """Return where the server is.

        Raises:
            StoreError: no server is known.
        """
        return await self._where()

    def moved(self, slot: int, shard: str) -> None:
        """Do nothing: the one server has all slots."""

    def listen(self, on_change: Callable[[], None]) -> None:
        """Do nothing: the layout never changes."""

"""Where announcements come from: the seam between the gateway's feed and the store in each of its forms."""

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
        """Whether a channel is heard only where its slot is (SSUBSCRIBE), or anywhere (SUBSCRIBE)."""

    @property
    def layout(self) -> Layout | None:
        """Who announces which slot, as far as is known; None before `refresh` has succeeded."""

    async def refresh(self) -> Layout:
        """Return the layout, asked for anew.

        Raises:
            StoreError: no server tells it.
        """

    async def endpoint(self, shard: str) -> Endpoint:
        """Return where a shard is now; asked before every connection, since a failover moves it.

        Raises:
            StoreError: no server is known.
        """

    def moved(self, slot: int, shard: str) -> None:
        """Take note that a server says a slot is this shard's."""

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called whenever the layout has changed."""

    def listen_left(self, on_left: Callable[[], None]) -> None:
        """Have `on_left` called whenever the store's server turned out to be the wrong one: connect to it anew."""


class SingleServerPubSub:
    """The bus of a store that is no Cluster; `where` tells the server's present address.

    listen_left: takes a listener that is called whenever the server turned out to be the wrong one.
    """

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

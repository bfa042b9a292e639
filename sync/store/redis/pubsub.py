"""The source of announcements: the interface between the gateway's subscriber and each form of the store."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from sync.store.models import StoreError
from sync.store.redis.cluster import Cluster
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


class Bus:
    """The shards that announce, and their addresses.

    Attributes:
        endpoint: returns a shard's present address. Call it before every connection, since a failover changes the
            address. It raises StoreError if no server is known.
        listen_left: takes a listener, which is called when the server is not the primary any more: its address must be
            looked up again.
        is_sharded: whether only the shard of a channel's slot announces it (SSUBSCRIBE), or any server (SUBSCRIBE).
    """

    def __init__(
        self,
        endpoint: Callable[[str], Awaitable[Endpoint]],
        listen_left: Callable[[Callable[[], None]], None] = lambda on_left: None,
        cluster: Cluster | None = None,
    ) -> None:
        """Describe a store of one server, or `cluster`."""
        self.endpoint = endpoint
        self.listen_left = listen_left
        self.is_sharded = cluster is not None
        self._cluster = cluster

    @property
    def layout(self) -> Layout | None:
        """The layout: which shard announces which slot; None before the first `refresh`."""
        return WHOLE if self._cluster is None else self._cluster.layout

    async def refresh(self) -> Layout:
        """Read the layout from the servers and return it.

        Raises:
            StoreError: no server replies with the layout.
        """
        try:
            return WHOLE if self._cluster is None else await self._cluster.refresh()
        except (RedisError, OSError) as error:
            raise StoreError(str(error)) from error

    def moved(self, slot: int, shard: str) -> None:
        """Record that a server has named `shard` as the slot's owner."""
        if self._cluster is not None:
            self._cluster.moved(slot, shard)

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever the layout has changed."""
        if self._cluster is not None:
            self._cluster.listen(on_change)

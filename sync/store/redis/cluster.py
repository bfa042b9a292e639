"""The nodes of a Redis Cluster, and the layout: which node owns which slot.

redis-py speaks to each node (pools, TLS, replies). Its own cluster client is not used: its pipelines repeat commands
that succeeded, send ASKING on another connection than the command, and close the connections to all nodes when one is
away.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from sync.store.redis.retry import CancelSafeRetry, renewing
from sync.store.redis.slots import Layout, address, parse, shard_name

NODE_TIMEOUT_S = 3.0
"""Maximum time for a node's reply; less than a single server has, since a replica may have taken over."""

LAYOUT_TIMEOUT_S = 1.0
"""Maximum time for nodes to tell the layout."""

LAYOUT_GRACE_S = 0.1
"""Time that the other nodes have after the first answer: one of them may have a newer layout."""

ASKED_MAX = 3
"""Nodes that are asked for the layout at once."""

REFRESH_MIN_S = 1.0
"""Minimum time between two reads of the layout because of redirections; each names the slot's new owner anyway."""


class Cluster:
    """The nodes of one Cluster, and who owns which slot.

    Attributes:
        layout: as read last, with the redirections since; None before the first read.
    """

    def __init__(self, seeds: Iterable[tuple[str, int]], options: Mapping[str, Any], connections_max: int) -> None:
        """Begin at `seeds`, of which one has to answer; `options` and `connections_max` are for every node's pool."""
        self._seeds = [shard_name(host, port) for host, port in seeds]
        self._options = options
        self._connections_max = connections_max
        self._nodes: dict[str, Redis] = {}
        self._lock = asyncio.Lock()
        self._reads = 0
        self._read_at = 0.0
        self._listeners: list[Callable[[], None]] = []
        self.layout: Layout | None = None

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever the layout has changed."""
        self._listeners.append(on_change)

    def node(self, name: str) -> Redis:
        """Return the client of one node."""
        found = self._nodes.get(name)
        if found is None:
            host, port = address(name)
            # Only a stale connection is replaced here; `cluster_commands` handles nodes that are away.
            retry = CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.02, base=0.01), 1, (RedisConnectionError,))
            found = self._nodes[name] = Redis(
                host=host,
                port=port,
                max_connections=self._connections_max,
                socket_timeout=NODE_TIMEOUT_S,
                retry=retry,
                **self._options,
            )
            renewing(found, codes=())  # a demoted node answers MOVED
        return found

    async def primaries(self) -> tuple[str, ...]:
        """Return the names of all primaries that own slots.

        Raises:
            redis.exceptions.ConnectionError: no node tells the layout.
        """
        return (self.layout or await self.refresh()).shards

    async def refresh(self) -> Layout:
        """Read the layout from the nodes and return it; concurrent callers share the answer.

        Raises:
            redis.exceptions.ConnectionError: no node tells the layout.
        """
        reads = self._reads
        async with self._lock:
            if self._reads != reads and self.layout is not None:
                return self.layout
            known = list(self.layout.shards) if self.layout is not None else []
            random.shuffle(known)
            candidates = list(dict.fromkeys([*known, *self._seeds]))
            problem: BaseException | None = None
            for start in range(0, len(candidates), ASKED_MAX):
                found, problem = await self._ask(candidates[start : start + ASKED_MAX])
                if found is not None:
                    self._reads += 1
                    self._read_at = time.monotonic()
                    self._set(found)
                    return found
            raise RedisConnectionError(f"no node of the Cluster tells its slots: {problem}") from problem

    async def refresh_quietly(self) -> None:
        """Read the layout. If no node tells it, the known one stays; the commands themselves report what is wrong."""
        try:
            await self.refresh()
        except (RedisError, OSError, ValueError):
            return

    async def refresh_after_move(self) -> None:
        """Read the layout, unless it was read within REFRESH_MIN_S."""
        if time.monotonic() - self._read_at > REFRESH_MIN_S:
            await self.refresh_quietly()

    async def _ask(self, names: Sequence[str]) -> tuple[Layout | None, BaseException | None]:
        """Return the best layout that one of these nodes tells, or why none does."""
        asking = [asyncio.ensure_future(self._told_by(name)) for name in names]
        try:
            done, left = await asyncio.wait(asking, timeout=LAYOUT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            while left and not any(task.exception() is None for task in done):
                more, left = await asyncio.wait(left, timeout=LAYOUT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
                done |= more
                if not more:
                    break
            if left:
                done |= (await asyncio.wait(left, timeout=LAYOUT_GRACE_S))[0]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        answers = [task for task in asking if task in done]
        best = max((task.result() for task in answers if task.exception() is None), key=_rank, default=None)
        if best is not None:
            return best[2], None
        return None, next((task.exception() for task in answers), TimeoutError(f"none within {LAYOUT_TIMEOUT_S:g} s"))

    async def _told_by(self, name: str) -> tuple[bool, int, Layout]:
        """Return whether the node's side of the Cluster works, its epoch, and the layout as it knows it."""
        pipeline = self.node(name).pipeline(transaction=False)
        async with pipeline:
            pipeline.execute_command("CLUSTER", "INFO")
            pipeline.execute_command("CLUSTER", "SLOTS")
            info, slots = await pipeline.execute()
        fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        found = parse(slots, address(name)[0])
        if not found.shards:
            raise RedisConnectionError(f"{name} knows of no slots")
        return fields.get("cluster_state") == "ok", int(fields.get("cluster_current_epoch", "0")), found

    def moved(self, slot: int, shard: str) -> None:
        """Note that a node named this shard as the slot's owner."""
        if self.layout is not None:
            self._set(self.layout.moved(slot, shard))

    def _set(self, layout: Layout) -> None:
        if layout != self.layout:
            self.layout = layout
            for listener in self._listeners:
                listener()

    async def aclose(self) -> None:
        """Close every connection."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.aclose()


def _rank(answer: tuple[bool, int, Layout]) -> tuple[bool, int]:
    """Prefer a node whose side of the Cluster works, then the one that has seen the latest election."""
    return answer[:2]

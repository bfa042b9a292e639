"""The nodes of a Redis Cluster, and the layout: which node owns which slot.

Each node has a redis-py client (pools, TLS, replies). docs/adr/0005-cluster-client.md says why redis-py's client for a
Cluster is not used.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError, RedisError

from sync.store.redis.retry import CancelSafeRetry, renewing
from sync.store.redis.slots import Layout, address, parse, shard_name

NODE_TIMEOUT_S = 3.0
"""Maximum time for a node's reply. It is less than for a single server, since a replica may have taken over."""

LAYOUT_TIMEOUT_S = 1.0
"""Maximum time for the nodes' replies with the layout."""

LAYOUT_GRACE_S = 0.1
"""Time that the other nodes have after the first reply: one of them may have a newer layout."""

ASKED_MAX = 3
"""Nodes that are asked for the layout at once."""


class Cluster:
    """The nodes of one Cluster, and who owns which slot.

    Attributes:
        layout: the last read layout, updated by redirections; None before the first read.
        read_at: monotonic time of the last read.
    """

    def __init__(self, seeds: Iterable[tuple[str, int]], options: Mapping[str, Any]) -> None:
        """Find the Cluster through `seeds`; one of them must reply. `options`: of every node's client."""
        self._seeds = [shard_name(host, port) for host, port in seeds]
        self._options = options
        self._nodes: dict[str, Redis] = {}
        self._lock = asyncio.Lock()
        self.read_at = 0.0
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
            # One retry, for a stale connection; `cluster_commands` handles unreachable nodes.
            retry = CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.02, base=0.01), 1, (RedisConnectionError,))
            found = Redis(host=host, port=port, socket_timeout=NODE_TIMEOUT_S, retry=retry, **self._options)
            self._nodes[name] = found
            renewing(found, codes=())  # no codes: a demoted node replies MOVED, which `cluster_commands` follows
        return found

    async def primaries(self) -> tuple[str, ...]:
        """Return the names of all primaries that own slots.

        Raises:
            redis.exceptions.ConnectionError: no node replies with the layout.
        """
        return (self.layout or await self.refresh()).shards

    async def refresh(self) -> Layout:
        """Read the layout from the nodes and return it; concurrent callers share one read.

        Raises:
            redis.exceptions.ConnectionError: no node replies with the layout.
        """
        read_at = self.read_at
        async with self._lock:
            if self.read_at != read_at and self.layout is not None:
                return self.layout
            known = list(self.layout.shards) if self.layout is not None else []
            random.shuffle(known)
            candidates = list(dict.fromkeys([*known, *self._seeds]))
            problem: BaseException | None = None
            for start in range(0, len(candidates), ASKED_MAX):
                found, problem = await self._ask(candidates[start : start + ASKED_MAX])
                if found is not None:
                    self.read_at = time.monotonic()
                    self._set(found)
                    return found
            raise RedisConnectionError(f"no node of the Cluster returns its slots: {problem}") from problem

    async def refresh_quietly(self) -> None:
        """Read the layout. If no node replies, the known one stays; the commands' own errors report the problem."""
        try:
            await self.refresh()
        except (RedisError, OSError, ValueError):
            return

    async def _ask(self, names: Sequence[str]) -> tuple[Layout | None, BaseException | None]:
        """Return the best layout in the nodes' replies, or the error if there is none.

        Layouts of nodes in a working part of the Cluster come first; among these, the one with the latest election.
        """
        asking = [asyncio.ensure_future(self._told_by(name)) for name in names]
        answers: list[tuple[bool, int, Layout]] = []
        problem: BaseException = TimeoutError(f"none within {LAYOUT_TIMEOUT_S:g} s")
        left = set(asking)
        try:
            while left:
                wait_s = LAYOUT_GRACE_S if answers else LAYOUT_TIMEOUT_S
                done, left = await asyncio.wait(left, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    if (error := task.exception()) is None:
                        answers.append(task.result())
                    else:
                        problem = error
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not answers:
            return None, problem
        return max(answers, key=lambda answer: answer[:2])[2], None

    async def _told_by(self, name: str) -> tuple[bool, int, Layout]:
        """Return a node's view: whether its part of the Cluster works, its epoch, and its layout."""
        async with self.node(name).pipeline(transaction=False) as pipeline:
            pipeline.execute_command("CLUSTER INFO")
            pipeline.execute_command("CLUSTER SLOTS")
            info, slots = await pipeline.execute()
        found = parse(slots, address(name)[0])
        if not found.shards:
            raise RedisConnectionError(f"{name} knows of no slots")
        return info.get("cluster_state") == "ok", int(info.get("cluster_current_epoch", 0)), found

    def moved(self, slot: int, shard: str) -> None:
        """Record that a node has named `shard` as the slot's owner."""
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

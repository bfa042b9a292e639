"""A Redis Cluster behind the interface of one server: each command goes to the primary that owns its key's slot.

redis-py speaks to each node (pools, TLS, replies); this module decides which, follows MOVED and ASK, and waits, not
beyond PATIENCE_S, where a node says that it cannot serve a slot yet. Its own cluster client is not used: its pipelines
run commands again that had succeeded, send ASKING on another connection than the command, and close the connections to
all nodes when one is away. It knows none of our keys.

Only commands whose first argument is their key, and scripts, can be sent; see `_key_of`. Commands of one pipeline that
go to the same shard run in their order, those of different shards at the same time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MaxConnectionsError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sync.store.redis.failover import renewing
from sync.store.redis.retry import CancelSafeRetry
from sync.store.redis.slots import Layout, address, parse, redirection, shard_name, slot_of

PATIENCE_S = 3.0
"""How long a command is tried anew while its slot is on the move or without an owner. It has not run then."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.01, 0.2
NODE_TIMEOUT_S = 3.0
"""How long a node may take to answer. Less than for a single server: others may have taken over from it."""

LAYOUT_TIMEOUT_S = 1.0
"""How long nodes have to tell the layout."""

LAYOUT_GRACE_S = 0.1
"""How long the other nodes asked have, once one has answered: one of them may know better."""

ASKED_MAX = 3
"""How many nodes are asked for the layout at once."""

REFRESH_MIN_S = 1.0
"""Redirections alone have the layout read anew no more often than that; each tells the new owner of its slot anyway."""

HOPS_MAX = 5
"""Redirections followed at once; after that the nodes disagree, and there is a pause before each."""

EVERYWHERE = ("PING", "SCRIPT LOAD", "CONFIG SET", "FLUSHALL")
"""Commands without a key that every primary is sent."""

ANYWHERE = ("TIME",)
"""Commands without a key that one primary is sent."""

Command = tuple[tuple[Any, ...], Mapping[str, Any]]


@dataclass(slots=True)
class _Trial:
    """A command on its way. `asked`: the node it was told to ask, once, with ASKING."""

    index: int
    command: Command
    slot: int
    asked: str | None = None
    moved_on: bool = False


class Cluster:
    """The nodes of one Cluster, and who owns which slot."""

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
        """Have `on_change` called whenever the layout has changed."""
        self._listeners.append(on_change)

    def node(self, name: str) -> Redis:
        """Return the client of one node."""
        found = self._nodes.get(name)
        if found is None:
            host, port = address(name)
            # Nodes that are away are the Cluster's matter: only a connection that has gone stale is made anew here.
            retry = CancelSafeRetry(ExponentialWithJitterBackoff(cap=0.02, base=0.01), 1, (RedisConnectionError,))
            found = self._nodes[name] = Redis(
                host=host,
                port=port,
                max_connections=self._connections_max,
                socket_timeout=NODE_TIMEOUT_S,
                retry=retry,
                **self._options,
            )
            renewing(found, codes=())  # whoever is demoted says MOVED
        return found

    async def primaries(self) -> tuple[str, ...]:
        """Return the names of all primaries that own slots.

        Raises:
            redis.exceptions.ConnectionError: no node tells.
        """
        return (self.layout or await self.refresh()).shards

    async def refresh(self) -> Layout:
        """Return the layout, read from the nodes; callers that come meanwhile share the answer.

        Raises:
            redis.exceptions.ConnectionError: no node tells.
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
                told, problem = await self._ask(candidates[start : start + ASKED_MAX])
                if told is not None:
                    self._reads += 1
                    self._read_at = time.monotonic()
                    self._set(told)
                    return told
            raise RedisConnectionError(f"no node of the Cluster tells its slots: {problem}") from problem

    async def _ask(self, names: Sequence[str]) -> tuple[Layout | None, BaseException | None]:
        """The best layout that one of these nodes tells, or why none does."""
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
        pipeline = self.node(name).pipeline(transaction=False)
        async with pipeline:
            pipeline.execute_command("CLUSTER", "INFO")
            pipeline.execute_command("CLUSTER", "SLOTS")
            info, slots = await pipeline.execute()
        fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        told = parse(slots, address(name)[0])
        if not told.shards:
            raise RedisConnectionError(f"{name} knows of no slots")
        return fields.get("cluster_state") == "ok", int(fields.get("cluster_current_epoch", "0")), told

    def moved(self, slot: int, shard: str) -> None:
        """Take note that a node says a slot is this shard's."""
        if self.layout is not None:
            self._set(self.layout.moved(slot, shard))

    def _set(self, layout: Layout) -> None:
        if layout != self.layout:
            self.layout = layout
            for listener in self._listeners:
                listener()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return a reply for each command, in order; for one that failed the exception.

        A command whose connection broke may have run; it is sent again only if its slot has another owner now.

        Raises:
            redis.exceptions.ConnectionError: no node tells the layout.
        """
        replies: list[Any] = [None] * len(commands)
        trials = [_Trial(index, command, slot_of(_key_of(command[0]))) for index, command in enumerate(commands)]
        deadline, pause_s, hops = time.monotonic() + PATIENCE_S, PAUSE_MIN_S, 0
        moved = False
        while trials:
            layout = self.layout or await self.refresh()
            by_node: dict[str, list[_Trial]] = {}
            again: list[_Trial] = []
            must_wait = is_broken = False
            for trial in trials:
                name = trial.asked or layout.owner(trial.slot)
                if name is None:
                    replies[trial.index] = ClusterDownError(f"nobody serves slot {trial.slot}")
                    again.append(trial)
                    must_wait = is_broken = True
                else:
                    by_node.setdefault(name, []).append(trial)
            for name, sent, answers in await _together(self._send(*item) for item in by_node.items()):
                for trial, answer in zip(sent, answers, strict=True):
                    replies[trial.index] = answer
                    was_asked, trial.asked = trial.asked, None
                    if not isinstance(answer, Exception):
                        continue
                    if isinstance(answer, AskError):
                        slot, owner = redirection(str(answer.message), address(name)[0])
                        if isinstance(answer, MovedError):
                            self.moved(slot, owner)
                            moved = True
                        else:
                            trial.asked = owner
                        again.append(trial)
                    elif isinstance(answer, TryAgainError | ClusterDownError | BusyLoadingError):
                        trial.asked = was_asked
                        again.append(trial)
                        must_wait = True
                        is_broken = is_broken or not isinstance(answer, TryAgainError)
                    elif _is_broken(answer) and not trial.moved_on:
                        # Once: with a second owner gone as well there is nobody to wait for.
                        trial.moved_on = is_broken = True
                        again.append(trial)
            if is_broken:
                again = await self._after_loss(again, layout, replies)
            hops += 1
            if again and (must_wait or hops > HOPS_MAX):
                if time.monotonic() + pause_s > deadline:
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_MAX_S, 2 * pause_s)
            trials = sorted(again, key=lambda trial: trial.index)
        if moved and time.monotonic() - self._read_at > REFRESH_MIN_S:
            await self._refresh_quietly()
        return replies

    async def _after_loss(self, trials: Sequence[_Trial], before: Layout, replies: Sequence[Any]) -> list[_Trial]:
        """Read the layout anew; of `trials` return those worth another try."""
        await self._refresh_quietly()
        now = self.layout or before
        return [
            trial
            for trial in trials
            if not _is_broken(replies[trial.index]) or now.owner(trial.slot) not in (None, before.owner(trial.slot))
        ]

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except (RedisError, OSError, ValueError):
            return  # what is known has to do; the commands themselves say what is wrong

    async def _send(self, name: str, trials: Sequence[_Trial]) -> tuple[str, Sequence[_Trial], list[Any]]:
        """The node's answers, in order; where it could not be asked, why, for each."""
        try:
            async with self.node(name).pipeline(transaction=False) as pipeline:
                for trial in trials:
                    arguments, options = trial.command
                    if trial.asked is not None:
                        pipeline.execute_command("ASKING")
                    pipeline.execute_command(*arguments, **options)
                answers = iter(await pipeline.execute(raise_on_error=False))
        except (RedisError, OSError, asyncio.IncompleteReadError) as error:
            return name, trials, [error] * len(trials)
        replies = []
        for trial in trials:
            if trial.asked is not None:
                next(answers)
            replies.append(next(answers))
        return name, trials, replies

    async def everywhere(self, command: Command) -> Any:
        """Return the first of all primaries' replies to a command.

        Raises:
            redis.exceptions.RedisError: one of them was not reached, or refused.
        """
        trials = [_Trial(0, command, 0)]
        names = await self.primaries()
        answers = [answer for _, _, (answer,) in await _together(self._send(name, trials) for name in names)]
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failed is not None:
            if _is_broken(failed):
                await self._refresh_quietly()
            raise failed
        return answers[0]

    async def anywhere(self, command: Command) -> Any:
        """Return one primary's reply to a command: the first's that answers.

        Raises:
            redis.exceptions.RedisError: none did, or one refused.
        """
        names = list(await self.primaries())
        random.shuffle(names)
        for name in names:
            _, _, (answer,) = await self._send(name, [_Trial(0, command, 0)])
            if not _is_broken(answer):
                break
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        """Close every connection."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.aclose()


class ClusterRedis(Redis):
    """A Cluster with the methods of a client of one server, save transactions and pub/sub."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()  # its own pool stays empty: every command goes through `cluster`
        self.shards = cluster

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Return the reply of the key's primary; of all of them to the commands in EVERYWHERE.

        Raises:
            redis.exceptions.RedisError: it was refused, or no server could be asked.
        """
        if args[0] in EVERYWHERE:
            return await self.shards.everywhere((args, options))
        if args[0] in ANYWHERE:
            return await self.shards.anywhere((args, options))
        (reply,) = await self.shards.run([(args, options)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline over all shards; `transaction` must be False."""
        if transaction:
            raise ValueError("a Cluster has no transactions over several slots: pipeline(transaction=False)")
        return ClusterPipeline(self)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection."""
        await self.shards.aclose()
        await super().aclose(close_connection_pool)


class ClusterPipeline(Pipeline):
    """Commands for several shards, collected as redis-py does."""

    def __init__(self, redis: ClusterRedis) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, False, None)
        self._cluster = redis.shards

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Return the replies, in order. Not every command may have run when one has failed.

        Raises:
            redis.exceptions.RedisError: the first failure, unless `raise_on_error` is false: then each stands in the
                place of its reply.
        """
        stack = [(tuple(args), options) for args, options in self.command_stack]
        try:
            replies: list[Any] = await self._cluster.run(stack)
        finally:
            await self.reset()  # type: ignore[no-untyped-call]
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies


def _rank(told: tuple[bool, int, Layout]) -> tuple[bool, int]:
    """Whom to believe: a node whose side of the Cluster works, then the one that has seen the latest election."""
    return told[:2]


def _is_broken(reply: object) -> bool:
    """Whether the node was not reached, or did not answer to the end."""
    broken = (RedisConnectionError, RedisTimeoutError, OSError, asyncio.IncompleteReadError)
    return isinstance(reply, broken) and not isinstance(reply, MaxConnectionsError | BusyLoadingError)


def _key_of(arguments: tuple[Any, ...]) -> bytes:
    """The key that decides where a command goes: a script's first, else the first argument."""
    position = 3 if arguments[0] in ("EVAL", "EVALSHA") else 1
    if len(arguments) <= position or (position == 3 and int(arguments[2]) < 1):
        raise ResponseError(f"{arguments[0]} without a key cannot be sent to a Cluster")
    key = arguments[position]
    return key if isinstance(key, bytes) else str(key).encode()


async def _together(sends: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    waiting = list(sends)
    if len(waiting) == 1:
        return [await waiting[0]]
    # Not gather: cancelled, it would leave connections behind that are still being closed.
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send) for send in waiting]
    return [task.result() for task in tasks]

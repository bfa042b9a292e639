"""Runs each command on the primary that owns its key's slot in a Redis Cluster, and follows MOVED and ASK.

Of one call's commands, those for the same shard run in order, and the shards run in parallel. It supports scripts, and
commands whose first argument is their key; see `_key_of`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as errors
from redis.asyncio import Redis

from sync.store.redis.cluster import NODE_TIMEOUT_S, Cluster
from sync.store.redis.retry import Command, exchange
from sync.store.redis.slots import Layout, address, redirection, slot_of

MAX_WAIT_S = 3.0
"""Maximum time for retries while a command's slot moves or has no owner. The command has not run then."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.01, 0.2

REFRESH_MIN_S = 1.0
"""Minimum time between two layout reads after redirections. A redirection itself has the slot's new owner."""

HOPS_MAX = 5
"""Redirections followed without a pause. After that the nodes probably disagree, and each further one waits first."""


class ClusterRedis(Redis):
    """A Cluster as a redis-py client. It supports commands with a key, but no pipelines and no pub/sub."""

    def __init__(self, nodes: Cluster) -> None:
        super().__init__()  # its own pool is not used: every command goes through `nodes`
        self.nodes = nodes

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Return the reply of the key's primary.

        Raises:
            redis.exceptions.RedisError: an error reply, or no server is reachable.
        """
        (reply,) = await run(self.nodes, [(args, options)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection."""
        await self.nodes.aclose()
        await super().aclose(close_connection_pool)


async def run(cluster: Cluster, commands: Sequence[Command]) -> list[Any]:
    """Return a reply for each command, in order. The reply of a failed command is its exception.

    A command whose connection broke may have run. It is retried only if its slot has another owner now.

    Raises:
        redis.exceptions.ConnectionError: no node replies with the layout.
    """
    attempt = _Run(cluster, commands)
    deadline, pause_s, hops = time.monotonic() + MAX_WAIT_S, PAUSE_MIN_S, 0
    while attempt.left:
        await attempt.send()
        hops += 1
        if attempt.left and (attempt.must_wait or hops > HOPS_MAX):
            if time.monotonic() + pause_s > deadline:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)
    if attempt.has_moved and time.monotonic() - cluster.read_at > REFRESH_MIN_S:
        await cluster.refresh_quietly()
    return attempt.replies


@dataclass(slots=True)
class _Trial:
    """A command without a final reply. `asked`: the node of an ASK redirection, for the next try only."""

    index: int
    command: Command
    slot: int
    asked: str | None = None
    moved_on: bool = False


class _Run:
    """The commands of one call.

    Attributes:
        replies: the replies so far, in the commands' order.
        left: the trials for the next round.
        must_wait: whether a node cannot serve a slot yet.
        has_moved: whether a node has named another owner of a slot.
    """

    def __init__(self, cluster: Cluster, commands: Sequence[Command]) -> None:
        self._cluster = cluster
        self.replies: list[Any] = [None] * len(commands)
        self.left = [_Trial(index, command, slot_of(_key_of(command[0]))) for index, command in enumerate(commands)]
        self.must_wait = self.has_moved = self._is_broken = False

    async def send(self) -> None:
        """Send every trial in `left` once."""
        layout = self._cluster.layout or await self._cluster.refresh()
        trials, self.left = self.left, []
        self.must_wait = self._is_broken = False
        by_node: dict[str, list[_Trial]] = {}
        for trial in trials:
            name = trial.asked or layout.owner(trial.slot)
            if name is None:
                self._note("", trial, errors.ClusterDownError(f"nobody serves slot {trial.slot}"))
            else:
                by_node.setdefault(name, []).append(trial)
        answers = await _together([_send(self._cluster, name, sent) for name, sent in by_node.items()])
        for (name, sent), received in zip(by_node.items(), answers, strict=True):
            for trial, answer in zip(sent, received, strict=True):
                self._note(name, trial, answer)
        if self._is_broken:
            await self._cluster.refresh_quietly()
            self.left = [trial for trial in self.left if self._is_worthwhile(trial, layout)]
        self.left.sort(key=lambda trial: trial.index)

    def _note(self, name: str, trial: _Trial, answer: object) -> None:
        """Record the reply of node `name`, and queue the trial again if the reply calls for it."""
        self.replies[trial.index] = answer
        was_asked, trial.asked = trial.asked, None
        if isinstance(answer, errors.MovedError):
            self._cluster.moved(*redirection(answer.message, address(name)[0]))
            self.has_moved = True
        elif isinstance(answer, errors.AskError):
            _, trial.asked = redirection(answer.message, address(name)[0])
        elif isinstance(answer, errors.TryAgainError | errors.ClusterDownError | errors.BusyLoadingError):
            trial.asked = was_asked
            self.must_wait = True
            self._is_broken = self._is_broken or not isinstance(answer, errors.TryAgainError)
        elif _is_broken(answer) and not trial.moved_on:
            # Once only: if the second owner is unreachable too, give up.
            trial.moved_on = self._is_broken = True
        else:
            return
        self.left.append(trial)

    def _is_worthwhile(self, trial: _Trial, before: Layout) -> bool:
        """Return whether a retry may succeed. After a lost connection, the slot must have another owner now."""
        owner = (self._cluster.layout or before).owner(trial.slot)
        return not _is_broken(self.replies[trial.index]) or owner not in (None, before.owner(trial.slot))


async def _send(cluster: Cluster, name: str, trials: Sequence[_Trial]) -> list[Any]:
    """Return the node's replies; if it is unreachable, the error for each."""
    commands: list[Command] = []
    for trial in trials:
        if trial.asked is not None:
            commands.append((("ASKING",), {}))
        commands.append(trial.command)
    try:
        async with asyncio.timeout(NODE_TIMEOUT_S):
            answers = iter(await exchange(cluster.node(name), commands))
    except (errors.RedisError, OSError, asyncio.IncompleteReadError) as error:
        return [error] * len(trials)
    replies = []
    for trial in trials:
        if trial.asked is not None:
            next(answers)
        replies.append(next(answers))
    return replies


def _is_broken(reply: object) -> bool:
    """Return whether the node was unreachable, or its reply incomplete."""
    broken = (errors.ConnectionError, errors.TimeoutError, OSError, asyncio.IncompleteReadError)
    return isinstance(reply, broken) and not isinstance(reply, errors.MaxConnectionsError | errors.BusyLoadingError)


def _key_of(arguments: tuple[Any, ...]) -> bytes:
    """Return the key that selects a command's node: a script's first key, else the first argument."""
    position = 3 if arguments[0] in ("EVAL", "EVALSHA") else 1
    if len(arguments) <= position or (position == 3 and int(arguments[2]) < 1):
        raise errors.ResponseError(f"{arguments[0]} without a key cannot be sent to a Cluster")
    key = arguments[position]
    return key if isinstance(key, bytes) else str(key).encode()


async def _together(sends: Sequence[Coroutine[Any, Any, list[Any]]]) -> list[list[Any]]:
    if len(sends) == 1:
        return [await sends[0]]
    # TaskGroup, because a cancelled gather does not wait until its tasks have closed their connections.
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send) for send in sends]
    return [task.result() for task in tasks]

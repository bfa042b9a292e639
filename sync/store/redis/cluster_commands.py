"""Runs commands on a Redis Cluster: each on the primary that owns its key's slot, with MOVED and ASK followed.

Commands of one call that go to the same shard run in their order, those of different shards at the same time. Only
scripts, and commands whose first argument is their key, can be sent; see `_key_of`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as errors
from redis.asyncio import Redis

from sync.store.redis.cluster import Cluster
from sync.store.redis.retry import Command, exchange
from sync.store.redis.slots import Layout, address, redirection, slot_of

MAX_WAIT_S = 3.0
"""Maximum time for which a command is tried again while its slot moves or has no owner. It has not run then."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.01, 0.2

REFRESH_MIN_S = 1.0
"""Minimum time between two reads of the layout because of redirections; each names the slot's new owner anyway."""

HOPS_MAX = 5
"""Redirections followed without a pause; after them the nodes disagree, and each is preceded by a pause."""


class ClusterRedis(Redis):
    """A Cluster as a client: the commands that have a key, without pipelines and pub/sub."""

    def __init__(self, nodes: Cluster) -> None:
        super().__init__()  # its own pool stays empty: every command goes through `nodes`
        self.nodes = nodes

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Return the reply of the key's primary.

        Raises:
            redis.exceptions.RedisError: an error reply, or no server was reached.
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
    """Return a reply for each command, in order; the exception for one that failed.

    A command whose connection broke may have run. It is sent again only if its slot has another owner by then.

    Raises:
        redis.exceptions.ConnectionError: no node tells the layout.
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
    """A command that is still to be answered. `asked`: the node of an ASK redirection, for the next try only."""

    index: int
    command: Command
    slot: int
    asked: str | None = None
    moved_on: bool = False


class _Run:
    """The commands of one call.

    Attributes:
        replies: the answers so far, by the commands' order.
        left: the trials for the next round.
        must_wait: a node cannot serve a slot yet.
        has_moved: a node named another owner of a slot.
    """

    def __init__(self, cluster: Cluster, commands: Sequence[Command]) -> None:
        self._cluster = cluster
        self.replies: list[Any] = [None] * len(commands)
        self.left = [_Trial(index, command, slot_of(_key_of(command[0]))) for index, command in enumerate(commands)]
        self.must_wait = self.has_moved = self._is_broken = False

    async def send(self) -> None:
        """Try every command that is left once."""
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
        """Keep the answer of node `name`, and decide by it whether and how the trial goes on."""
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
            # Once: if the second owner is away too, there is no third to wait for.
            trial.moved_on = self._is_broken = True
        else:
            return
        self.left.append(trial)

    def _is_worthwhile(self, trial: _Trial, before: Layout) -> bool:
        """Return whether another try may succeed: after a lost connection, if the slot has another owner by now."""
        owner = (self._cluster.layout or before).owner(trial.slot)
        return not _is_broken(self.replies[trial.index]) or owner not in (None, before.owner(trial.slot))


async def _send(cluster: Cluster, name: str, trials: Sequence[_Trial]) -> list[Any]:
    """Return the node's answers; if it was not reached, the reason for each."""
    commands: list[Command] = []
    for trial in trials:
        if trial.asked is not None:
            commands.append((("ASKING",), {}))
        commands.append(trial.command)
    try:
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
    """Return whether the node was not reached, or did not answer to the end."""
    broken = (errors.ConnectionError, errors.TimeoutError, OSError, asyncio.IncompleteReadError)
    return isinstance(reply, broken) and not isinstance(reply, errors.MaxConnectionsError | errors.BusyLoadingError)


def _key_of(arguments: tuple[Any, ...]) -> bytes:
    """Return the key by which a command is sent: a script's first key, else the first argument."""
    position = 3 if arguments[0] in ("EVAL", "EVALSHA") else 1
    if len(arguments) <= position or (position == 3 and int(arguments[2]) < 1):
        raise errors.ResponseError(f"{arguments[0]} without a key cannot be sent to a Cluster")
    key = arguments[position]
    return key if isinstance(key, bytes) else str(key).encode()


async def _together(sends: Sequence[Coroutine[Any, Any, list[Any]]]) -> list[list[Any]]:
    if len(sends) == 1:
        return [await sends[0]]
    # A cancelled gather would leave connections behind that are still being closed.
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send) for send in sends]
    return [task.result() for task in tasks]

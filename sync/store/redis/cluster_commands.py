"""Runs commands on a Redis Cluster: each on the primary that owns its key's slot, with MOVED and ASK followed.

Commands of one call that go to the same shard run in their order, those of different shards at the same time. Only
scripts, and commands whose first argument is their key, can be sent; see `_key_of`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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

from sync.store.redis.cluster import Cluster
from sync.store.redis.slots import Layout, address, redirection, slot_of

PATIENCE_S = 3.0
"""Maximum time for which a command is tried again while its slot moves or has no owner. It has not run then."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.01, 0.2

HOPS_MAX = 5
"""Redirections followed without a pause; after them the nodes disagree, and each is preceded by a pause."""

Command = tuple[tuple[Any, ...], Mapping[str, Any]]
"""A command's arguments, and redis-py's options for reading its reply."""


@dataclass(slots=True)
class _Trial:
    """A command that is still to be answered. `asked`: the node of an ASK redirection, for the next try only."""

    index: int
    command: Command
    slot: int
    asked: str | None = None
    moved_on: bool = False


@dataclass(slots=True)
class _Round:
    """One try of all commands that are still to be answered.

    Attributes:
        again: the trials for the next round.
        must_wait: a node cannot serve a slot yet.
        is_broken: a node was not reached, or a slot has no owner.
        moved: a node named another owner of a slot.
    """

    again: list[_Trial] = field(default_factory=list)
    must_wait: bool = False
    is_broken: bool = False
    moved: bool = False

    def judge(self, cluster: Cluster, name: str, trial: _Trial, answer: object) -> None:
        """Decide by the answer of node `name` whether and how the trial goes on."""
        was_asked, trial.asked = trial.asked, None
        if isinstance(answer, MovedError):
            cluster.moved(*redirection(str(answer.message), address(name)[0]))
            self.moved = True
        elif isinstance(answer, AskError):
            _, trial.asked = redirection(str(answer.message), address(name)[0])
        elif isinstance(answer, TryAgainError | ClusterDownError | BusyLoadingError):
            trial.asked = was_asked
            self.must_wait = True
            self.is_broken = self.is_broken or not isinstance(answer, TryAgainError)
        elif _is_broken(answer) and not trial.moved_on:
            # Once: if the second owner is away too, there is no third to wait for.
            trial.moved_on = self.is_broken = True
        else:
            return
        self.again.append(trial)


async def run(cluster: Cluster, commands: Sequence[Command]) -> list[Any]:
    """Return a reply for each command, in order; the exception for one that failed.

    A command whose connection broke may have run. It is sent again only if its slot has another owner by then.

    Raises:
        redis.exceptions.ConnectionError: no node tells the layout.
    """
    replies: list[Any] = [None] * len(commands)
    trials = [_Trial(index, command, slot_of(_key_of(command[0]))) for index, command in enumerate(commands)]
    deadline, pause_s, hops, moved = time.monotonic() + PATIENCE_S, PAUSE_MIN_S, 0, False
    while trials:
        layout = cluster.layout or await cluster.refresh()
        this = await _try(cluster, layout, trials, replies)
        moved = moved or this.moved
        if this.is_broken:
            this.again = await _after_loss(cluster, this.again, layout, replies)
        hops += 1
        if this.again and (this.must_wait or hops > HOPS_MAX):
            if time.monotonic() + pause_s > deadline:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)
        trials = sorted(this.again, key=lambda trial: trial.index)
    if moved:
        await cluster.refresh_after_move()
    return replies


async def _try(cluster: Cluster, layout: Layout, trials: Sequence[_Trial], replies: list[Any]) -> _Round:
    """Send every trial to its node, and enter the answers into `replies`."""
    this = _Round()
    by_node: dict[str, list[_Trial]] = {}
    for trial in trials:
        name = trial.asked or layout.owner(trial.slot)
        if name is None:
            replies[trial.index] = ClusterDownError(f"nobody serves slot {trial.slot}")
            this.again.append(trial)
            this.must_wait = this.is_broken = True
        else:
            by_node.setdefault(name, []).append(trial)
    for name, sent, answers in await _together(_send(cluster, *item) for item in by_node.items()):
        for trial, answer in zip(sent, answers, strict=True):
            replies[trial.index] = answer
            this.judge(cluster, name, trial, answer)
    return this


async def _after_loss(
    cluster: Cluster, trials: Sequence[_Trial], before: Layout, replies: Sequence[Any]
) -> list[_Trial]:
    """Read the layout again; return the trials that are worth another try."""
    await cluster.refresh_quietly()
    now = cluster.layout or before
    return [
        trial
        for trial in trials
        if not _is_broken(replies[trial.index]) or now.owner(trial.slot) not in (None, before.owner(trial.slot))
    ]


async def _send(cluster: Cluster, name: str, trials: Sequence[_Trial]) -> tuple[str, Sequence[_Trial], list[Any]]:
    """Return the node's name, the trials and its answers; if it was not reached, the reason for each."""
    try:
        async with cluster.node(name).pipeline(transaction=False) as pipeline:
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


async def everywhere(cluster: Cluster, command: Command) -> Any:
    """Run a command on all primaries; return the first one's reply.

    Raises:
        redis.exceptions.RedisError: one of them was not reached, or returned an error.
    """
    trials = [_Trial(0, command, 0)]
    names = await cluster.primaries()
    answers = [answer for _, _, (answer,) in await _together(_send(cluster, name, trials) for name in names)]
    failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
    if failed is not None:
        if _is_broken(failed):
            await cluster.refresh_quietly()
        raise failed
    return answers[0]


async def anywhere(cluster: Cluster, command: Command) -> Any:
    """Run a command on one primary, the first that answers; return its reply.

    Raises:
        redis.exceptions.RedisError: none was reached, or it returned an error.
    """
    names = list(await cluster.primaries())
    random.shuffle(names)
    for name in names:
        _, _, (answer,) = await _send(cluster, name, [_Trial(0, command, 0)])
        if not _is_broken(answer):
            break
    if isinstance(answer, Exception):
        raise answer
    return answer


def _is_broken(reply: object) -> bool:
    """Return whether the node was not reached, or did not answer to the end."""
    broken = (RedisConnectionError, RedisTimeoutError, OSError, asyncio.IncompleteReadError)
    return isinstance(reply, broken) and not isinstance(reply, MaxConnectionsError | BusyLoadingError)


def _key_of(arguments: tuple[Any, ...]) -> bytes:
    """Return the key by which a command is sent: a script's first key, else the first argument."""
    position = 3 if arguments[0] in ("EVAL", "EVALSHA") else 1
    if len(arguments) <= position or (position == 3 and int(arguments[2]) < 1):
        raise ResponseError(f"{arguments[0]} without a key cannot be sent to a Cluster")
    key = arguments[position]
    return key if isinstance(key, bytes) else str(key).encode()


async def _together(sends: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    waiting = list(sends)
    if len(waiting) == 1:
        return [await waiting[0]]
    # A cancelled gather would leave connections behind that are still being closed.
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send) for send in waiting]
    return [task.result() for task in tasks]

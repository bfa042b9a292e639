"""A replica in its own thread, for programs without an event loop, such as Django and Flask.

Reads do not involve that thread. In a forking server, each process opens its own connection on first use.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Self, TypeVar, Unpack

from planwire_client.errors import NotCurrent, ReplicaClosed, ReplicaError
from planwire_client.replica.replica import WAIT_S, Options, Replica, Status
from planwire_client.replica.snapshot import Policy, Snapshot
from planwire_client.replica.tokens import Token
from planwire_client.replica.topic_state import Reading

T = TypeVar("T")

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
END_TIMEOUT_S = 1.0
"""Maximum seconds for the last tasks on closing: a token function may ignore its cancellation."""

log = logging.getLogger("planwire_client")

_living: weakref.WeakSet[ThreadReplica] = weakref.WeakSet()


class ThreadReplica(Reading):
    """The replica for threads. The first `watch`, `wait_for` or `ensure` opens it. A context manager.

    Callbacks run in the replica's thread. They must not block; they may only read from the replica or close it.
    """

    def __init__(self, url: str, token: Token, topics: Iterable[str] = (), **options: Unpack[Options]) -> None:
        """Watch `topics` at the gateway `url`; the arguments are those of `Replica`."""
        self._make = functools.partial(Replica, url, token, list(topics), **options)
        self._is_closed = False
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: set[concurrent.futures.Future[Any]] | None = set()  # None: the thread has ended
        self._calls_lock = threading.Lock()
        self._replica = self._make()
        self._states = self._replica._states

    @property
    def status(self) -> Status:
        """The current status of the replica."""
        return self._replica.status

    @property
    def cause(self) -> str:
        """The last problem of a connection that still persists; see `Replica.cause`."""
        return self._replica.cause

    def watch(self, topic: str) -> None:
        """Keep `topic` current from now on.

        Raises:
            ReplicaClosed: all connections have ended.
        """
        self._do(_called(self._replica.watch, topic))

    def watch_usage(self, tenant: str) -> None:
        """Keep what a tenant has used current from now on; see `Replica.watch_usage`.

        Raises:
            ReplicaClosed: all connections have ended.
        """
        self._do(_called(self._replica.watch_usage, tenant))

    def unwatch(self, topic: str) -> None:
        """Stop watching `topic`."""
        self._do(_called(self._replica.unwatch, topic))

    def wait_for(self, topic: str, version: int = 0, *, timeout_s: float = WAIT_S) -> Snapshot:
        """Watch the topic, and return the snapshot once one of at least `version` is confirmed.

        Raises:
            NotCurrent: there was none within `timeout_s`.
            TopicRefused: the token does not open the topic.
            ReplicaClosed: all connections have ended.
        """
        snapshot = self.get(topic)
        if snapshot is not None and snapshot.version >= version and self.is_fresh(topic):
            return snapshot
        return self._do(self._replica.wait_for(topic, version, timeout_s=timeout_s))

    def ensure(
        self,
        topic: str,
        feature: str,
        *,
        min_version: int = 0,
        policy: Policy = Policy.FAIL_CLOSED,
        timeout_s: float = WAIT_S,
        app: str = "",
    ) -> Snapshot | None:
        """Do the same as `require`, after waiting up to `timeout_s` until the snapshot is current.

        Raises:
            FeatureDenied: the state does not have the feature.
            NotCurrent: it did not become current, and the policy does not let that pass.
            TopicRefused: the token does not open the topic.
        """
        with contextlib.suppress(NotCurrent, ReplicaClosed):
            self.wait_for(topic, min_version, timeout_s=timeout_s)
        return self.require(topic, feature, min_version=min_version, policy=policy, app=app)

    def open(self) -> None:
        """Start the thread, which starts connecting. A second call does nothing.

        Raises:
            ReplicaClosed: it was closed.
        """
        with self._lock:
            if self._is_closed:
                raise ReplicaClosed("", 0, "")
            if self._thread is not None:
                return
            ready = threading.Event()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._work, args=(self._loop, ready), name="planwire replica", daemon=True
            )
            self._thread.start()
            ready.wait(OPEN_TIMEOUT_S)

    def _work(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._replica.open())
            ready.set()
            loop.run_forever()
        except BaseException as error:  # the top of the thread: for example a callback's SystemExit
            log.critical("planwire: the replica's thread has failed", exc_info=error)
        finally:
            ready.set()
            calls = self._end_calls()
            ending = loop.create_task(self._end())
            while not ending.done():
                try:
                    loop.run_until_complete(ending)
                except BaseException as error:  # asyncio raises a SystemExit again for every task that it passes
                    log.debug("planwire: while the replica's thread ends", exc_info=error)
            for call in calls:
                call.cancel()
            loop.close()

    async def _end(self) -> None:
        """Close the replica, and wait for its last tasks."""
        await self._replica.aclose()
        await asyncio.sleep(0)  # calls made just before get their tasks
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest, timeout=END_TIMEOUT_S)

    def close(self) -> None:
        """Close every connection and end the thread. Calls that wait in other threads raise ReplicaClosed."""
        if self._is_own_thread() and self._loop is not None:
            self._is_closed = True
            self._loop.stop()
            return
        with self._lock:
            self._is_closed = True
            if self._thread is None or self._loop is None:
                return
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():  # a callback blocks it
                for call in self._end_calls():
                    call.cancel()
            self._thread = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the replica's thread; return its result."""
        try:
            if self._is_own_thread():
                raise ReplicaError("", "a callback cannot wait for the replica whose thread it runs in")
            self.open()
            with self._calls_lock:
                if self._calls is None or self._loop is None:
                    raise ReplicaClosed("", 0, "")
                call = asyncio.run_coroutine_threadsafe(work, self._loop)
                self._calls.add(call)
        except ReplicaError:
            work.close()
            raise
        try:
            return call.result()
        except concurrent.futures.CancelledError:
            raise ReplicaClosed("", 0, "") from None
        finally:
            with self._calls_lock:
                if self._calls is not None:
                    self._calls.discard(call)

    def _end_calls(self) -> list[concurrent.futures.Future[Any]]:
        """Stop accepting calls; return those that still wait."""
        with self._calls_lock:
            calls, self._calls = self._calls or set(), None
        return list(calls)

    def _is_own_thread(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False


async def _called(work: Callable[[str], None], topic: str) -> None:
    work(topic)


def _forked() -> None:
    # The thread and the sockets belong to the parent. Start again on first use.
    for replica in list(_living):
        replica._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

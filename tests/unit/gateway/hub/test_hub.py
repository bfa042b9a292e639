"""Any interleaving of commits, losses, reads, comings and goings leaves every draining socket with the newest version.

The hub, its pending sets and the sweep are the real ones; store, bus and sockets are models that lose, delay and block.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from typing import Any
from weakref import WeakValueDictionary

import pytest
from hypothesis import example, given, settings, strategies as st

from gateway.freshness import reconciler as sweep_module
from gateway.freshness.reconciler import Reconciler
from gateway.hub import fanout, hub as hub_module
from gateway.hub.ack_policy import AckPolicy
from gateway.hub.hub import Hub
from gateway.hub.subscription import Subscription
from gateway.metrics import Metrics
from planwire_client.core import merge_patch
from planwire_client.core.commit import PUBLISHER
from sync.core.announcement import Announcement
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import ABSENT, Snapshot
from tests.support.announcements import payload_of

TOPICS = ("tenant:a", "tenant:b")
SOCKETS = 6
CHUNK = 2
"""So small that a handful of sockets is a crowd whose fan-out is interrupted."""

Version = tuple[int, bytes]


class Bus:
    """Redis as a subscriber sees it: one stream of confirmations and messages, commands executed in order."""

    def __init__(self) -> None:
        self.subscribed: set[bytes] = set()
        self.wanted: dict[bytes, None] = {}
        self.commands: deque[tuple[str, bytes]] = deque()
        self.stream: deque[tuple[bytes, bytes | None]] = deque()

    def add(self, channel: bytes) -> None:
        self.wanted[channel] = None
        self.commands.append(("subscribe", channel))

    def discard(self, channel: bytes) -> None:
        self.wanted.pop(channel, None)
        self.commands.append(("unsubscribe", channel))

    def execute(self) -> None:
        """The server carries out the oldest command."""
        if not self.commands:
            return
        command, channel = self.commands.popleft()
        if command == "subscribe":
            self.subscribed.add(channel)
            self.stream.append((channel, None))
        else:
            self.subscribed.discard(channel)

    def publish(self, channel: bytes, payload: bytes) -> None:
        if channel in self.subscribed:
            self.stream.append((channel, payload))

    def lose(self) -> None:
        """The connection breaks: what was under way is gone, and everything is subscribed anew on the next one."""
        self.subscribed.clear()
        self.stream.clear()
        self.commands = deque(("subscribe", channel) for channel in self.wanted)


class FakeStore:
    """The store: reads are taken when asked and answered later."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.clock = 100
        self.log: dict[str, list[Version]] = {topic: [(0, ABSENT)] for topic in TOPICS}
        self.states: dict[tuple[str, int], bytes] = {(topic, 0): ABSENT for topic in TOPICS}
        self.reads: deque[tuple[asyncio.Future[Any], Any]] = deque()

    def newest(self, topic: str) -> Version:
        return self.log[topic][-1]

    def commit(self, topic: str, announced: bool) -> None:
        self.clock += 1
        base, old = self.newest(topic)
        version = max(base + 1, self.clock)
        state = b'{"n":%d,"of":"%b"}' % (version, topic.encode())
        self.log[topic].append((version, state))
        self.states[topic, version] = state
        patch = merge_patch.diff(json.loads(old), json.loads(state))
        encoded = b"" if patch is None else json.dumps(patch).encode()
        one = Announcement(version, base if encoded else 0, b"", encoded, state, PUBLISHER)
        if announced:
            self.bus.publish(keys.channel(topic).encode(), payload_of(one))

    def lose_tail(self, topic: str) -> None:
        del self.log[topic][max(1, len(self.log[topic]) - 2) :]

    async def _later(self, value: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.reads.append((future, value))
        return await future

    def answer(self) -> None:
        if self.reads:
            future, value = self.reads.popleft()
            if not future.done():
                future.set_result(value)

    def shard_of(self, topic: str) -> str:
        return ""

    def by_shard(self, topics: list[str]) -> dict[str, list[str]]:
        return {"": topics}

    async def read_many(self, topics: list[str]) -> list[Snapshot]:
        taken = [Snapshot(topic, *self.newest(topic), b"", b"") for topic in topics]
        result: list[Snapshot] = await self._later(taken)
        return result

    async def versions(self, topics: list[str]) -> list[int]:
        result: list[int] = await self._later([self.newest(topic)[0] for topic in topics])
        return result

    async def restore(self, snapshot: Snapshot, over: int) -> bool:
        newer = snapshot.version > self.newest(snapshot.topic)[0] == over
        if newer:
            self.log[snapshot.topic].append((snapshot.version, snapshot.state))
        result: bool = await self._later(newer)
        return result

    async def want_reconcile(self, topics: list[str]) -> None:
        await self._later(None)


class Tab:
    """A socket and the browser behind it, which checks every frame it is sent."""

    def __init__(self, store: FakeStore, metrics: Metrics) -> None:
        self.store = store
        self.pending: dict[Subscription, None] | None = None
        self.deflate = False
        self.opened_at = 0.0
        self.takes = 10**9  # frames until the kernel takes no more
        self.number = next(NUMBER)
        self.is_plain = self.number % 2 == 0
        TABS[self.number] = self
        self.subscriptions: dict[str, Subscription] = {}
        self.topics: set[str] = set()
        self.held: dict[str, int] = {}
        self.answered: set[str] = set()
        self.resets = 0

    def end(self, topic: str, reason: str) -> None:
        raise AssertionError(f"{topic} was not erased")

    def write(self, data: bytes) -> None:
        frame = json.loads(data[2:] if data[1] < 126 else data[4:])
        if frame["type"] == "ack_policy":
            return
        topic = frame["topic"]
        assert topic in self.topics, "a frame of a topic that is not subscribed"
        if frame["type"] == "current":
            assert frame["version"] == self.held[topic]
        else:
            assert self.pending is None, "a state was put into a blocked socket's buffer"
            if frame["type"] == "patch":
                assert frame["base"] == self.held[topic], "a patch on a base that is not held"
                before = json.loads(self.store.states[topic, self.held[topic]])
                state = merge_patch.apply(before, frame["patch"])
            else:
                state = frame["state"]
            assert state == json.loads(self.store.states[topic, frame["version"]])
            if frame.get("reset"):
                self.resets += 1
                assert frame["version"] < self.held[topic]
            else:
                first = topic not in self.answered and frame["version"] == self.held[topic] == 0
                assert frame["version"] > self.held[topic] or first, "a version that is not newer"
            self.held[topic] = frame["version"]
        self.answered.add(topic)
        self.takes -= 1
        if self.takes <= 0:
            self.pause()

    @property
    def direct_fd(self) -> int:
        """Every second one is plain TCP."""
        return self.number if self.is_plain and self.pending is None else -1

    def write_remainder(self, data: bytes, sent: int) -> None:
        assert sent == self.taken, "bytes were sent twice or left out"
        self.taken = 0
        self.write(data)

    taken = 0

    def pause(self) -> None:
        if self.pending is None:
            self.pending = {}


TABS: WeakValueDictionary[int, Tab] = WeakValueDictionary()
NUMBER = itertools.count()


def write_fd(fd: int, data: bytes) -> int:
    """The kernel: takes the whole of a frame, of the last it takes a part or nothing."""
    tab = TABS[fd]
    assert tab.direct_fd == fd
    if tab.takes > 1:
        tab.write(data)
        return len(data)
    if len(data) % 2:
        raise BlockingIOError
    tab.taken = len(data) // 2
    return tab.taken


class World:
    """One gateway's hub and sweep among the models."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.store = FakeStore(self.bus)
        self.metrics = Metrics()
        self.hub = Hub(
            self.metrics,
            self.bus.add,
            self.bus.discard,
            lambda name: self.reconciler.request_read(name),
            AckPolicy(per_topic=3),
        )
        self.reconciler = Reconciler(self.store, self.hub, self.metrics, 5.0, hold_s=0)  # type: ignore[arg-type]
        self.tabs = [Tab(self.store, self.metrics) for _ in range(SOCKETS)]
        self.tasks: list[asyncio.Task[None]] = []

    def held_by(self, topic: str, kind: str) -> int:
        versions = [version for version, _ in self.store.log[topic]]
        return {"none": 0, "old": versions[len(versions) // 2], "newest": versions[-1], "future": 2**52}[kind]

    def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case "commit", topic, announced:
                self.store.commit(topic, announced)
            case ("server",):
                self.bus.execute()
            case ("hear",):
                self.hear()
            case ("answer",):
                self.store.answer()
            case "attach", number, topic, kind:
                self.attach(self.tabs[number], topic, self.held_by(topic, kind))
            case "detach", number, topic:
                subscription = self.tabs[number].subscriptions.pop(topic, None)
                self.tabs[number].topics.discard(topic)
                if subscription is not None:
                    self.hub.detach(subscription)
            case "pause", number:
                self.tabs[number].pause()
            case "resume", number, takes:
                self.resume(self.tabs[number], takes)
            case "close", number:
                for subscription in self.tabs[number].subscriptions.values():
                    self.hub.detach(subscription)
                self.tabs[number] = Tab(self.store, self.metrics)
            case ("lose bus",):
                self.bus.lose()
                self.hub.invalidate()
            case ("sweep",):
                self.tasks.append(
                    asyncio.ensure_future(self.reconciler._compare([live.name for live in self.hub.topics.values()]))
                )
            case "lose tail", topic:
                self.store.lose_tail(topic)
            case ("clock back",):
                self.store.clock = 0
            case ("flow",):
                for _ in range(2):
                    self.bus.execute()
                    self.hear()
                    self.store.answer()
            case ("idle",):
                self.hub.expire_idle()
            case _:
                raise AssertionError(step)

    def hear(self) -> None:
        if not self.bus.stream:
            return
        channel, payload = self.bus.stream.popleft()
        live = self.hub.topics.get(channel)
        if payload is not None:
            self.hub.announce(channel, payload)
        elif live is not None:
            self.hub.confirmed(channel)
            self.reconciler.request_read(live.name)

    def attach(self, tab: Tab, topic: str, held: int) -> None:
        tab.topics.add(topic)
        tab.held[topic] = held
        tab.answered.discard(topic)
        if topic in tab.subscriptions:
            self.hub.resubscribe(tab.subscriptions[topic], held)
        else:
            subscription = self.hub.attach(tab, topic, held)
            tab.subscriptions[topic] = subscription

    def resume(self, tab: Tab, takes: int) -> None:
        """What gateway/ws/connection.py does on resume_writing."""
        tab.takes = takes
        pending, tab.pending = tab.pending, None
        if pending is None:
            return
        assert len(pending) <= len(tab.subscriptions)
        for subscription in pending:
            self.hub.send_latest(subscription)

    async def settle(self) -> None:
        """Everything heals: all sockets drain, the bus carries, reads are answered, one sweep runs."""
        for tab in self.tabs:
            self.resume(tab, 10**9)
        await self.quiet()
        for _ in range(2):  # the second sweep finds what a restore has put back
            self.do(("sweep",))
            await self.quiet()

    async def quiet(self) -> None:
        for _ in range(400):
            await asyncio.sleep(0)
            busy = self.bus.commands or self.bus.stream or self.store.reads or self.reconciler._wanted
            while self.bus.commands:
                self.bus.execute()
            while self.bus.stream:
                self.hear()
            while self.store.reads:
                self.store.answer()
            if not busy and not any(live.remaining for live in self.hub.topics.values()):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if not (self.bus.commands or self.bus.stream or self.store.reads or self.reconciler._wanted):
                    return
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        for tab in self.tabs:
            assert tab.pending is None
            for topic in tab.subscriptions:
                assert topic in tab.answered or tab.held[topic] > 0
                assert tab.held[topic] == self.store.newest(topic)[0], (topic, "not the newest")
        assert not self.hub.unread


async def play(steps: list[tuple[Any, ...]]) -> World:
    world = World()
    reader = asyncio.create_task(world.reconciler.run())
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    try:
        for step in steps:
            if step == ("turn",):
                await asyncio.sleep(0)
            else:
                world.do(step)
            if failures:
                raise failures[0].get("exception") or AssertionError(failures[0])
        await world.settle()
        if failures:
            raise failures[0].get("exception") or AssertionError(failures[0])
        assert not reader.done(), reader.exception()
        world.check()
        return world
    finally:
        reader.cancel()
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(reader, *world.tasks, return_exceptions=True)


NUMBERS = st.integers(0, SOCKETS - 1)
ONE_TOPIC = st.sampled_from([TOPICS[0], TOPICS[0], TOPICS[0], TOPICS[1]])
HELD = st.sampled_from(["none", "old", "newest"])

STEPS: list[st.SearchStrategy[tuple[Any, ...]]] = [
    *[st.tuples(st.just("commit"), ONE_TOPIC, st.sampled_from([True, True, True, False]))] * 3,
    st.just(("server",)),
    *[st.just(("hear",))] * 3,
    st.just(("flow",)),
    st.just(("answer",)),
    st.just(("turn",)),
    st.just(("turn",)),
    st.tuples(st.just("attach"), NUMBERS, ONE_TOPIC, HELD),
    st.tuples(st.just("detach"), NUMBERS, ONE_TOPIC),
    st.tuples(st.just("pause"), NUMBERS),
    st.tuples(st.just("resume"), NUMBERS, st.sampled_from([1, 2, 10**9])),
    st.tuples(st.just("close"), NUMBERS),
    st.just(("lose bus",)),
    st.just(("sweep",)),
    st.just(("idle",)),
]
OPENING: list[tuple[Any, ...]] = [
    ("commit", "tenant:a", True),
    *(("attach", number, "tenant:a", "none") for number in range(SOCKETS)),
    ("server",),
    ("hear",),
    ("turn",),
    ("turn",),
    ("answer",),
    *[("turn",)] * SOCKETS,
]
"""A crowd that has been greeted: where most of what can go wrong begins."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "CHUNK", CHUNK)
    monkeypatch.setattr(fanout, "write_fd", write_fd)
    monkeypatch.setattr(hub_module, "LINGER_S", 0.0)
    monkeypatch.setattr(sweep_module, "SECOND_LOOK_S", 0.0)


def many(*more: st.SearchStrategy[tuple[Any, ...]]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(st.one_of(*STEPS, *more), max_size=70)


ATTACH_WHILE_GOING_ROUND: list[tuple[Any, ...]] = [
    ("close", 5),
    ("commit", "tenant:a", True),
    ("hear",),
    ("commit", "tenant:a", True),
    ("hear",),
    ("attach", 5, "tenant:a", "newest"),
]


DETACH_WHILE_GOING_ROUND: list[tuple[Any, ...]] = [
    ("commit", "tenant:a", True),
    ("hear",),  # two of six served
    ("commit", "tenant:a", True),
    ("hear",),
    ("turn",),  # the third and fourth are; the last takes the fourth's place, behind the cursor
    ("detach", 3, "tenant:a"),
]


@settings(max_examples=3 * settings().max_examples)
@given(steps=many(), opening=st.sampled_from([True, True, False]))
@example(steps=ATTACH_WHILE_GOING_ROUND, opening=True)
@example(steps=DETACH_WHILE_GOING_ROUND, opening=True)
def test_every_draining_socket_ends_with_the_newest_version(steps: list[tuple[Any, ...]], opening: bool) -> None:
    """And is never sent an older one, nor a patch it cannot apply, nor a state while it is blocked, nor a reset."""
    world = asyncio.run(play([*OPENING, *steps] if opening else steps))
    assert world.metrics.resets == 0


@settings(max_examples=3 * settings().max_examples)
@given(
    steps=many(
        st.tuples(st.just("lose tail"), ONE_TOPIC),
        st.just(("clock back",)),
        st.tuples(st.just("attach"), NUMBERS, ONE_TOPIC, st.just("future")),
    ),
    opening=st.sampled_from([True, True, False]),
)
def test_it_does_so_when_the_store_loses_its_newest_versions(steps: list[tuple[Any, ...]], opening: bool) -> None:
    """A gateway that still holds them puts them back; only where nobody does is a browser told to go back.

    Or where the store has gone on: with its clock set back, by versions that are lower than those it has lost.
    """
    asyncio.run(play([*OPENING, *steps] if opening else steps))


async def test_a_browser_that_holds_more_than_a_late_answer_is_not_told_to_go_back() -> None:
    """The read was taken before the commit; the browser, told by another gateway, subscribes before it is answered."""
    world = await play(
        [
            *OPENING,
            ("close", 5),
            ("commit", "tenant:a", False),
            ("sweep",),
            ("turn",),
            ("answer",),  # the sweep finds it newer, and has it read
            *[("turn",)] * 4,
            ("commit", "tenant:a", False),
            ("attach", 5, "tenant:a", "newest"),
            ("answer",),
            *[("turn",)] * 4,
        ]
    )
    assert world.metrics.resets == 0


async def test_a_blocked_socket_that_subscribes_to_a_topic_without_state_is_told_so_later() -> None:
    world = await play(
        [*OPENING, ("attach", 1, "tenant:b", "none"), ("server",), ("hear",), ("turn",), ("answer",), ("turn",)]
    )
    tab = world.tabs[0]
    tab.pause()
    world.attach(tab, "tenant:b", 0)
    assert "tenant:b" not in tab.answered
    world.resume(tab, 10**9)
    assert "tenant:b" in tab.answered


async def test_a_browser_that_holds_what_nobody_else_does_is_reset_once_the_store_was_asked() -> None:
    steps = [*OPENING, ("close", 0), ("attach", 0, "tenant:a", "future")]
    world = await play(steps)
    assert world.metrics.resets == 1
    assert world.tabs[0].resets == 1


async def test_an_announcement_older_than_what_was_read_is_dropped() -> None:
    world = await play(OPENING)
    world.store.commit("tenant:a", True)
    world.store.commit("tenant:a", True)
    world.hub.apply_snapshot(Snapshot("tenant:a", *world.store.newest("tenant:a"), b"", b""))
    sent = world.metrics.sent
    reader = asyncio.create_task(world.reconciler.run())
    world.hear()
    world.hear()
    await world.quiet()
    reader.cancel()
    world.check()
    assert (world.metrics.resets, world.metrics.announcements) == (0, 0)
    assert world.metrics.sent <= sent + SOCKETS


async def test_a_blocked_socket_is_reset_only_when_it_drains_again_and_then_to_the_newest() -> None:
    world = await play(OPENING)
    tab = world.tabs[0]
    tab.pause()
    reader = asyncio.create_task(world.reconciler.run())
    for _ in range(3):
        world.attach(tab, "tenant:a", 2**52)
        await world.quiet()
    assert tab.resets == 0
    assert tab.pending is not None
    assert len(tab.pending) == 1
    world.store.commit("tenant:a", True)
    await world.quiet()
    world.resume(tab, 10**9)
    assert tab.resets == 1
    world.check()
    reader.cancel()


async def test_while_the_bus_is_lost_new_sockets_wait_for_the_next_read() -> None:
    world = await play([*OPENING, ("close", 0)])
    world.do(("lose bus",))
    world.attach(world.tabs[0], "tenant:a", 0)
    assert "tenant:a" not in world.tabs[0].answered
    world.hub.apply_snapshot(Snapshot("tenant:a", *world.store.newest("tenant:a"), b"", b""))
    for _ in range(SOCKETS):
        await asyncio.sleep(0)
    assert "tenant:a" in world.tabs[0].answered


async def test_a_topic_is_settled_only_by_a_read_sent_after_its_subscription_was_confirmed() -> None:
    world = await play(OPENING)
    newest = Snapshot("tenant:a", *world.store.newest("tenant:a"), b"", b"")
    assert world.hub.unread == set()
    world.do(("lose bus",))
    assert world.hub.unread == {b"pw:{tenant:a}"}
    world.hub.apply_snapshot(newest)
    assert world.hub.unread == {b"pw:{tenant:a}"}
    world.hub.confirmed(b"pw:{tenant:a}")
    world.hub.apply_snapshot(newest, is_final=False)
    assert world.hub.unread == {b"pw:{tenant:a}"}
    world.hub.apply_snapshot(newest)
    assert world.hub.unread == set()


@pytest.mark.parametrize("padding", [b"", b"x"], ids=["a part is taken", "nothing is taken"])
async def test_what_the_system_does_not_take_of_a_frame_is_left_to_the_transport(padding: bytes) -> None:
    world = await play(OPENING)
    plain = [tab for tab in world.tabs if tab.is_plain]
    for tab in plain:
        tab.takes = 1
    live = world.hub.topic("tenant:a")
    assert live is not None
    version = live.version + 1
    state = b'{"pad":"%b%b"}' % (b"x" * (len(str(version)) % 2), padding)
    world.store.states["tenant:a", version] = state
    world.hub.announce(live.channel, payload_of(Announcement(version, 0, b"", b"", state, PUBLISHER)))
    for _ in range(SOCKETS):
        await asyncio.sleep(0)
    assert [tab.held["tenant:a"] for tab in world.tabs] == [version] * SOCKETS
    assert all(tab.pending is not None for tab in plain)
    assert plain


async def test_a_crowd_is_told_to_ack_less_the_larger_it_is() -> None:
    world = await play([])
    shares: list[float] = []

    class Listener(Tab):
        def write(self, data: bytes) -> None:
            frame = json.loads(data[2:] if data[1] < 126 else data[4:])
            assert frame["type"] == "ack_policy"
            shares.append(frame["share"])

    for _ in range(13):
        world.hub.attach(Listener(world.store, world.metrics), "tenant:a", 0)
    assert shares == [0.5] * 2 + [0.25] * 6 + [0.125] * 2


async def test_every_subscription_of_the_process_counts_for_how_late_it_is_acked() -> None:
    world = await play(OPENING)
    assert world.hub.subscription_count == SOCKETS
    world.hub.acks._policy = AckPolicy(per_topic=3, per_s=10)
    assert world.hub.acks.rule() == (1, 1000)
    live = world.hub.topic("tenant:a")
    assert live is not None
    (policy,) = {world.hub.acks.policy_frame(live)}
    assert b'"after_ms":2000' in policy  # six are a crowd here, whose acks are spread over more
    live.ack_all = True
    assert b'"share":1.0,"after_ms":2000' in world.hub.acks.policy_frame(live)
    for number in range(SOCKETS):
        world.do(("close", number))
    assert world.hub.subscription_count == 0
    assert world.hub.acks.rule() == (1, 250)
    assert b'"share":1.0,"after_ms":250' in world.hub.acks.policy_frame(live)


async def test_bytes_of_one_version_are_shared_by_every_socket_of_a_kind() -> None:
    world = await play(OPENING)
    live = world.hub.topic("tenant:a")
    assert live is not None
    for as_patch in (False, True):
        for deflate in (False, True):
            assert live.frame(as_patch, deflate) is live.frame(as_patch, deflate)
    before = live.frame(False, False)
    live.set(Announcement(live.version + 1, 0, b"", b"", b"{}", PUBLISHER))
    assert live.frame(False, False) is not before


async def test_an_announcement_that_cannot_be_read_is_counted_and_dropped() -> None:
    world = await play(OPENING)
    world.hub.announce(b"pw:{tenant:a}", b"nonsense")
    world.hub.announce(b"pw:{tenant:unknown}", b"nonsense")
    assert world.metrics.bad_announcements == 1


async def test_a_socket_that_does_not_drain_has_one_entry_a_topic_and_the_oldest_is_sent_first() -> None:
    world = await play([*OPENING, ("attach", 0, "tenant:b", "none")])
    tab = world.tabs[0]
    tab.pause()
    for topic in ("tenant:b", "tenant:a", "tenant:b"):
        world.store.commit(topic, True)
        world.hear()
    assert tab.pending is not None
    assert [subscription.live.name for subscription in tab.pending] == ["tenant:b", "tenant:a"]
    assert world.metrics.replaced == 1
    world.resume(tab, 10**9)
    assert tab.held == {topic: world.store.newest(topic)[0] for topic in ("tenant:a", "tenant:b")}


async def test_a_watch_waits_until_its_topic_is_known_and_newer() -> None:
    world = await play(OPENING)
    hub = world.hub
    with hub.reader("tenant:a") as live:
        version = live.version
        assert await live.newer_than(-1, 0)
        assert not await live.newer_than(version, 0.01)
        waiting = asyncio.create_task(live.newer_than(version, 5))
        await asyncio.sleep(0)
        world.store.commit("tenant:a", True)
        world.hear()
        assert await waiting
        assert live.version > version


async def test_a_topic_that_nobody_watches_is_dropped_after_its_linger_and_known_again_on_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await play(OPENING)
    monkeypatch.setattr(hub_module, "LINGER_S", 1000.0)
    for number in range(SOCKETS):
        world.do(("close", number))
    world.hub.expire_idle()
    assert [live.name for live in world.hub.topics.values()] == ["tenant:a"]
    monkeypatch.setattr(hub_module, "LINGER_S", 0.0)
    world.hub.expire_idle()
    assert [live.name for live in world.hub.topics.values()] == []
    assert b"pw:{tenant:a}" not in world.bus.wanted
    world.attach(world.tabs[0], "tenant:a", 0)
    reader = asyncio.create_task(world.reconciler.run())
    await world.settle()
    world.check()
    reader.cancel()

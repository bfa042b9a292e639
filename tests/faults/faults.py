"""The faults. Each takes a working rig, breaks something for a while, and repairs it.

A fault that cuts gateways off their bus records it with `Rig.deaf`, one that destroys data with `Rig.losing`; the judge
takes both into account.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from gateway.auth import revocation_store, revocations
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change
from sync.store.redis.connect import connect
from tests.faults.clock import LACKING, library
from tests.faults.rig import CONNECTIONS_MAX, MAX_WAIT_S, NOTICE_S, PROBE_S, SILENCE_S, Gateway, Rig
from tests.support.attacker import KINDS, attack
from tests.support.wait import until

ATTACKING = 2 * CONNECTIONS_MAX
"""Number of connections that an attacker tries to hold."""

ATTACKERS = [f"127.0.0.{number}" for number in range(2, 10)]
"""Addresses of the attacker. Each stays within its own limit; together they take all connections of the gateway."""

Fault = Callable[[Rig], Awaitable[None]]

DEAF_S = NOTICE_S + 2 * PROBE_S
"""Long enough that the gateways must notice it."""

BLIP_S = 0.3

HOUR_S = 3600

NEIGHBOUR, NEIGHBOUR_ROUNDS = "?db=9", 3
"""The other installation's database on the same server, and how often it changes every topic."""

FLOOD_BYTES = 64 << 10
"""More than a client's static buffer at the store."""


def _one(rig: Rig) -> Gateway:
    return rig.chance.choice(rig.gateways)


async def _asked(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Return the store's answer, retrying while another fault keeps the store down."""

    async def answer() -> list[Any]:
        try:
            return [await ask()]
        except RedisError as error:
            raise AssertionError(repr(error)) from error

    return (await until(answer, timeout_s=MAX_WAIT_S, every_s=0.05))[0]


# The wire between a gateway and the store.


async def store_wire_cut(rig: Rig) -> None:
    """Connections end in order, once."""
    _one(rig).back.cut()
    await asyncio.sleep(BLIP_S)


async def store_wire_reset(rig: Rig) -> None:
    """Connections end with RST, once."""
    _one(rig).back.reset()
    await asyncio.sleep(BLIP_S)


async def store_wire_refused(rig: Rig) -> None:
    """Nothing gets through for a while."""
    gateway = _one(rig)
    with rig.deaf(gateway):
        gateway.back.is_refusing = True
        gateway.back.cut()
        await asyncio.sleep(DEAF_S)
        gateway.back.heal()


async def store_wire_frozen(rig: Rig) -> None:
    """Bytes stop for a while, and then arrive late and in order."""
    gateway = _one(rig)
    with rig.deaf(gateway):
        gateway.back.freeze()
        await asyncio.sleep(DEAF_S)
        gateway.back.thaw()


async def store_wire_swallows_answers(rig: Rig) -> None:
    """Everything that the store sends is lost: answers, announcements, probes. Connections look alive."""
    gateway = _one(rig)
    with rig.deaf(gateway):
        gateway.back.swallow(to_client=True)
        await asyncio.sleep(DEAF_S)
    # Lost bytes of a stream of answers cannot be restored, so these connections are unusable from here on.
    gateway.back.heal()
    gateway.back.reset()


async def store_wire_swallows_questions(rig: Rig) -> None:
    """Everything that the gateway sends to the store is lost."""
    gateway = _one(rig)
    with rig.deaf(gateway):
        gateway.back.swallow(to_server=True)
        await asyncio.sleep(DEAF_S)
    gateway.back.heal()
    gateway.back.reset()


async def store_wire_half_open(rig: Rig) -> None:
    """The connection is gone at the store's side; the gateway gets no FIN or RST."""
    _one(rig).back.half_open()
    await asyncio.sleep(DEAF_S)


async def store_wire_slow(rig: Rig) -> None:
    """A tenth of a second more delay in each direction."""
    gateway = _one(rig)
    gateway.back.latency_s = 0.1
    await asyncio.sleep(DEAF_S)
    gateway.back.heal()


async def store_wire_narrow(rig: Rig) -> None:
    """Twenty kilobytes a second."""
    gateway = _one(rig)
    gateway.back.bytes_per_s = 20_000
    await asyncio.sleep(DEAF_S)
    gateway.back.heal()


# The wire between the tabs and a gateway.


async def tabs_cut(rig: Rig) -> None:
    """All of a gateway's tabs lose their connection at once."""
    _one(rig).front.cut()
    await asyncio.sleep(BLIP_S)


async def tabs_reset(rig: Rig) -> None:
    """The same with RST."""
    _one(rig).front.reset()
    await asyncio.sleep(BLIP_S)


async def tabs_frozen(rig: Rig) -> None:
    """Bytes stop for longer than a tab waits, and then arrive late."""
    gateway = _one(rig)
    gateway.front.freeze()
    await asyncio.sleep(SILENCE_S + BLIP_S)
    gateway.front.thaw()


async def tabs_half_open(rig: Rig) -> None:
    """The connections are gone at the gateway's side; the tabs get no FIN or RST."""
    _one(rig).front.half_open()
    await asyncio.sleep(SILENCE_S + BLIP_S)


async def tabs_hear_nothing(rig: Rig) -> None:
    """Everything that the gateway sends to its tabs is lost."""
    gateway = _one(rig)
    gateway.front.swallow(to_client=True)
    await asyncio.sleep(SILENCE_S + BLIP_S)
    gateway.front.heal()
    gateway.front.reset()


async def tabs_slow(rig: Rig) -> None:
    """Two tenths of a second more delay, and ten kilobytes a second."""
    gateway = _one(rig)
    gateway.front.latency_s, gateway.front.bytes_per_s = 0.2, 10_000
    await asyncio.sleep(SILENCE_S)
    gateway.front.heal()


async def tabs_flap(rig: Rig) -> None:
    """Every connection to every gateway is cut, five times in a row."""
    for _ in range(5):
        for gateway in rig.gateways:
            gateway.front.reset()
        await asyncio.sleep(BLIP_S)


# Attackers.


async def _attacked(rig: Rig, kind: str) -> None:
    """Attack a gateway, reconnect its tabs meanwhile, and judge what they show before the attack ends.

    The attacker has its own addresses. Requests from one of these may be rejected with 429.
    """
    gateway = _one(rig)
    async with attack(gateway.port, KINDS[kind], ATTACKING, ATTACKERS) as attacker:
        await until(lambda: attacker.opened > ATTACKING, timeout_s=MAX_WAIT_S)
        gateway.front.reset()
        await rig.goes_on()
        await rig.is_fresh()
        await rig.settle(MAX_WAIT_S)


async def attacker_sends_no_end(rig: Rig) -> None:
    """An attacker takes all connections of a gateway with bodies that never end. No tab has to wait."""
    await _attacked(rig, "a body after its 405")


async def attacker_reads_nothing(rig: Rig) -> None:
    """An attacker takes all connections of a gateway and reads no answer. No tab has to wait."""
    await _attacked(rig, "answers unread")


async def attacker_says_no_hello(rig: Rig) -> None:
    """An attacker takes all connections of a gateway for sockets without a hello. No tab has to wait."""
    await _attacked(rig, "no hello")


# Processes.


async def gateway_killed(rig: Rig) -> None:
    """SIGKILL; started again a moment later."""
    gateway = _one(rig)
    gateway.process.kill()
    await asyncio.sleep(BLIP_S)
    gateway.process.start()
    await gateway.ready()


async def all_gateways_killed(rig: Rig) -> None:
    """SIGKILL of all gateways: only the store keeps state."""
    for gateway in rig.gateways:
        gateway.process.kill()
    for gateway in rig.gateways:
        gateway.process.start()
    for gateway in rig.gateways:
        await gateway.ready()


async def gateway_stopped(rig: Rig) -> None:
    """SIGSTOP for longer than a tab waits, then SIGCONT."""
    gateway = _one(rig)
    gateway.process.signal(signal.SIGSTOP)
    await asyncio.sleep(SILENCE_S + BLIP_S)
    gateway.process.signal(signal.SIGCONT)
    await gateway.ready()


async def gateway_drained(rig: Rig) -> None:
    """SIGTERM, as a deploy does; started again."""
    gateway = _one(rig)
    process, life = gateway.process, gateway.process.lives
    process.signal(signal.SIGTERM)
    await until(lambda: process.status is not None or process.lives > life, timeout_s=MAX_WAIT_S)
    process.start()
    await gateway.ready()


async def worker_wire_reset(rig: Rig) -> None:
    """The worker's connections to the store end with RST, once."""
    rig.worker_wire.reset()
    await asyncio.sleep(BLIP_S)


async def worker_wire_frozen(rig: Rig) -> None:
    """Between the worker and the store bytes stop for a while, and then arrive late."""
    rig.worker_wire.freeze()
    await asyncio.sleep(DEAF_S)
    rig.worker_wire.thaw()


async def worker_killed(rig: Rig) -> None:
    """SIGKILL; started again."""
    rig.worker.kill()
    await asyncio.sleep(BLIP_S)
    rig.worker.start()


async def worker_stopped(rig: Rig) -> None:
    """SIGSTOP and SIGCONT."""
    rig.worker.signal(signal.SIGSTOP)
    await asyncio.sleep(1)
    rig.worker.signal(signal.SIGCONT)


# The store.


async def store_killed(rig: Rig) -> None:
    """SIGKILL; started again with what it had written."""
    with rig.deaf(*rig.gateways):
        rig.kill_store()
        await asyncio.sleep(DEAF_S)
        rig.server.start()


async def store_blinks(rig: Rig) -> None:
    """SIGKILL and started again at once, before the gateways must notice."""
    rig.kill_store()
    rig.server.start()


async def everything_killed(rig: Rig) -> None:
    """SIGKILL of store, gateways and worker right after an answer: only the store's disk keeps answered changes."""
    await rig.answer()
    await rig.kill_all()
    rig.server.start()
    await rig.note_kept()
    for process in (*(gateway.process for gateway in rig.gateways), rig.worker):
        process.start()
    for gateway in rig.gateways:
        await gateway.ready()
    # An event claimed by a killed process waits until its lease ends; the next event supersedes it.
    await rig.goes_on()


async def store_stopped(rig: Rig) -> None:
    """SIGSTOP: connected, and silent."""
    with rig.deaf(*rig.gateways):
        rig.server.pause()
        await asyncio.sleep(DEAF_S)
        rig.server.resume()


async def feeds_killed(rig: Rig) -> None:
    """CLIENT KILL TYPE pubsub, three times in a row."""
    for _ in range(3):
        await _asked(lambda: rig.store.redis.client_kill_filter(_type="pubsub"))
        await asyncio.sleep(BLIP_S)


async def clients_killed(rig: Rig) -> None:
    """CLIENT KILL TYPE normal: every connection that sends commands."""
    await _asked(lambda: rig.store.redis.client_kill_filter(_type="normal", skipme=True))
    await asyncio.sleep(BLIP_S)


async def output_buffers_overflow(rig: Rig) -> None:
    """The store disconnects every subscriber with more than a few bytes queued."""
    redis, limit = rig.store.redis, "client-output-buffer-limit"
    before = str((await _asked(lambda: redis.config_get(limit)))[limit])

    async def feeds() -> set[str]:
        return {client["id"] for client in await redis.client_list(_type="pubsub")}

    async def overflow() -> bool:
        await redis.config_set(limit, "pubsub 64 64 0")
        # Small messages would fit into the client's static buffer. Every gateway subscribes to this channel.
        await redis.publish(keys.control_channel, b"x" * FLOOD_BYTES)
        return not had <= await feeds()

    had: set[str] = await until(lambda: _asked(feeds), timeout_s=MAX_WAIT_S)
    await until(lambda: _asked(overflow), timeout_s=MAX_WAIT_S, every_s=BLIP_S)
    await asyncio.sleep(1)
    await _asked(lambda: redis.config_set(limit, before))


async def another_installation(rig: Rig) -> None:
    """Another installation, in its own database of the server, commits to the same topics and revokes everybody."""
    store = connect(f"{rig.server.url}{NEIGHBOUR}").store
    try:
        for round_ in range(NEIGHBOUR_ROUNDS):
            for topic in rig.topics:
                await _asked(partial(store.commit, Change(topic, b'{"n":-1,"round":%d}' % round_)))
                said = revocations.Revocation("topic", topic, time.time())
                await revocation_store.announce(store, said, keep_s=60, limit=100)
            await asyncio.sleep(BLIP_S / NEIGHBOUR_ROUNDS)
    finally:
        await store.aclose()


async def store_flushed(rig: Rig) -> None:
    """FLUSHALL: only the gateways keep state."""
    await rig.still()
    await rig.known()
    with rig.losing():
        await rig.store.redis.flushall()
    rig.publishing.set()


async def older_file_restored(rig: Rig) -> None:
    """The store restarts with an older copy of its file."""
    await rig.still()
    rig.kill_store()
    folder, kept = rig.server.directory / "appendonlydir", rig.server.directory / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    rig.server.start()
    rig.publishing.set()
    await asyncio.sleep(1)
    await rig.still()
    await rig.known()
    with rig.losing():
        rig.server.kill()
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        rig.server.start()
    rig.publishing.set()


async def store_tail_lost(rig: Rig) -> None:
    """SIGKILL, and the last second of the store's file is lost too, as after a power failure."""
    (file,) = (rig.server.directory / "appendonlydir").glob("*.incr.aof")
    size = file.stat().st_size
    await asyncio.sleep(1)
    await rig.still()

    def cut() -> None:
        kept = size + rig.chance.randrange(200)  # in the middle of something
        os.truncate(file, min(kept, file.stat().st_size))  # with a slow disk the file may have less

    rig.kill_store(cut)
    rig.server.start()
    rig.publishing.set()


async def _set_clock(rig: Rig, *offsets_s: int) -> None:
    assert rig.clock is not None, LACKING
    for offset_s in (*offsets_s, 0):
        await rig.clock.jump(rig.store, offset_s)
        await rig.goes_on()
        await rig.is_fresh()
        await rig.settle(MAX_WAIT_S)  # judge while the clock is wrong: later changes would hide a loss


async def store_clock_back(rig: Rig) -> None:
    """The store's clock is set back by an hour, and right again later."""
    await _set_clock(rig, -HOUR_S)


async def store_clock_ahead(rig: Rig) -> None:
    """The store's clock is an hour ahead, and right again later."""
    await _set_clock(rig, HOUR_S)


# The store's replica.


async def replica_killed(rig: Rig) -> None:
    """SIGKILL of the store's replica; started again. No tab has to wait."""
    async with rig.replica() as replica:
        replica.kill()
        await rig.goes_on()
        replica.start()
        await rig.replicates()


async def replica_stopped(rig: Rig) -> None:
    """SIGSTOP of the store's replica, and SIGCONT. No tab has to wait."""
    async with rig.replica() as replica:
        replica.pause()
        await asyncio.sleep(BLIP_S)
        await rig.goes_on()
        replica.resume()


async def store_fails_over(rig: Rig) -> None:
    """A replica takes over, and later the first server again; new connections reach the new primary, old ones stay."""
    async with rig.standby() as standby:
        for old, new in ((rig.server, standby), (standby, rig.server)):
            await rig.hand_over(old, new)
            await rig.goes_on()
            await rig.is_fresh()


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        store_wire_cut,
        store_wire_reset,
        store_wire_refused,
        store_wire_frozen,
        store_wire_swallows_answers,
        store_wire_swallows_questions,
        store_wire_half_open,
        store_wire_slow,
        store_wire_narrow,
        tabs_cut,
        tabs_reset,
        tabs_frozen,
        tabs_half_open,
        tabs_hear_nothing,
        tabs_slow,
        tabs_flap,
        attacker_sends_no_end,
        attacker_reads_nothing,
        attacker_says_no_hello,
        gateway_killed,
        all_gateways_killed,
        gateway_stopped,
        gateway_drained,
        worker_wire_reset,
        worker_wire_frozen,
        worker_killed,
        worker_stopped,
        store_killed,
        store_blinks,
        store_stopped,
        everything_killed,
        feeds_killed,
        clients_killed,
        output_buffers_overflow,
        another_installation,
        store_flushed,
        older_file_restored,
        store_tail_lost,
        store_clock_back,
        store_clock_ahead,
        replica_killed,
        replica_stopped,
        store_fails_over,
    )
}
"""All faults by name, in the order of this file."""

OF_THE_CLOCK = {"store_clock_back", "store_clock_ahead"}
"""Faults that need libfaketime."""

ALONE = {
    "store_flushed",
    "older_file_restored",
    "store_tail_lost",
    "everything_killed",
    "store_fails_over",
    *OF_THE_CLOCK,
}
"""Faults that are never combined: they destroy data that no process may hold, or wait for a working system."""


def possible(engine: str) -> list[str]:
    """Return the names of the faults that this machine can make with an engine's store."""
    return [name for name in FAULTS if library(engine) is not None or name not in OF_THE_CLOCK]

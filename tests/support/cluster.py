"""A real Redis Cluster for tests: primaries and replicas of either engine, joined, moved and broken by plain commands.

All members of a shard are told of it at the start (no cluster tool is needed), and die with the test process.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from sync.store.redis.slots import SLOTS, slot_of
from tests.support.servers import Server, free_port

NODE_TIMEOUT_MS = 1000
FORM_TIMEOUT_S = 15.0
POLL_S = 0.02


class Cluster:
    """`primaries` own the slots in equal parts at first; `replicas[i]` belongs to `primaries[i]` until a failover."""

    def __init__(
        self, primaries: list[Server], replicas: list[Server], buses: dict[int, int], password: str = ""
    ) -> None:
        self._buses = buses
        self.primaries = primaries
        self.replicas = replicas
        self._password = password

    @property
    def servers(self) -> list[Server]:
        """Every member."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """The project's URL, naming the first two primaries."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis+cluster://{login}{self.hosts}"

    @property
    def hosts(self) -> str:
        """The first two primaries as host:port,host:port."""
        return ",".join(f"127.0.0.1:{server.port}" for server in self.primaries[:2])

    def ask(self, server: Server, *command: Any) -> Any:
        """Return one server's answer to a command."""
        with redis.Redis(port=server.port, password=self._password or None, protocol=2, socket_timeout=5) as client:
            return client.execute_command(*command)

    def form(self) -> None:
        """Join the servers and share out the slots; return once every member says that all is well."""
        share = SLOTS // len(self.primaries)
        for index, server in enumerate(self.primaries):
            last = SLOTS - 1 if index == len(self.primaries) - 1 else (index + 1) * share - 1
            self.ask(server, "CLUSTER", "ADDSLOTSRANGE", index * share, last)
            # Epochs of their own from the start: they need not fight it out.
            self.ask(server, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        first, *others = self.servers
        for server in others:
            self.ask(server, "CLUSTER", "MEET", "127.0.0.1", first.port, self._buses[first.port])
        self.until(lambda: all(self._knows(server) == len(self.servers) for server in self.servers))
        for replica, primary in zip(self.replicas, self.primaries, strict=False):
            self.ask(replica, "CLUSTER", "REPLICATE", self.id_of(primary))
        self.settle()

    def settle(self) -> None:
        """Return once every member that runs says that all slots are served, and every replica is in step."""
        running = [server for server in self.servers if server.is_running]
        self.until(lambda: all(self._is_well(server) for server in running))

    def _is_well(self, server: Server) -> bool:
        info, role = self.ask(server, "CLUSTER", "INFO"), self.ask(server, "ROLE")
        agreed = b"cluster_state:ok" in info and b"cluster_slots_ok:%d" % SLOTS in info
        return agreed and (role[0] == b"master" or role[3] == b"connected")

    def heal(self) -> None:
        """Start again whoever does not run, thaw whoever is frozen, and return once all is well."""
        for server in self.servers:
            if server.is_running:
                server.resume()
            else:
                server.start()
        self.settle()

    def _knows(self, server: Server) -> int:
        nodes = self.ask(server, "CLUSTER", "NODES")
        text = nodes.decode() if isinstance(nodes, bytes) else str(nodes)
        return sum(" connected" in line and "handshake" not in line for line in text.splitlines())

    def id_of(self, server: Server) -> str:
        """A member's node id."""
        return str(self.ask(server, "CLUSTER", "MYID").decode())

    def masters(self) -> list[Server]:
        """The servers that are primaries now, whatever they were at the start."""
        return [server for server in self.servers if server.is_running and self.ask(server, "ROLE")[0] == b"master"]

    def owner(self, slot: int) -> Server:
        """The server that answers for a slot now."""
        return next(server for server in self.masters() if self.owns(server, slot))

    def owns(self, server: Server, slot: int) -> bool:
        """Whether the server itself says that the slot is its own."""
        mine = self.id_of(server).encode()
        for first, last, primary, *_ in self.ask(server, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return bool(primary[2] == mine)
        return False

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Open a slot for its way from one primary to another."""
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: Server, target: Server) -> None:
        """Carry over the keys that the slot has by now."""
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            login = ["AUTH", self._password] if self._password else []
            self.ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 2000, *login, "KEYS", *keys)

    def end_move(self, slot: int, target: Server) -> None:
        """Give the slot to its new owner; the new one is told first."""
        new = self.id_of(target)
        for server in sorted(self.masters(), key=lambda server: server is not target):
            self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", new)

    def move(self, slot: int, target: Server) -> None:
        """Move a slot with everything in it."""
        source = self.owner(slot)
        self.begin_move(slot, source, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, target)

    @staticmethod
    def until(predicate: Callable[[], bool], timeout_s: float = FORM_TIMEOUT_S) -> None:
        """Return once true; blocks."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if predicate():
                    return
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"the cluster did not settle: {error}") from error
            assert time.monotonic() < deadline, "the cluster did not settle"
            time.sleep(POLL_S)

    def topic_at(self, index: int, stem: str = "tenant:t") -> str:
        """A topic whose slot was given to `primaries[index]` at the start."""
        share = SLOTS // len(self.primaries)
        for number in range(10_000):
            slot = slot_of(f"{stem}{number}".encode())
            if min(slot // share, len(self.primaries) - 1) == index:
                return f"{stem}{number}"
        raise AssertionError("no such topic")


@contextlib.contextmanager
def start_cluster(
    binary: str, *, primaries: int = 3, replicas: int = 0, password: str = "", aof: bool = False
) -> Iterator[Cluster]:
    """A running Cluster, stopped and removed on exit."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
    options += [
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
        "--repl-ping-replica-period",
        "1",
    ]
    options += ["--cluster-replica-validity-factor", "0"]
    if password:
        options += ["--requirepass", password, "--masterauth", password]
    with tempfile.TemporaryDirectory(prefix="pwc-") as folder, contextlib.ExitStack() as stack:
        servers = []
        buses: dict[int, int] = {}
        for index in range(primaries + replicas):
            directory = Path(folder, str(index))
            directory.mkdir()
            # Not the usual bus port, 10,000 above: there may be none.
            bus = free_port()
            server = Server(binary, directory, tcp=True, aof=aof, args=[*options, "--cluster-port", str(bus)])
            stack.callback(server.kill)
            server.start()
            buses[server.port] = bus
            servers.append(server)
        cluster = Cluster(servers[:primaries], servers[primaries:], buses, password)
        cluster.form()
        yield cluster

"""A primary, its replica, and the Sentinels that watch them."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support import servers
from tests.support.servers import Server, redis_binary

SERVICE = "plans"


QUORUM = 2


DOWN_AFTER_MS = 400
"""From when a test takes the primary away; before that and after they are patient."""


PATIENT_MS = 30_000


FAILOVER_S = 15.0
"""How long Sentinels may take, on a busy machine."""


@dataclass
class Watched:
    """A primary, its replica, and the Sentinels' ports."""

    primary: Server
    replica: Server
    sentinels: list[Server]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:s3cret@{hosts}/{SERVICE}"

    def down_after(self, ms: int) -> None:
        """Have every Sentinel take a primary for gone that says nothing for so long."""
        for sentinel in self.sentinels:
            with redis.Redis(port=sentinel.port, protocol=2) as client:
                client.execute_command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", ms)


class Sentinel(Server):
    """A Sentinel; it keeps what it knows in `conf` of its directory."""

    def _spawn(self) -> None:
        arguments = [str(self.directory / "conf"), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                servers._guarded(self._binary, arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def start(
    stack: contextlib.ExitStack, directory: Path, *args: str, kind: type[Server] = Server, binary: str = ""
) -> Server:
    directory.mkdir(exist_ok=True)
    server = kind(binary or redis_binary(), directory, tcp=True, aof=False, args=args)
    stack.callback(server.kill)
    server.start()
    return server


def is_in_step(replica: Server) -> bool:
    with redis.Redis(port=replica.port, password="s3cret", protocol=2) as client:
        role: Any = client.execute_command("ROLE")
    return bool(role[3] == b"connected")


def is_ready(sentinel: Server) -> bool:
    """Whether it knows the replica, in step, and both other Sentinels."""
    with redis.Redis(port=sentinel.port, protocol=2, decode_responses=True) as client:
        replicas: Any = client.sentinel_slaves(SERVICE)
        known: Any = client.sentinel_sentinels(SERVICE)
    return [replica["master-link-status"] for replica in replicas] == ["ok"] and len(known) == 2


@contextlib.contextmanager
def watched_primary(binary: str) -> Iterator[Watched]:
    """Yield a primary with a replica and three Sentinels that know of each other."""
    with tempfile.TemporaryDirectory(prefix="pws-") as folder, contextlib.ExitStack() as stack:
        login = ("--requirepass", "s3cret", "--masterauth", "s3cret", "--repl-diskless-sync-delay", "0")
        primary = start(stack, Path(folder, "primary"), *login, binary=binary)
        replica = start(
            stack, Path(folder, "replica"), *login, "--replicaof", "127.0.0.1", str(primary.port), binary=binary
        )
        deadline = time.monotonic() + FAILOVER_S
        # The Sentinels ask the primary for its replicas at once, and then not for ten seconds.
        while not is_in_step(replica):
            assert time.monotonic() < deadline, "the replica did not get in step"
            time.sleep(0.02)
        sentinels = []
        for index in range(3):
            directory = Path(folder, f"sentinel{index}")
            directory.mkdir()
            (directory / "conf").write_text(
                f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {QUORUM}\n"
                f"sentinel auth-pass {SERVICE} s3cret\n"
                f"sentinel down-after-milliseconds {SERVICE} {PATIENT_MS}\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            sentinels.append(start(stack, directory, kind=Sentinel, binary=binary))
        found = Watched(primary, replica, sentinels)
        deadline = time.monotonic() + FAILOVER_S
        while not all(is_ready(sentinel) for sentinel in sentinels):
            assert time.monotonic() < deadline, "the Sentinels did not find each other"
            time.sleep(0.02)
        yield found

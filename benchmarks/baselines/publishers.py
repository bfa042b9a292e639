"""How fast two Python libraries publish: their own way from a backend to Redis, without any subscriber.

    python publishers.py socketio|pubsub REDIS_PORT COUNT BYTES

It runs in an environment of its own, has no import of ours, and prints one JSON object. CONCURRENCY publishes are
under way at once: neither library can pipeline, each has a connection for every one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable

TOPICS = 1000
CONCURRENCY = 50


async def timed(publish: Callable[[str, dict[str, object]], Awaitable[object]], count: int, size: int) -> float:
    """Return the seconds that `count` publishes take."""
    states: list[dict[str, object]] = [
        {"n": index, "pad": "x" * (size - len(str(index)) - 15)} for index in range(count)
    ]
    await publish("bench:0", states[0])
    started = time.perf_counter()
    for start in range(0, count, CONCURRENCY):
        batch = range(start, min(count, start + CONCURRENCY))
        await asyncio.gather(*(publish(f"bench:{index % TOPICS}", states[index]) for index in batch))
    return time.perf_counter() - started


async def socketio(port: int, count: int, size: int) -> float:
    """Through python-socketio's write-only Redis manager: what its documentation has external processes use."""
    import socketio

    manager = socketio.AsyncRedisManager(f"redis://127.0.0.1:{port}", write_only=True)
    return await timed(lambda topic, state: manager.emit("state", state, room=topic), count, size)


async def pubsub(port: int, count: int, size: int) -> float:
    """Through fastapi_websocket_pubsub's endpoint with its Redis broadcaster."""
    from fastapi_websocket_pubsub import PubSubEndpoint

    endpoint = PubSubEndpoint(broadcaster=f"redis://127.0.0.1:{port}")
    async with endpoint.broadcaster.get_sharing_context():
        return await timed(lambda topic, state: endpoint.publish([topic], state), count, size)


def main() -> None:
    logging.disable(logging.WARNING)
    kind, port, count, size = sys.argv[1], *map(int, sys.argv[2:5])
    before = time.process_time()
    taken = asyncio.run({"socketio": socketio, "pubsub": pubsub}[kind](port, count, size))
    print(json.dumps({"seconds": taken, "own_cpu_s": time.process_time() - before, "count": count}))


if __name__ == "__main__":
    main()

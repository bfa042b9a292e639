"""The commit script that the client ships, and the commands made for it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from planwire_client import AsyncPublisher, Publish, Published, Rejected, Verdict
from planwire_client.commit_batch import PATCH_MIN_BYTES, Batch
from planwire_client.store import AsyncStoreTransport
from sync.store.keys import DEFAULT_KEYS as keys


def test_keys_and_arguments_are_the_servers() -> None:
    batch = Batch(
        [Publish("sandbox/tenant:a", {"b": 1, "a": 2}, {"p": 1}, "e", 7, 3, {"source": "x"})], "src", 0.0, keys
    )
    (command,) = batch.commands
    topic = "sandbox/tenant:a"
    assert command[3:8] == [keys.snap(topic), keys.log(topic), keys.seen(topic), "PUBLISH", keys.channel(topic)]
    assert command[8:13] == [b'{"a":2,"b":1}', b'{"p":1}', "e", "00000000000000000007", "3"]
    assert isinstance(command[13], bytes)
    cause = {"source": "x", "event_id": "e", "received_at": "1970-01-01T00:00:00.000Z"}
    assert orjson.loads(command[13]) == cause


def test_a_refused_item_does_not_shift_the_others() -> None:
    items = [
        Publish("tenant:a", 1, event_id="1"),
        Publish("nothing", 1, event_id="2"),
        Publish("user:b", 1, event_id="3"),
    ]
    batch = Batch(items, "src", 0.0, keys)
    assert len(batch.commands) == 2
    first, second, third = batch.answers([[b"applied", b"5", b"5"], OSError("away")]).outcomes
    assert first == Published("tenant:a", Verdict.APPLIED, 5, "1")
    assert isinstance(second, Rejected)
    assert second.code == "topic_invalid"
    assert third == Rejected("user:b", "store_unavailable", "away")


def test_larger_states_are_published_with_the_patch_from_what_is_stored() -> None:
    pad = "x" * PATCH_MIN_BYTES
    states: list[tuple[str, object]] = [
        ("tenant:a", {"n": 1, "pad": pad}),
        ("tenant:small", {"n": 1}),
        ("tenant:a", {"n": 2, "pad": pad}),
        ("nothing", {"pad": pad}),
        ("tenant:new", {"pad": pad}),
        ("tenant:list", [pad]),
        ("tenant:other", {"pad": pad}),
    ]
    batch = Batch([Publish(topic, value, event_id="e") for topic, value in states], "src", 0.0, keys)
    assert batch.reads == [
        ["HMGET", keys.snap(topic), "version", "rev", "public", "state"]
        for topic in ("tenant:a", "tenant:new", "tenant:list", "tenant:other")
    ]
    stored = orjson.dumps({"n": 0, "old": 1, "pad": pad})
    # The newest commit of the first was one of facts alone.
    read = [[b"9", b"9", b"7", stored], [None] * 4, [b"8", b"8", None, stored], OSError("away")]
    batch.complete(read)
    by_topic = [command[14] for command in batch.commands]
    assert by_topic == [b'7 {"n":1,"old":null}', b"", b"", b"", b"", b""]


def test_a_patch_that_saves_nothing_is_left_out() -> None:
    pads = ["x" * PATCH_MIN_BYTES, "y" * PATCH_MIN_BYTES]
    batch = Batch([Publish("tenant:a", {"pad": pads[0]}, event_id="e")], "src", 0.0, keys)
    batch.complete([[b"7", b"7", None, orjson.dumps({"bad": pads[1]})]])
    assert batch.commands[0][14] == b""


class Sending:
    """A connection that sends as redis-py does; its third command ends in the very turn in which it is cancelled."""

    def __init__(self) -> None:
        self.commands = 0
        self.task: asyncio.Task[None] | None = None

    async def script_load(self, source: str) -> None: ...

    def pipeline(self, transaction: bool) -> Sending:
        return self

    async def __aenter__(self) -> Sending:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def execute_command(self, *command: object) -> None: ...

    async def execute(self, raise_on_error: bool) -> list[object]:
        self.commands += 1
        sent = asyncio.get_running_loop().create_future()

        def end() -> None:
            sent.set_result(None)
            if self.commands == 3 and self.task is not None:
                self.task.cancel()

        asyncio.get_running_loop().call_soon(end)
        await asyncio.wait_for(sent, 5)
        return [[b"applied", b"5", b"5"]]


async def test_a_cancel_that_comes_as_the_sending_ends_is_not_lost() -> None:
    """`asyncio.wait_for` of CPython 3.11 says nothing of it, and a task that publishes in a loop would live on."""
    sending: Any = Sending()
    publisher = AsyncPublisher(transport=AsyncStoreTransport(sending))

    async def publish_for_ever() -> None:
        while True:
            await publisher.publish("tenant:a", 1)
            assert sending.commands < 9

    sending.task = asyncio.create_task(publish_for_ever())
    with pytest.raises(asyncio.CancelledError):
        await sending.task
    assert sending.commands == 3

"""The layout of a store: which shard owns which hash slot. Pure.

A store without Cluster has one shard, named "", which owns every slot.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SLOTS = 16384
VARIANTS_MAX = 100_000
"""Names tried until one is in a given shard. For a shard with a single slot, 997 of 1,000 searches succeed."""


def slot_of(key: bytes) -> int:
    """Return a key's or channel's hash slot: CRC16 of its hash tag or, without one, of the whole name.

    Source: Redis Cluster specification.
    """
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def variants(name: str) -> Iterator[str]:
    """Yield `name` and variants of it: enough for `Layout.first_in` to find one in any shard."""
    yield name
    for number in range(1, VARIANTS_MAX):
        yield f"{name}.{number}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which shard owns which slot.

    Attributes:
        shards: the names (`host:port`) of the primaries that own slots; ("",) for a single server.
        owners: by slot, the owner's name, or None if the slot has no owner. Empty: the single shard owns all.
    """

    shards: tuple[str, ...]
    owners: tuple[str | None, ...] = ()

    def owner(self, slot: int) -> str | None:
        """Return the shard that owns a slot, or None if it has no owner."""
        return self.owners[slot] if self.owners else self.shards[0]

    def moved(self, slot: int, shard: str) -> Layout:
        """Return the layout in which `shard` owns this slot."""
        if self.owner(slot) == shard:
            return self
        shards = self.shards if shard in self.shards else (*self.shards, shard)
        owners = list(self.owners)
        owners[slot] = shard
        return Layout(shards, tuple(owners))

    def first_in(self, shard: str, names: Iterable[str]) -> str | None:
        """Return the first of `names` (keys or channels) whose slot `shard` owns, or None."""
        return next((name for name in names if self.owner(slot_of(name.encode())) == shard), None)


WHOLE = Layout(("",))
"""The layout of a store without Cluster."""


def layout(owners: Iterable[str | None]) -> Layout:
    """Return the layout in which slot 0 belongs to the first of `owners`, and so on."""
    names = tuple(owners)
    return Layout(tuple(dict.fromkeys(name for name in names if name is not None)), names)


def parse(reply: Sequence[Any], asked: str) -> Layout:
    """Return the layout in a reply to CLUSTER SLOTS: [[first, last, [host, port, ...], replica...], ...].

    `asked`: the host that replied. It replaces a host that the server leaves out, because it does not know its own
    address or does not report it.

    Raises:
        ValueError: the reply has another form.
    """
    owners: list[str | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *_), *_ in reply:
            name = shard_name(_text(host) or asked, int(port))
            owners[int(first) : int(last) + 1] = [name] * (int(last) + 1 - int(first))
    except TypeError as error:
        raise ValueError(f"not an answer to CLUSTER SLOTS: {error}") from error
    if len(owners) != SLOTS:
        raise ValueError("an answer to CLUSTER SLOTS names slots that do not exist")
    return layout(owners)


def shard_name(host: str, port: int) -> str:
    """Return the name of the shard whose primary has this address."""
    return f"{host}:{port}"


def address(shard: str) -> tuple[str, int]:
    """Return host and port of a shard's primary (the inverse of `shard_name`)."""
    host, _, port = shard.rpartition(":")
    return host.strip("[]"), int(port)


def redirection(text: str, asked: str) -> tuple[int, str]:
    """Return the slot and the shard in the text after MOVED or ASK: `SLOT HOST:PORT`; `asked` as in `parse`.

    Raises:
        ValueError: the text has another form.
    """
    slot, _, where = text.partition(" ")
    host, _, port = where.rpartition(":")
    number = int(slot)
    if not 0 <= number < SLOTS:
        raise ValueError(f"there is no slot {number}")
    return number, shard_name(host if host not in ("", "?") else asked, int(port))


def _text(value: object) -> str:
    text = value.decode() if isinstance(value, bytes) else value
    return text if isinstance(text, str) and text != "?" else ""

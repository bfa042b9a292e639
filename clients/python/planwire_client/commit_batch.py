"""A batch of publishes as one round trip to the store: commands of the commit script, outcomes of its replies. Pure."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from typing import cast

import orjson

from planwire_client.change import Outcome, Publish, Published, Rejected, check, encode
from planwire_client.core import commit
from planwire_client.core.commit import Names, Verdict
from planwire_client.delivery import Answers
from planwire_client.errors import PublishRefused

PATCH_MIN_BYTES = 1024
"""Minimum size of a state for a merge patch. Below it, reading the stored state costs more than the patch saves."""

STATE_AT, PATCH_AT = 6 + commit.STATE_AT, 6 + commit.PATCH_AT
"""Positions of the state and the patch in a command."""

Command = list[bytes | str | int]

log = logging.getLogger("planwire_client")


def check_format(reply: object) -> None:
    """Return if this version of the package supports the format of the store's data, or if the format is unreadable.

    Raises:
        PublishRefused: the data requires a newer version.
    """
    needs = int(reply) if isinstance(reply, bytes | str) else 0
    if needs > commit.FORMAT:
        detail = f"the store's data has format {needs}, and this planwire-client writes {commit.FORMAT}"
        raise PublishRefused("store_newer", f"{detail}: install a newer planwire-client")


class Batch:
    """One round trip: the commands of the valid items, and the refusals of the others. Pure.

    `reads`: the commands of an earlier round trip; pass its replies to `complete`.
    """

    def __init__(
        self, items: Sequence[Publish], source: str, now: float, names: Names, *, is_sharded: bool = False
    ) -> None:
        self._items = items
        self._refused: dict[int, Rejected] = {}
        self.commands: list[Command] = []
        self.reads: list[Command] = []
        self._replacing: list[tuple[Command, bytes]] = []
        received_at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
        seen = set()
        for index, item in enumerate(items):
            try:
                command = _command(item, source, received_at.replace("+00:00", "Z"), is_sharded, names)
            except PublishRefused as refusal:
                self._refused[index] = Rejected(item.topic, refusal.code, refusal.detail)
                continue
            self.commands.append(command)
            state = command[STATE_AT]
            assert isinstance(state, bytes), "encode made it"
            # Only the first item of a topic replaces the stored state.
            if len(state) >= PATCH_MIN_BYTES and item.topic not in seen:
                self.reads.append(["HMGET", names.snap(item.topic), *commit.VERSION_FIELDS, "state"])
                self._replacing.append((command, state))
            seen.add(item.topic)

    def complete(self, replies: Sequence[object]) -> None:
        """Add the merge patches, given the replies to `reads`. An item whose stored state was not read gets none."""
        for (command, state), reply in zip(self._replacing, replies, strict=True):
            if isinstance(reply, list) and reply[0] is not None:
                *fields, stored = reply
                command[PATCH_AT] = commit.patch_argument(commit.version_of(*fields), stored or b"null", state)

    def answers(self, replies: Sequence[object]) -> Answers:
        """Return every item's outcome, given the replies to the commands."""
        left = iter(replies)
        return Answers([self._refused.get(at) or _outcome(item, next(left)) for at, item in enumerate(self._items)])


def _command(item: Publish, source: str, received_at: str, is_sharded: bool, names: Names) -> Command:
    check(item)
    cause = {"source": source, "event_id": item.event_id, "received_at": received_at, **(item.cause or {})}
    keys, arguments = commit.keys_and_arguments(
        names,
        item.topic,
        encode("state", item.state),
        b"" if item.private is None else encode("private", item.private),
        is_sharded=is_sharded,
        event_id=item.event_id or "",
        order="" if item.order is None else commit.order_token(item.order),
        if_version=item.if_version,
        cause=orjson.dumps(cause),
    )
    return ["EVALSHA", commit.SHA, len(keys), *keys, *arguments]


def _outcome(item: Publish, reply: object) -> Outcome:
    if isinstance(reply, Exception):
        return Rejected(item.topic, "store_unavailable", str(reply))
    verdict, version, _, *unannounced = cast("tuple[bytes | str, ...]", reply)
    if unannounced:
        log.warning("%s was committed, but the store would not announce it: %s", item.topic, unannounced[0])
    text = verdict.decode() if isinstance(verdict, bytes) else verdict
    if text == Verdict.BILLED:
        return Rejected(item.topic, "topic_is_billed", commit.BILLED)
    return Published(item.topic, Verdict(text), int(version), item.event_id or "")

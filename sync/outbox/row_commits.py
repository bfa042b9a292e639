"""The rows of the outbox as changes, and their commits: one row that fails holds up its own topic only, for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import orjson
import structlog

from planwire_client.core import canonical_json, document
from planwire_client.core.commit import BILLED
from planwire_client.core.topic import UNPUBLISHED_KINDS, Topic, TopicError
from sync.process.supervisor import backoff_s
from sync.store.isolation import ATTEMPTS_MAX, Failure, Isolation, described, failure_of, is_away
from sync.store.models import Change, Committed, StoreError, StoreRejected, Verdict
from sync.store.patches import with_previous
from sync.store.store import Store

QUEUE = "outbox"
"""The table's name in logs and the metric."""

FAILURES_KEPT = 10_000
"""Maximum rows with a count of failures; beyond it, all counts start again."""

_log = structlog.get_logger("sync.outbox")


class Row(NamedTuple):
    """One enqueued publish, with its change, or with the reason why it is rejected."""

    id: int
    topic: str
    change: Change | None
    refusal: str


def read_row(fields: Sequence[Any]) -> Row:
    """Return a row of `ROWS`. It is rejected if its topic or state would be rejected by a gateway's publish."""
    row_id, topic, state, private, event_id, order, given, enqueued_at = fields
    try:
        if (kind := Topic.named(topic).kind) in UNPUBLISHED_KINDS:
            return Row(row_id, topic, None, f"topics of kind {kind} are written by planwire itself")
        occurred_at = enqueued_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        cause = {"source": "outbox", "event_id": event_id, "occurred_at": occurred_at}
        more = {} if given is None else orjson.loads(given)
        if not isinstance(more, dict):
            raise ValueError("cause is not an object")
        private_part = b"" if private is None else _encode("private", private)
        change = Change(
            topic, _encode("state", state), private_part, event_id, order or "", cause=orjson.dumps(cause | more)
        )
    except (TopicError, ValueError, TypeError, RecursionError) as error:
        return Row(row_id, topic, None, _reason(error))
    return Row(row_id, topic, change, "")


def _reason(error: BaseException) -> str:
    """Return an error as PostgreSQL can store it: text without NUL."""
    return described(error, str)[:500].replace("\0", "\ufffd")


def _encode(part: document.Part, text: str) -> bytes:
    return document.encode(part, canonical_json.parse(text.encode()))


class RowCommitter:
    """Commits rows to one store. It counts the failures of each row; a row that goes on failing is rejected."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._isolation = Isolation(store)
        self._failures: dict[int, tuple[int, float]] = {}

    async def commit(self, rows: Sequence[Row]) -> tuple[list[int], list[Row]]:
        """Commit the rows in order, in rounds with one row of each topic.

        After a failed commit the topic's later rows are left for the next call, so that none overtakes it. A row whose
        commit fails while the store works is retried after a growing pause.

        Returns:
            The ids of the rows that the store has, and the rejected rows: billing computes their topic, or ATTEMPTS_MAX
            attempts have failed.

        Raises:
            StoreError: the store is unreachable or failing, and has none of the rows.
        """
        waiting: dict[str, deque[Row]] = {}
        for row in rows:
            waiting.setdefault(row.topic, deque()).append(row)
        done: list[int] = []
        rejected: list[Row] = []
        failure: StoreError | None = None
        while waiting:
            heads = [row for row in (queue.popleft() for queue in waiting.values()) if not self._pauses(row)]
            waiting = {row.topic: waiting[row.topic] for row in heads}
            changes = [row.change for row in heads if row.change is not None]
            try:
                outcomes: Sequence[Committed | Failure | StoreError] = await self._committed(changes)
            except StoreError as error:
                failure = error
                break  # still return the rows of earlier rounds, or a flaky store would make them repeat for ever
            for row, outcome in zip(heads, outcomes, strict=True):
                if isinstance(outcome, Failure):
                    if await self._failed(row, outcome.error):
                        rejected.append(row._replace(refusal=_reason(outcome.error)))
                    else:
                        waiting[row.topic].clear()
                elif isinstance(outcome, StoreError):
                    failure = outcome
                    waiting[row.topic].clear()
                elif outcome.verdict is Verdict.BILLED:
                    rejected.append(row._replace(refusal=BILLED))
                else:
                    self._failures.pop(row.id, None)
                    if outcome.verdict is Verdict.STALE:
                        _log.warning("outbox_row_stale", row=row.id, topic=row.topic, version=outcome.version)
                    done.append(row.id)
            waiting = {topic: queue for topic, queue in waiting.items() if queue}
        if failure is not None and not done and not rejected:
            raise failure
        await self._store.wait_durable()
        return done, rejected

    async def _committed(self, changes: Sequence[Change]) -> list[Committed | Failure | StoreError]:
        """Return the results of commits, one by one if they fail together: then one row's failure is its own.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        together = await failure_of(self._commit_many(changes))
        if not isinstance(together, Failure):
            return [Failure(one) if isinstance(one, StoreRejected) else one for one in together]
        if _is_away(together):
            raise together.error
        found: list[Committed | Failure | StoreError] = []
        for change in changes:
            alone = await failure_of(self._commit_many([change]))
            if _is_away(alone):
                raise alone.error
            found += [alone] if isinstance(alone, Failure) else alone
        return found

    async def _commit_many(self, changes: Sequence[Change]) -> list[Committed | StoreError]:
        return await self._store.commit_many(await with_previous(self._store, changes))

    def _pauses(self, row: Row) -> bool:
        return self._failures.get(row.id, (0, 0.0))[1] > time.monotonic()

    async def _failed(self, row: Row, error: BaseException) -> bool:
        """Count a failed attempt at a row; return whether it was the last."""
        if len(self._failures) >= FAILURES_KEPT:
            self._failures.clear()
        attempts = self._failures.get(row.id, (0, 0.0))[0] + 1
        self._failures[row.id] = attempts, time.monotonic() + backoff_s(attempts)
        _log.error("outbox_row_failed", row=row.id, topic=row.topic, attempts=attempts, exc_info=error)
        await self._isolation.count(QUEUE)
        if attempts < ATTEMPTS_MAX:
            return False
        del self._failures[row.id]
        return True


def _is_away(outcome: object) -> TypeGuard[Failure]:
    """Whether a failure means that the store is unreachable or failing."""
    return isinstance(outcome, Failure) and is_away(outcome.error)

"""A process keeps its revocations in step with the store's: an announcement is a hint, what the store keeps counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gateway.auth import revocation_store
from gateway.auth.revocation_store import RevocationSync
from gateway.auth.revocations import Revocation
from gateway.auth.tokens import Auth
from gateway.auth.verify_keys import KeySet
from gateway.settings import GatewaySettings
from sync.store.models import StoreError
from sync.store.store import Store
from tests.support.wait import until

AT = 1_800_000_000.0
KEPT = Revocation("sub", "u1", AT)
MESSAGE = {"op": "revoke", "kind": "sub", "value": "u1", "at": AT}


class Kept:
    """What the store keeps; `since` has the instant of each read. While `is_away` the store does not answer."""

    def __init__(self) -> None:
        self.revocations: list[Revocation] = []
        self.since: list[float] = []
        self.is_away = False

    async def load(self, _: object, since: float = 0.0) -> list[Revocation]:
        self.since.append(since)
        if self.is_away:
            raise StoreError("away")
        return self.revocations


@contextlib.asynccontextmanager
async def running(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RevocationSync, list[Any]]]:
    """Run a process's part; yields it and what it revoked and heard of other installations."""
    monkeypatch.setattr(revocation_store, "load", kept.load)
    monkeypatch.setattr(revocation_store, "RETRY_S", 0.01)
    done: list[Any] = []
    settings = GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_SWEEP_S": "30"})
    synced = RevocationSync(cast(Store, None), Auth(KeySet()), done.append, done.append, settings)
    task = asyncio.create_task(synced.run())
    try:
        yield synced, done
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_announced_revocation_counts_if_the_store_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    kept.revocations = [KEPT]
    async with running(kept, monkeypatch) as (synced, done):
        synced.heard(MESSAGE)
        await until(lambda: done == [KEPT])


async def test_one_that_the_store_does_not_have_is_another_installations(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Kept(), monkeypatch) as (synced, done):
        synced.heard(MESSAGE)
        await until(lambda: done == ["sub"])


async def test_what_has_the_wrong_form_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    async with running(kept, monkeypatch) as (synced, _):
        synced.heard({"op": "revoke", "kind": "nothing"})
        synced.read_all()
        await until(lambda: kept.since == [0.0 - revocation_store.MARGIN_S])


async def test_while_the_store_is_away_an_announcement_counts_and_all_is_read_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept()
    kept.is_away = True
    async with running(kept, monkeypatch) as (synced, done):
        synced.heard(MESSAGE)
        await until(lambda: done[:1] == [KEPT])
        kept.is_away, kept.revocations = False, [Revocation("topic", "tenant:b", 5.0)]
        await until(lambda: kept.revocations[0] in done)
        assert kept.since[-1] == -revocation_store.MARGIN_S


async def test_more_announcements_than_are_looked_up_one_by_one_have_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_store, "ANNOUNCED_MAX", 0)
    kept = Kept()
    kept.revocations = [KEPT]
    async with running(kept, monkeypatch) as (synced, done):
        synced.heard(MESSAGE)
        await until(lambda: done == [KEPT])
        assert kept.since == [-revocation_store.MARGIN_S]

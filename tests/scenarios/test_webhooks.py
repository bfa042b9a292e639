"""Outgoing webhooks through the real doors: of entitlements and of thresholds; dead letters; the docs' receivers."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support import processes
from tests.support.console import TOKEN, get, http, login
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.system import CATALOG, System, ago, event, run_system
from tests.support.wait import until

DOCS = Path(__file__).parents[2] / "docs" / "webhooks.md"

METERS = """
[meters.projects]
kind = "consumable"

[meters.seats]
kind = "allocated"
"""


@asynccontextmanager
async def told(store_url: str, directory: Path, *receivers: Receiver) -> AsyncIterator[System]:
    """A system whose tenants' changes receivers are told of: `app`, `app1`."""
    setting = ",".join(receiver.setting(f"app{number or ''}") for number, receiver in enumerate(receivers))
    async with run_system(store_url, directory, catalog=CATALOG + METERS, WEBHOOK_ENDPOINTS=setting) as system:
        yield system


async def is_told(receiver: Receiver, count: int, kind: str = "entitlements.changed") -> list[dict[str, Any]]:
    """Return what the receiver was told, once it was told so much."""
    await until(lambda: len(receiver.data(kind)) >= count, 30)
    return receiver.data(kind)


class TestEntitlements:
    """Scenario 119."""

    @pytest.mark.timeout(120)
    async def test_s119_a_purchase_a_publish_and_a_grant_are_told(self, store_url: str, tmp_path: Path) -> None:
        async with receiving() as receiver, told(store_url, tmp_path, receiver) as system, system.working():
            bought = await system.apply(event(ago(60), tenant="acme"))
            (first,) = await is_told(receiver, 1)
            assert (first["tenant"], first["version"]) == ("acme", bought)
            assert first["state"] == await system.state()
            grant = {"kind": "limit", "name": "calls", "value": 7, "reason": "a promise"}
            await system.ask("POST", "/v1/tenants/acme/overrides", grant)
            _, second = await is_told(receiver, 2)
            assert second["previous_version"] == bought
            assert [change["path"] for change in second["changes"]] == ["limits.calls"]
            body = {"topic": "tenant:other", "state": {"plan": {"key": "own"}}, "private": {"cost": "secret"}}
            await system.ask("POST", "/v1/publish", body)
            *_, third = await is_told(receiver, 3)
            assert (third["tenant"], third["state"]) == ("other", {"plan": {"key": "own"}})

    @pytest.mark.timeout(120)
    async def test_s119_a_change_while_no_worker_runs_is_told_by_the_next(self, store_url: str, tmp_path: Path) -> None:
        async with receiving() as receiver, told(store_url, tmp_path, receiver) as system:
            async with system.working("first") as worker:
                await system.apply(event(ago(60), tenant="before"))
                await is_told(receiver, 1)
                worker.process.kill()
            version = await system.apply(event(ago(50), tenant="acme", event_id="evt_2", subscription_id="sub_2"))
            async with system.working("second"):
                found = await is_told(receiver, 2)
            assert (found[-1]["tenant"], found[-1]["version"]) == ("acme", version)


class TestThresholds:
    """Scenario 120."""

    @pytest.mark.timeout(120)
    async def test_s120_a_reached_threshold_is_told_once(self, store_url: str, tmp_path: Path) -> None:
        async with receiving() as receiver, told(store_url, tmp_path, receiver) as system, system.working():
            await until(lambda: system.store.redis.hlen(system.store.keys.webhooks("since")), 30)
            for amount in (1, 1, 1):
                await system.ask("POST", "/v1/tenants/acme/usage/projects/consume", {"amount": amount})
            (found,) = await is_told(receiver, 1, "usage.threshold_reached")
            about = {"tenant": "acme", "env": "live", "meter": "projects"}
            assert found == about | {"threshold": 100, "used": 3, "limit": 3}
            await system.ask("POST", "/v1/tenants/acme/usage/seats/set", {"amount": 1})
            _, seats = await is_told(receiver, 2, "usage.threshold_reached")
            assert (seats["meter"], seats["threshold"]) == ("seats", 100)

    @pytest.mark.timeout(120)
    async def test_s120_a_dead_letter_is_listed_sent_again_and_erased(self, store_url: str, tmp_path: Path) -> None:
        async with receiving() as receiver, told(store_url, tmp_path, receiver) as system, system.working():
            receiver.status = 410
            await system.apply(event(ago(60), tenant="acme"))
            await system.ask("POST", "/v1/publish", {"topic": "tenant:other", "state": {"plan": {"key": "own"}}})

            async def letters() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await system.ask("GET", "/v1/parked-items"))["items"]
                return sorted(found, key=lambda one: str(one["item"]))

            async def are(count: int) -> bool:
                return len(await letters()) == count

            await until(lambda: are(2), 30)
            acme, other = await letters()
            assert (acme["queue"], acme["item"]) == ("webhooks:app", "tenant:acme")
            assert acme["reason"] == "entitlements.changed: status 410"
            await system.ask("DELETE", "/v1/tenants/acme", {"reason": "asked for it"})
            await until(lambda: are(1), 30)
            receiver.status = 200
            again = {"queue": other["queue"], "item": other["item"]}
            assert await system.ask("POST", "/v1/parked-items/retry", again) == {"outcome": "queued"}
            (found,) = await is_told(receiver, 1)
            assert found["tenant"] == "other"
            await until(lambda: are(0), 30)


class TestFailures:
    """Scenario 127."""

    @pytest.mark.timeout(120)
    async def test_s127_a_slow_endpoint_delays_no_other(self, store_url: str, tmp_path: Path) -> None:
        """It has more tenants waiting than are told at once, and never answers."""
        async with (
            receiving() as slow,
            receiving() as receiver,
            told(store_url, tmp_path, slow, receiver) as system,
            system.working(),
        ):
            await until(lambda: system.store.redis.hlen(system.store.keys.webhooks("since")), 30)
            slow.answers.clear()
            names = {f"t{number}" for number in range(12)}
            for name in names:
                await system.ask("POST", "/v1/publish", {"topic": f"tenant:{name}", "state": {"plan": {"key": "own"}}})
            await is_told(receiver, len(names))
            assert {one["tenant"] for one in receiver.data()} == names
            assert slow.messages == []
            assert await system.store.redis.zcard(system.store.keys.webhooks("to:app")) == len(names)
            slow.answers.set()

    @pytest.mark.timeout(120)
    async def test_s127_a_killed_worker_has_the_message_sent_again(self, store_url: str, tmp_path: Path) -> None:
        async with receiving() as receiver, told(store_url, tmp_path, receiver) as system:
            receiver.answers.clear()
            async with system.working("first") as worker:
                version = await system.apply(event(ago(60), tenant="acme"))
                await until(lambda: receiver.attempts == 1, 30)
                worker.process.kill()
            receiver.answers.set()
            queue: Any = system.store.keys.webhooks("to:app")
            assert await system.store.redis.zadd(queue, {"tenant:acme": 0}) == 0  # the lease of the killed one ends
            async with system.working("second"):
                await until(lambda: receiver.attempts == 2, 30)
                await until(lambda: system.store.redis.hlen(system.store.keys.delivered("tenant:acme")), 30)
            assert {one["version"] for one in receiver.data()} == {version}
            assert len(set(receiver.ids)) == 1

    @pytest.mark.timeout(120)
    async def test_s127_the_dead_letters_of_a_removed_endpoint_are_listed_and_dropped(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with receiving() as receiver, told(store_url, tmp_path, receiver) as system, system.working():
            receiver.status = 410
            await system.apply(event(ago(60), tenant="acme"))
            await until(lambda: system.store.redis.hlen(f"{system.store.keys.webhooks('to:app')}:parked"), 30)
        without = run_system(store_url, tmp_path, catalog=CATALOG + METERS, CONSOLE_TOKEN=TOKEN)
        async with without as system:
            (letter,) = (await system.ask("GET", "/v1/parked-items"))["items"]
            assert (letter["queue"], letter["item"]) == ("webhooks:app", "tenant:acme")
            async with http(system.gateway) as console:
                await login(console)
                environments = (await get(console, "parked"))["environments"]
            assert [one["item"] for each in environments for one in each["items"]] == ["tenant:acme"]
            one = {"queue": letter["queue"], "item": letter["item"]}
            refused = await system.http.post("/v1/parked-items/retry", json=one, headers=system.key)
            assert (refused.status_code, refused.json()["code"]) == (409, "not_changed")
            assert "drop the item" in refused.json()["detail"]
            metrics = (await system.http.get("/metrics")).text
            assert 'planwire_queue_parked{env="",queue="webhooks:app"} 1.0' in metrics
            await system.ask("POST", "/v1/parked-items/drop", one | {"reason": "renamed"})
            assert (await system.ask("GET", "/v1/parked-items"))["items"] == []


def receiver_of_the_docs(language: str) -> str:
    """Return the receiver in the docs."""
    (receiver,) = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert isinstance(receiver, str)
    return receiver


@contextmanager
def documented(language: str, directory: Path) -> Iterator[tuple[processes.Running, int]]:
    """Run the docs' receiver; gives its process and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = directory / f"receiver.{'py' if language == 'python' else 'mjs'}"
    path.write_text(receiver_of_the_docs(language))
    program = sys.executable if language == "python" else shutil.which("node")
    assert program is not None
    environ = processes.clean_environ(directory, PORT=str(port), WEBHOOK_SECRET=SECRET)
    with processes.running([program, str(path)], environ) as receiver:
        yield receiver, port


@pytest.mark.timeout(120)
@pytest.mark.parametrize("language", ["python", "js"])
async def test_s119_the_receivers_of_the_docs_are_right(store_url: str, tmp_path: Path, language: str) -> None:
    with documented(language, tmp_path) as (process, port):
        url = f"http://127.0.0.1:{port}/hooks"
        async with httpx2.AsyncClient() as http:

            async def rejects() -> bool:
                try:
                    return (await http.post(url, json={"type": "forged"})).status_code == 403
                except httpx2.ConnectError:
                    return False

            await until(rejects, 30)
        receiver = Receiver()
        receiver.url = url
        async with told(store_url, tmp_path, receiver) as system, system.working():
            await system.apply(event(ago(60), tenant="acme"))
            await until(lambda: "plan of acme is pro" in process.text, 30)
            for _ in range(3):
                await system.ask("POST", "/v1/tenants/new/usage/projects/consume")
            await until(lambda: "new has used 100 % of projects" in process.text, 30)

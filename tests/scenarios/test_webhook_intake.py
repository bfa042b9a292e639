"""What the webhook door takes, refuses, keeps and gives back: signatures, environments, and what it cannot use yet."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import app
from sync.billing.api.webhooks import SelfCheckError
from sync.http.security_headers import SecurityHeadersMiddleware
from tests.support.bodies import SANDBOX_SECRET, SECRET, envelope, signature
from tests.support.servers import Server, start_valkey
from tests.support.system import CATALOG, TOPIC, System, ago, event, run_system
from tests.support.wait import until


async def test_s26_an_event_of_the_other_environment_touches_no_tenant_of_this_one(
    system: System, store_url: str, tmp_path: Path
) -> None:
    """Signed for the sandbox it is the sandbox's; where only live is configured, it is refused."""
    async with system.tab() as live, system.tab(f"sandbox/{TOPIC}") as sandbox:
        body = event(ago(60), items=[("pri_pro_sandbox", 1)])
        assert await system.outcome(body, SANDBOX_SECRET) == "applied"
        await sandbox.until(lambda tab: tab.plan == "pro")
        await live.fence()
        assert (live.version, live.state) == (0, None)
        assert await system.outcome(event(ago(50), items=[("pri_basic", 1)])) == "applied"
        await live.until(lambda tab: tab.plan == "basic")
        await sandbox.fence()
        assert sandbox.plan == "pro"
    (tmp_path / "live").mkdir()
    (tmp_path / "sandbox").mkdir()
    only = {"live": (SECRET, SANDBOX_SECRET), "sandbox": (SANDBOX_SECRET, SECRET)}
    for name, (own, foreign) in only.items():
        async with run_system(store_url, tmp_path / name, PADDLE_SECRETS=f"{name}:{own}") as alone:
            before = await alone.store.redis.dbsize()
            refused = await alone.deliver(event(ago(10), tenant="other"), foreign)
            assert (refused.status_code, refused.json()["code"]) == (403, "signature_invalid")
            assert await alone.store.redis.dbsize() == before


async def test_s27_a_simulated_event_on_live_is_stored_as_simulated_and_not_applied(system: System) -> None:
    async with system.tab() as tab:
        body = event(ago(60), event_id="ntfsimevt_1")
        assert await system.outcome(body) == "ignored"
        await tab.fence()
        assert (tab.version, tab.state) == (0, None)
        stored = await system.store.redis.hgetall("pw:{inbox/live}:event:ntfsimevt_1")
        assert (stored[b"body"], b"simulated" in stored[b"reason"]) == (body, True)
        assert await system.outcome(event(ago(60), event_id="evt_real")) == "applied"
        await tab.until(lambda tab: tab.plan == "pro")


async def test_s28_during_a_rotation_either_secret_is_taken_and_after_it_the_old_one_is_not(
    store_url: str, tmp_path: Path
) -> None:
    old, new, none = "pdl_ntfset_old", "pdl_ntfset_new", "pdl_ntfset_none"
    async with run_system(store_url, tmp_path, PADDLE_SECRETS=f"live:{old},live:{new}") as system:
        for number, secrets in enumerate([(old,), (new,), (old, new), (new, old), (none, new)]):
            assert await system.outcome(event(ago(60 - number)), *secrets) == "applied", secrets
        assert (await system.deliver(event(ago(30)), none)).status_code == 403
    async with run_system(store_url, tmp_path, PADDLE_SECRETS=f"live:{new}") as system:
        assert (await system.deliver(event(ago(20)), old)).json()["code"] == "signature_invalid"
        assert await system.outcome(event(ago(20)), old, new) == "applied"
        assert await system.outcome(event(ago(10)), new) == "applied"


@pytest.mark.parametrize("sign", [1, -1])
async def test_s29_within_the_tolerance_a_clock_may_be_off_and_beyond_it_the_refusal_says_clock(
    store_url: str, tmp_path: Path, sign: int
) -> None:
    async with run_system(store_url, tmp_path, PADDLE_TOLERANCE_S="200") as system, system.tab() as tab:
        assert (await system.deliver(event(ago(60)), skew_s=150 * sign)).json()["outcome"] == "applied"
        await tab.until(lambda tab: tab.plan == "pro")
        late = await system.deliver(event(ago(50), items=[("pri_basic", 1)]), skew_s=250 * sign)
        assert (late.status_code, late.json()["code"]) == (403, "signature_expired")
        assert "clock" in late.json()["detail"]
        assert "forged" not in late.text
        forged = await system.deliver(event(ago(50)), "pdl_ntfset_wrong", skew_s=250 * sign)
        assert forged.json()["code"] == "signature_invalid"
        assert "clock" not in forged.text
        await tab.fence()
        assert tab.plan == "pro"


@pytest.fixture
def lasting() -> Iterator[Server]:
    """A store that loses nothing when it is killed."""
    with start_valkey(aof=True, args=["--appendfsync", "always"]) as server:
        yield server


async def test_s31_what_could_not_be_stored_is_not_answered_200_and_its_retry_arrives(
    lasting: Server, tmp_path: Path
) -> None:
    async with run_system(lasting.url, tmp_path, DURABLE="1") as system, system.tab() as tab:
        await tab.reaches(await system.apply(event(ago(60))))
        lasting.kill()
        body = event(ago(50), items=[("pri_basic", 2)])
        failed = await system.deliver(body)
        assert (failed.status_code, failed.json()["code"]) == (503, "store_unavailable")
        assert int(failed.headers["retry-after"]) > 0
        lasting.restart()

        async def taken() -> bool:
            return (await system.deliver(body)).status_code == 200

        await until(taken, 10)
        await tab.until(lambda tab: tab.plan == "basic")
        assert tab.resets == 0


async def test_s34_what_is_not_understood_is_kept_and_answered_200_and_the_last_good_state_stands(
    system: System,
) -> None:
    async with system.tab() as tab:
        good = await system.apply(event(ago(100)))
        await tab.reaches(good)
        explode = {"action": "explode", "effective_at": ago(-60)}
        assert await system.outcome(event(ago(90), event_id="evt_status", status="dormant")) == "parked"
        assert await system.outcome(event(ago(80), event_id="evt_action", scheduled_change=explode)) == "parked"
        moon = json.dumps(envelope({"id": "x"}, event_type="moon.rose", event_id="evt_moon")).encode()
        assert await system.outcome(moon) == "ignored"
        assert await system.store.redis.hget("pw:{inbox/live}:event:evt_moon", "body") == moon
        await tab.fence()
        assert (tab.version, tab.plan) == (good, "pro")
        told = {entry["event_id"]: entry["reason"] for entry in await system.parked()}
        assert told.keys() == {"evt_status", "evt_action"}
        assert "unknown status 'dormant'" in told["evt_status"]
        assert "unknown scheduled action 'explode'" in told["evt_action"]
        # Later good news is taken as ever.
        await tab.reaches(await system.apply(event(ago(70), items=[("pri_basic", 1)])))


async def test_s35_events_of_an_unknown_tenant_wait_for_the_link_and_then_count_in_their_order(
    system: System,
) -> None:
    async with system.tab() as tab:
        shared = {"id": "sub_1", "customer_id": "ctm_1", "tenant": None}
        assert await system.outcome(event(ago(80), items=[("pri_pro", 9)], event_id="evt_2", **shared)) == "parked"
        assert await system.outcome(event(ago(90), items=[("pri_basic", 4)], event_id="evt_1", **shared)) == "parked"
        await tab.fence()
        assert (tab.version, tab.state) == (0, None)
        assert {entry["event_id"] for entry in await system.parked()} == {"evt_1", "evt_2"}
        bought = {
            "id": "txn_1",
            "subscription_id": "sub_1",
            "customer_id": "ctm_1",
            "custom_data": {"tenant_id": "acme"},
        }
        await system.outcome(json.dumps(envelope(bought, event_type="transaction.completed")).encode())
        await tab.fence()
        assert (tab.plan, tab.state["limits"]["seats"]) == ("pro", 9)
        assert await system.parked() == []
        await tab.reaches(await system.apply(event(ago(70), items=[("pri_pro", 5)], **shared)))


async def test_s36_an_unknown_price_downgrades_nobody_and_applies_once_the_catalog_knows_it(
    system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    """Held, marked and told; a worker takes the event up when the catalog is edited."""
    async with system.tab() as tab, system.working():
        await tab.reaches(await system.apply(event(ago(100), items=[("pri_pro", 2)])))
        known = tab.version
        new = event(ago(90), event_id="evt_new", items=[("pri_new", 7)])
        answer = await system.deliver(new)
        assert (answer.status_code, answer.json()["outcome"]) == (200, "parked")
        await tab.fence()
        assert (tab.version, tab.plan) == (known, "pro")
        (marked,) = await system.parked()
        assert (marked["reason"], marked["topic"]) == ("unknown price pri_new in live", TOPIC)
        out, err = capfd.readouterr()
        assert any("event_parked" in line and "warning" in line for line in (out + err).splitlines())
        began = time.monotonic()
        system.catalog.write_text(CATALOG.replace('["pri_basic"]', '["pri_basic", "pri_new"]'))
        await tab.until(lambda tab: tab.plan == "basic", timeout_s=15)
        assert time.monotonic() - began < 10
        assert tab.state["limits"]["seats"] == 7

        async def is_done() -> bool:
            return await system.parked() == []

        await until(is_done)


async def test_s37_an_edit_of_the_catalogs_limits_reaches_the_tenants_it_affects_and_no_other(
    system: System,
) -> None:
    async with system.working(), system.tab("tenant:a") as a, system.tab("tenant:b") as b, system.tab("tenant:c") as c:
        for tab, price in ((a, "pri_pro"), (b, "pri_pro"), (c, "pri_basic")):
            tenant = tab.topic.partition(":")[2]
            await tab.reaches(await system.apply(event(ago(60), tenant=tenant, items=[(price, 1)])))
        before = c.version
        system.catalog.write_text(CATALOG.replace('projects = "unlimited"', "projects = 500"))
        for tab in (a, b):
            await tab.until(lambda tab: tab.state["limits"]["projects"] == 500, timeout_s=15)
            assert tab.cause == {"source": "catalog"}
        await c.fence()
        assert c.version == before


async def test_a_signature_of_other_bytes_is_not_taken(system: System) -> None:
    """The bytes as they came are what is signed: the same JSON in another spelling is not it."""
    body = event(ago(60))
    respelt = json.dumps(json.loads(body), separators=(",", ":")).encode()
    assert respelt != body
    header = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
    answer = await system.http.post("/webhooks/paddle", content=respelt, headers=header)
    assert (answer.status_code, answer.json()["code"]) == (403, "signature_invalid")


class Respelling(SecurityHeadersMiddleware):
    """A front that reads JSON bodies and writes them anew, as helpful middleware does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def respelt() -> Message:
            message = await receive()
            if message["type"] == "http.request" and message["body"]:
                message["body"] = json.dumps(json.loads(message["body"])).encode()
            return message

        await super().__call__(scope, respelt if scope["type"] == "http" else receive, send)


async def begun(app: ASGIApp) -> str:
    """Start an app and stop it; return what it said of its start."""
    steps: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said: list[Message] = []

    async def receive() -> Message:
        return steps.pop(0)

    async def send(message: Message) -> None:
        said.append(message)

    with contextlib.suppress(SelfCheckError):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return f"{said[0]['type']} {said[0].get('message', '')}"


async def test_s30_a_body_that_middleware_respells_is_found_at_the_start(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await begun(app.create_app(system.environ))).startswith("lifespan.startup.complete")
    monkeypatch.setattr(app, "SecurityHeadersMiddleware", Respelling)
    said = await begun(app.create_app(system.environ))
    assert said.startswith("lifespan.startup.failed")
    assert "a webhook's bytes do not reach /webhooks/paddle unchanged" in said


async def test_s30_nobody_else_passes_for_the_self_check(system: System) -> None:
    body = event(ago(60))
    header = {"Planwire-Self-Check": f"{'0' * 32} {hashlib.sha256(body).hexdigest()}"}
    answer = await system.http.post("/webhooks/paddle", content=body, headers=header)
    assert (answer.status_code, answer.json()["code"]) == (400, "signature_malformed")

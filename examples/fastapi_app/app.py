"""A FastAPI application whose plans live in its own PostgreSQL and are shown live through Planwire.

It publishes them under a kind of its own, `workspace`. The plans that a billing provider sells are never published:
Planwire computes `tenant:ID` from the provider's events.

    DATABASE_URL=postgresql+psycopg://... GATEWAY_URL=http://127.0.0.1:8000 PLANWIRE_JWT_SECRET=... \
        PLANWIRE_PUBLISH_KEY=... uvicorn --factory examples.fastapi_app.app:from_environ

`GET /export` is gated by the replica. `GET /report` is counted, against the limit of the plan that billing computes.
`POST /upgrade` changes the plan and enqueues the push in one transaction. `POST /planwire-token` returns the browser's
token. `GET /` shows the current plan before the first frame arrives.
The example has no login and no protection against forged requests: the cookie `tenant` replaces a session.
"""

from __future__ import annotations

import html
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any

import jwt
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from planwire_client import (
    VERSION_HEADER,
    AsyncUsage,
    Counted,
    FeatureDenied,
    NotCurrent,
    Replica,
    Snapshot,
    outbox,
    read_version,
    topic,
    write_version,
)
from planwire_client.usage.fastapi import install, metered

TOKEN_S = 600
PUSH_MAX_WAIT_S = 2.0
"""Maximum wait of an upgrade for its own push. The browser gets the push in any case."""

PLANS: dict[str, dict[str, object]] = {
    "free": {"plan": {"key": "free", "name": "Free", "rank": 0}, "features": {}},
    "pro": {"plan": {"key": "pro", "name": "Pro", "rank": 20}, "features": {"export": True}},
}

PAGE = Template((Path(__file__).parent / "page.html").read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses, and the gateway's secrets: `jwt_secret` signs the tokens of browsers and of the replica, `publish_key`
    has the scope `usage`."""

    database_url: str
    gateway_url: str
    jwt_secret: str
    publish_key: str


def mint(secret: str, sub: str, topics: list[str]) -> str:
    """Return a token that lets `sub` read `topics` for ten minutes."""
    return jwt.encode({"sub": sub, "topics": topics, "exp": int(time.time()) + TOKEN_S}, secret, algorithm="HS256")


def tenant_of(tenant: Annotated[str, Cookie(pattern=r"^[A-Za-z0-9._~@-]{1,128}$")]) -> str:
    """Return the request's tenant. A real application takes it from its session."""
    return tenant


Tenant = Annotated[str, Depends(tenant_of)]


def metered_topic(tenant: Tenant) -> str:
    """Return the topic of the request's tenant whose limits billing computes."""
    return topic("tenant", tenant)


def usage_of(request: Request) -> AsyncUsage:
    """Return the application's client of usage."""
    usage: AsyncUsage = request.app.state.usage
    return usage


def feature(name: str) -> Callable[[Request, str], Coroutine[Any, Any, Snapshot]]:
    """Return a dependency that admits only tenants with the feature, by a state at least as new as their browser's."""

    async def gate(request: Request, tenant: Tenant) -> Snapshot:
        replica: Replica = request.app.state.replica
        seen = read_version(request.headers, time.time())
        try:
            snapshot = await replica.ensure(topic("workspace", tenant), name, min_version=seen)
        except FeatureDenied:
            raise HTTPException(402, f"{name} is not in your plan") from None
        except NotCurrent:
            raise HTTPException(503, "your plan cannot be looked up", {"Retry-After": "1"}) from None
        assert snapshot is not None, "only FAIL_OPEN lets pass with nothing held"
        return snapshot

    return gate


def create_app(settings: Settings) -> FastAPI:
    """Return the application."""
    engine = create_async_engine(settings.database_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            # A real application creates both tables in a migration.
            await connection.execute(text("CREATE TABLE IF NOT EXISTS tenants (id text PRIMARY KEY, plan text)"))
            await connection.exec_driver_sql(outbox.DDL)
        async with (
            Replica(settings.gateway_url, lambda: mint(settings.jwt_secret, "fastapi-app", ["*"])) as replica,
            AsyncUsage(settings.gateway_url, settings.publish_key) as usage,
        ):
            app.state.replica, app.state.usage = replica, usage
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    install(app)

    @app.get("/export")
    async def export(snapshot: Annotated[Snapshot, Depends(feature("export"))], response: Response) -> dict[str, str]:
        write_version(response.headers, snapshot.version)
        return {"export": "everything you have"}

    @app.get("/report")
    async def report(
        counted: Annotated[Counted, Depends(metered(usage_of, "reports", metered_topic))],
    ) -> dict[str, object]:
        return {"report": "everything that you did", "used": counted.used}

    @app.post("/upgrade")
    async def upgrade(tenant: Tenant, request: Request, response: Response) -> dict[str, object]:
        plan, replica = topic("workspace", tenant), request.app.state.replica
        before = await replica.wait_for(plan)
        async with AsyncSession(engine) as session, session.begin():
            query = "INSERT INTO tenants VALUES (:id, 'pro') ON CONFLICT (id) DO UPDATE SET plan = 'pro'"
            await session.execute(text(query), {"id": tenant})
            # Pushed if, and only if, the transaction commits.
            await outbox.enqueue_sqlalchemy_async(session, plan, PLANS["pro"])
        try:
            snapshot = await replica.wait_for(plan, before.version + 1, timeout_s=PUSH_MAX_WAIT_S)
        except NotCurrent:
            response.status_code = 202  # committed, the push comes later
            return {"plan": "pro"}
        write_version(response.headers, snapshot.version)
        return {"plan": "pro", "version": snapshot.version}

    @app.post("/planwire-token", response_class=PlainTextResponse)
    async def browser_token(tenant: Tenant) -> str:
        return mint(settings.jwt_secret, f"user-of-{tenant}", [topic("workspace", tenant)])

    @app.get("/", response_class=HTMLResponse)
    async def first_paint(tenant: Tenant, request: Request) -> HTMLResponse:
        name = topic("workspace", tenant)
        snapshot = await request.app.state.replica.wait_for(name)
        initial = {"topic": name, "version": snapshot.version, "state": snapshot.state}
        plan = snapshot.state["plan"]["name"] if isinstance(snapshot.state, dict) else "Free"
        # "<" is the only character that could end the script element.
        document = json.dumps(initial).replace("<", "\\u003c")
        page = PAGE.substitute(plan=html.escape(plan), initial=document, gateway=settings.gateway_url)
        return HTMLResponse(page, headers={VERSION_HEADER: str(snapshot.version), "Cache-Control": "no-store"})

    return app


def from_environ(environ: Mapping[str, str] = os.environ) -> FastAPI:
    """Return the application that the environment describes."""
    names = ("DATABASE_URL", "GATEWAY_URL", "PLANWIRE_JWT_SECRET", "PLANWIRE_PUBLISH_KEY")
    return create_app(Settings(*(environ[name] for name in names)))

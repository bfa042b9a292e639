"""Actions on topics and tokens: commit a version of the log again, revoke."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.api.revoke import revocation_of
from gateway.auth import revocation_store
from gateway.console.auth import Principal
from gateway.console.routes.query import Action, parsed
from gateway.console.routes.topics import kept_version
from gateway.node import Node
from planwire_client.core import canonical_json, document
from planwire_client.core.commit import PUBLISHER
from sync.http.problem import Problem
from sync.store.models import Change, Verdict


class TopicActions:
    """The actions by name."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.by_name: dict[str, Action] = {"replay": self._replay, "revoke": self._revoke}

    async def _replay(self, body: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        if body.keys() != {"topic", "version"} or type(body["version"]) is not int:
            raise Problem("request_invalid", "send topic and version")
        topic, store = str(parsed(body["topic"])), self._node.store
        entry = await kept_version(store, topic, body["version"])
        try:
            # An older build may have stored numbers that are invalid today.
            document.check("state", canonical_json.decode(entry.state))
        except document.DocumentError as error:
            raise Problem(error.code, error.detail) from None
        current = await store.read(topic)
        cause = {
            "source": "console",
            "event_type": "console.replay",
            "replay_of": str(entry.version),
            "by": f"console:{principal.session}",
        }
        # The log keeps the public part only, so the private part stays as it is.
        change = Change(
            topic,
            entry.state,
            current.private,
            if_rev=current.rev,
            cause=orjson.dumps(cause),
            previous=current,
            owner=current.owner or PUBLISHER,
        )
        committed = await store.commit(change)
        await store.wait_durable()
        if committed.verdict is Verdict.CONFLICT:
            raise Problem("conflict", "the topic has changed meanwhile: look again")
        return {"verdict": committed.verdict.value, "version": committed.version}

    async def _revoke(self, body: Mapping[str, Any], _: Principal) -> dict[str, Any]:
        settings, node = self._node.settings, self._node
        now = time.time()
        revocation = node.auth.covering(revocation_of(body, now), now)
        limit = settings.revocations_max
        await revocation_store.announce(node.store, revocation, keep_s=settings.revocation_keep_s, limit=limit)
        await node.store.wait_durable()
        node.revoke(revocation)
        return {"revoked": dict(body), "at": revocation.at}

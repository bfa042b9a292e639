from __future__ import annotations

import json
from collections.abc import Callable

import httpx2
import pytest

from sync.simulator import client
from sync.simulator.client import ActionResult, Delivered, SimulatorError, run_action

URL = "http://127.0.0.1:8100"
ANSWER = {
    "subscription_id": "sub_1",
    "status": "active",
    "event_ids": ["evt_1"],
    "events": [{"event_id": "evt_1", "event_type": "subscription.updated"}],
}


def answering(monkeypatch: pytest.MonkeyPatch, respond: Callable[[httpx2.Request], httpx2.Response]) -> None:
    def post(url: str, *, content: bytes, headers: dict[str, str], timeout: float, trust_env: bool) -> httpx2.Response:
        with httpx2.Client(transport=httpx2.MockTransport(respond)) as http:
            return http.post(url, content=content, headers=headers)

    monkeypatch.setattr(client.httpx2, "post", post)  # type: ignore[attr-defined]


def test_asks_for_the_action_and_reads_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json=ANSWER)

    answering(monkeypatch, respond)

    result = run_action(URL + "/", "upgrade", "acme", plan="pro")

    assert str(asked[0].url) == f"{URL}/simulate/upgrade"
    assert json.loads(asked[0].content) == {"tenant": "acme", "plan": "pro"}
    assert result == ActionResult("sub_1", "active", (("evt_1", "subscription.updated"),), ())
    assert result.event_ids == ("evt_1",)


def test_reads_the_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = {"event_id": "evt_1", "state": "delivered", "status": 200, "outcome": "applied", "error": None, "ms": 3}
    answering(monkeypatch, lambda _: httpx2.Response(200, json=ANSWER | {"deliveries": [attempt]}))

    assert run_action(URL, "renew", "acme", wait=True).deliveries == (
        Delivered("evt_1", "subscription.updated", "delivered", 200, "applied", None, 3.0),
    )


@pytest.mark.parametrize(
    ("response", "code", "text"),
    [
        (
            httpx2.Response(409, json={"code": "no_subscription", "detail": "start\none"}),
            "no_subscription",
            "start one",
        ),
        (httpx2.Response(500, json=[]), "bad_answer", "answered 500"),
        (httpx2.Response(502, text="<html>"), "bad_answer", "no JSON"),
        (httpx2.Response(200, json={"status": "ok"}), "bad_answer", "something else"),
        (httpx2.Response(200, json=ANSWER | {"events": 7}), "bad_answer", "something else"),
        (httpx2.Response(200, json=ANSWER | {"deliveries": [7]}), "bad_answer", "something else"),
        (httpx2.Response(200, json=ANSWER | {"subscription_id": 7}), "bad_answer", "something else"),
    ],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, response: httpx2.Response, code: str, text: str
) -> None:
    answering(monkeypatch, lambda _: response)

    with pytest.raises(SimulatorError, match=text) as error:
        run_action(URL, "renew", "acme")
    assert error.value.code == code
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[", "no url"])
def test_no_simulator_is_one_line(url: str) -> None:
    with pytest.raises(SimulatorError, match="is it running") as error:
        run_action(url, "renew", "acme")
    assert error.value.code == "unreachable"

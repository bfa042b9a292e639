"""Requests out of items and outcomes out of answers, whoever answers."""

from __future__ import annotations

import json

import httpx2
import pytest

from planwire_client import Publish, Published, PublishRefused, Rejected, Verdict
from planwire_client.core.headers import retry_after_s
from planwire_client.delivery import Answers, Retryable
from planwire_client.http import AsyncHttpTransport, answer_of, request_of

ONE = [Publish("tenant:a", {"n": 1}, event_id="e1", if_version=0)]
TWO = [*ONE, Publish("tenant:b", {"n": 2}, event_id="e2")]


def answer(items: list[Publish], status: int, body: object, **headers: str) -> Answers | Retryable:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer_of(items, httpx2.Response(status, headers=headers, content=content), now=0.0)


def test_one_item_goes_to_publish_and_more_go_to_batch() -> None:
    one, two = request_of(ONE, 99.0), request_of(TWO, 0.5)
    assert (one["url"], one["timeout"]) == ("/v1/publish", 10.0)
    assert json.loads(one["content"]) == {
        "topic": "tenant:a", "state": {"n": 1}, "event_id": "e1", "if_version": 0
    }  # fmt: skip
    assert (two["url"], two["timeout"]) == ("/v1/publish/batch", 0.5)
    assert [item["topic"] for item in json.loads(two["content"])["items"]] == ["tenant:a", "tenant:b"]


def test_a_conflict_is_a_verdict() -> None:
    body = {"code": "conflict", "detail": "x", "topic": "tenant:a", "verdict": "conflict", "version": 5}
    assert answer(ONE, 409, body) == Answers([Published("tenant:a", Verdict.CONFLICT, 5, "e1")])


def test_a_batch_has_an_outcome_for_each() -> None:
    results = [
        {"topic": "tenant:a", "verdict": "stale", "version": 5},
        {"verdict": "error", "code": "topic_reserved", "detail": "no"},
    ]
    assert answer(TWO, 200, {"results": results}) == Answers(
        [Published("tenant:a", Verdict.STALE, 5, "e1"), Rejected("tenant:b", "topic_reserved", "no")]
    )


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_these_are_tried_again(status: int) -> None:
    said = answer(ONE, status, {"code": "c", "detail": "d"}, **{"retry-after": "3"})
    assert said == Retryable(f"{status} c: d", status == 429, 3.0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_these_are_not(status: int) -> None:
    with pytest.raises(PublishRefused) as raised:
        answer(ONE, status, {"code": "c", "detail": "d"})
    assert (raised.value.code, raised.value.detail, raised.value.status) == ("c", "d", status)


@pytest.mark.parametrize("body", [b"<html>", {}, {"verdict": "maybe", "version": 1}, {"results": []}, b"[]"])
@pytest.mark.parametrize("items", [ONE, TWO])
def test_an_answer_that_is_no_gateways_is_no_verdict(items: list[Publish], body: object) -> None:
    with pytest.raises(PublishRefused, match="not_a_gateway"):
        answer(items, 200, body)


def test_a_page_of_a_proxy_that_is_down_is_tried_again() -> None:
    assert answer(ONE, 502, b"<html>") == Retryable("502 from the gateway", False, None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5),
        (" 0 ", 0),
        ("99999999999", 86_400),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("-3", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, now=100.0) == seconds


@pytest.mark.parametrize("error", [httpx2.ReadTimeout("slow"), AttributeError("no getpeername")])
async def test_no_answer_can_be_tried_again(error: Exception) -> None:
    """AttributeError is what httpx2 2.16 raises for a connection that is dropped as soon as it is made."""

    def respond(_: httpx2.Request) -> httpx2.Response:
        raise error

    transport = AsyncHttpTransport("http://gateway.example", "key")
    transport._client = httpx2.AsyncClient(transport=httpx2.MockTransport(respond), base_url="http://gateway.example")
    assert await transport.send(ONE, 1.0) == Retryable(f"{type(error).__name__}: {error}")

from __future__ import annotations

from paddle_billing.Notifications.PaddleSignature import PaddleSignature
from paddle_billing.Notifications.Secret import Secret

from sync.simulator.paddle.webhooks import sign

BODY = '{"data": "zürich"}'


def test_the_sdk_accepts_the_signature() -> None:
    header = sign(BODY.encode(), ["s1"], 1_712_917_128)

    assert header.startswith("ts=1712917128;h1=")
    assert PaddleSignature().verify(header, BODY, Secret("s1"))
    assert not PaddleSignature().verify(header, BODY, Secret("s2"))
    assert not PaddleSignature().verify(header, BODY + " ", Secret("s1"))


def test_each_secret_signs() -> None:
    header = sign(BODY.encode(), ["old", "new"], 1)

    assert PaddleSignature().verify(header, BODY, Secret("old"))
    assert PaddleSignature().verify(header, BODY, Secret("new"))

"""Signs webhooks as Paddle does. Pure. Verifying is the receiver's business and is done elsewhere.

Source: developer.paddle.com/webhooks/signature-verification; several `h1` as while a secret is rotated.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

HEADER = "Paddle-Signature"


def sign(body: bytes, secrets: Iterable[str], at_s: int) -> str:
    """The value of the `Paddle-Signature` header: `ts=<unix seconds>;h1=<hex>`, one `h1` for each secret."""
    signed = str(at_s).encode() + b":" + body
    hashes = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets)
    return ";".join([f"ts={at_s}", *(f"h1={value}" for value in hashes)])

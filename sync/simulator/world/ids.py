"""Ids in Paddle's form: a prefix and a lower-case ULID with the entity's time. Pure, except for a counter.

Source of the form: Paddle's event bodies. The time in `evt_...` is `occurred_at`, in milliseconds.
"""

from __future__ import annotations

import hashlib
from random import Random

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case, as a ULID uses it."""

TIME_CHARS = 10
RANDOM_CHARS = 16
_RANDOM_BITS = 5 * RANDOM_CHARS


def encode(value: int, chars: int) -> str:
    """Return the number in base 32, `chars` characters long, most significant first."""
    return "".join(ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(chars)))


def derived(prefix: str, text: str) -> str:
    """Return the id derived from `text`, always the same; for entities that are not stored, such as a customer."""
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    # The first character of a ULID has only three bits.
    return f"{prefix}_0{encode(digest, TIME_CHARS + RANDOM_CHARS - 1)}"


class Mint:
    """Makes ids from a random source.

    The ids of one mint strictly rise, even within a millisecond and when the clock steps back. So an id can be a page
    cursor.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._last_ms = 0
        self._last_random = 0

    def __call__(self, prefix: str, at_us: int) -> str:
        """Return a new id, such as `sub_01hv8x29kz0t586xy6zn1a62ny`. `at_us`: creation, in microseconds since 1970."""
        at_ms = at_us // 1000
        if at_ms > self._last_ms:
            # The top bit is clear, so that counting up does not overflow into the time.
            self._last_ms, self._last_random = at_ms, self._random.getrandbits(_RANDOM_BITS - 1)
        else:
            self._last_random += 1
        return f"{prefix}_{encode(self._last_ms, TIME_CHARS)}{encode(self._last_random, RANDOM_CHARS)}"

from __future__ import annotations

import re
from random import Random

from sync.simulator.world.ids import Mint, derived

FORM = re.compile(r"evt_[0-7][0-9a-hjkmnp-tv-z]{25}")


def test_an_id_is_a_prefix_and_a_lower_case_ulid() -> None:
    assert FORM.fullmatch(Mint(Random(1))("evt", 1_712_917_128_831_000))


def test_an_id_carries_its_millisecond() -> None:
    # 2024-04-12T10:18:48.831Z is the created_at of the official sub_01hv8x29kz0t586xy6zn1a62ny, made within 6 ms.
    assert Mint(Random(1))("sub", 1_712_917_128_831_000).startswith("sub_01hv8x29kz")


def test_ids_of_one_millisecond_rise() -> None:
    mint = Mint(Random(1))

    made = [mint("evt", 1_712_917_128_831_000 + n) for n in range(999)]

    assert made == sorted(set(made))


def test_ids_rise_when_the_clock_steps_back() -> None:
    mint = Mint(Random(1))

    assert mint("evt", 2_000_000_000) < mint("evt", 1_000_000_000)


def test_the_same_seed_makes_the_same_ids() -> None:
    assert [Mint(Random(7))("evt", 1_000)] == [Mint(Random(7))("evt", 1_000)]
    assert Mint(Random(7))("evt", 1_000) != Mint(Random(8))("evt", 1_000)


def test_a_derived_id_belongs_to_its_text() -> None:
    assert re.fullmatch(r"ctm_0[0-9a-hjkmnp-tv-z]{25}", derived("ctm", "live/acme"))
    assert derived("ctm", "live/acme") == derived("ctm", "live/acme") != derived("ctm", "sandbox/acme")

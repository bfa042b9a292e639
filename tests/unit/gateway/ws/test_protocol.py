"""The gateway's frames are JSON of the documented form, as clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planwire_client.core.frames import OUTBOUND, read_outbound, write
from tests.support.sent_frames import EXAMPLES


@pytest.mark.parametrize(
    ("frame", "value"),
    EXAMPLES,
)
def test_every_frame_out_is_json_of_its_documented_form(frame: bytes, value: dict[str, Any]) -> None:
    assert json.loads(frame) == value
    assert b"\n" not in frame
    read = read_outbound(frame)
    assert type(read) is OUTBOUND[value["type"]]
    assert write(read) == frame

from __future__ import annotations

import stat
from pathlib import Path

import orjson
import pytest

from sync.simulator import persistence
from sync.simulator.persistence import Owed, UnusableFileError, load, save
from sync.simulator.world.model import World
from tests.support.world import Play, Shop


def busy_world() -> World:
    play = Shop()
    play.do("upgrade")
    play.do("addon", addon="audit")
    play.do("pause", resume_at="2027-03-01T00:00:00Z")
    play.do("trial", "other", env="sandbox", linked=False)
    play.do("decline", "other", env="sandbox")
    play.do("upgrade", "third")
    play.do("cancel", "third", when="now")
    play.do("buy", "fourth", plan="lifetime")
    play.do("buy", "fourth", addon="course")
    play.do("refund", "fourth", amount=100)
    play.do("chargeback", "fourth", plan="lifetime")
    return play.world


def test_the_world_comes_back_as_it_was(tmp_path: Path) -> None:
    world = busy_world()
    owed = (Owed(world.events[0].id, "ntf_1", 3),)

    save(tmp_path / "new" / "simulator.json", world, owed)

    assert load(tmp_path / "new" / "simulator.json") == (world, owed)


def test_an_older_file_has_no_purchases(tmp_path: Path) -> None:
    path, play = tmp_path / "simulator.json", Play()
    play.do("upgrade")
    save(path, play.world, ())
    written = orjson.loads(path.read_bytes())
    del written["purchases"], written["adjustments"]
    path.write_bytes(orjson.dumps(written).replace(b',"recurring":true', b""))

    assert b"recurring" not in path.read_bytes()
    assert load(path) == (play.world, ())


def test_without_a_file_the_world_is_empty(tmp_path: Path) -> None:
    assert load(tmp_path / "simulator.json") == (World(), ())


def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "simulator.json"
    save(path, World(), ())

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "simulator.json"
    world = busy_world()
    save(path, world, ())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(persistence.os, "fsync", full)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space"):
        save(path, World(), ())

    assert load(path) == (world, ())


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format": 1}', b"\xff"])
def test_another_file_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "simulator.json"
    path.write_bytes(content)

    with pytest.raises(UnusableFileError, match="not a simulator file"):
        load(path)
    assert path.read_bytes() == content


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "simulator.json"
    save(path, World(), ())
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))

    with pytest.raises(UnusableFileError, match="its format is 2"):
        load(path)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match="directory"):
        load(tmp_path)

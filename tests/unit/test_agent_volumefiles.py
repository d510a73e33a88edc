"""Small files of pools at an agent: whole or not at all, and nothing but files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterhost.agent.errors import Unavailable
from clusterhost.agent.volumefiles import PRIVATE, put_part, read_part


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_file_has_its_name_when_its_last_bytes_have_come(tmp_path):
    target = tmp_path / "a.iso"
    put_part(str(target), 0, b"one ", last=False)
    assert names(tmp_path) == [f"{PRIVATE}/a.iso.part"]
    put_part(str(target), 4, b"two", last=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.iso"]
    assert target.read_bytes() == b"one two"
    assert target.stat().st_mode & 0o777 == 0o600


def test_an_older_one_stays_until_then_and_what_was_cut_does_no_harm(tmp_path):
    target = tmp_path / "a.iso"
    target.write_bytes(b"older, and longer")
    put_part(str(target), 0, b"cut off here", last=False)
    assert target.read_bytes() == b"older, and longer"
    put_part(str(target), 0, b"new", last=True)
    assert target.read_bytes() == b"new"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=50), st.integers(1, 7))
def test_what_is_written_in_pieces_is_read_in_pieces(tmp_path, data, size):
    target = str(tmp_path / "a")
    pieces = range(0, max(1, len(data)), size)
    for at in pieces:
        put_part(target, at, data[at : at + size], last=at == pieces[-1])
    assert b"".join(read_part(target, at, size) for at in pieces) == data
    assert read_part(target, len(data), size) == b""


@pytest.mark.parametrize("path", ["a.iso", "/pool/../etc/passwd", "/pool/.hidden"])
def test_what_is_no_path_of_a_volume_is_refused(path):
    with pytest.raises(Unavailable, match="is no path of a volume"):
        put_part(path, 0, b"", last=True)
    with pytest.raises(Unavailable, match="is no path of a volume"):
        read_part(path, 0, 1)


def test_the_longest_name_that_a_file_can_have_is_none_too_long(tmp_path):
    put_part(str(tmp_path / ("x" * 255)), 0, b"x", last=True)
    assert names(tmp_path) == ["x" * 255]


def test_a_link_in_the_place_of_the_private_directory_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / PRIVATE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="is no directory"):
        put_part(str(tmp_path / "a"), 0, b"x", last=True)
    assert names(tmp_path) == []


def test_a_link_and_a_directory_are_left_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "directory", "fifo"):
        with pytest.raises(Unavailable, match="is there, and is no file"):
            put_part(str(tmp_path / name), 0, b"x", last=True)
        with pytest.raises(Unavailable, match="is there, and is no file"):
            read_part(str(tmp_path / name), 0, 1)
    assert (tmp_path / "file").read_bytes() == b"kept"

"""What a node was told is on the disk, whatever cuts the file off."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from netmgr.apply.journal import Journal, Kept
from netmgr.wanted import GuestGone, WantedGuest
from tests.unit.netmgr_plan.test_texts import NET, UUID

GUEST = WantedGuest("02:00:00:00:00:01", ("192.168.1.10",), ("web",), serial=2)


def changed(journal: Journal, kept: Kept, change: WantedGuest | GuestGone) -> None:
    """As a keeper does it."""
    kept.change(change)
    journal.append(kept, change)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_changes_are_read_again_in_their_order(journal: Journal, tmp_path: Path) -> None:
    kept = Kept.of(NET)
    journal.write(kept)
    changed(journal, kept, GUEST)
    changed(journal, kept, structs.replace(GUEST, place="10.0.0.2", serial=3))
    changed(journal, kept, structs.replace(GUEST, mac="02:00:00:00:00:02", serial=4))
    changed(journal, kept, GuestGone("02:00:00:00:00:02", serial=5))
    found = Journal(tmp_path).load()[UUID]
    assert (found.guests, found.serial, found.lines) == (kept.guests, 5, kept.lines)
    assert found.whole == kept.whole


def test_one_change_adds_one_line(journal: Journal, tmp_path: Path) -> None:
    guests = tuple(structs.replace(GUEST, mac=f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}") for n in range(1000))
    kept = Kept.of(structs.replace(NET, guests=guests))
    journal.write(kept)
    path = tmp_path / f"{UUID}.network"
    before = path.stat().st_size
    changed(journal, kept, structs.replace(GUEST, serial=9))
    assert path.stat().st_size - before < 200


def test_a_long_file_is_written_anew(journal: Journal, tmp_path: Path) -> None:
    kept = Kept.of(NET)
    journal.write(kept)
    for serial in range(2, 1002):
        changed(journal, kept, structs.replace(GUEST, serial=serial))
    assert len((tmp_path / f"{UUID}.network").read_text().splitlines()) < 250
    assert Journal(tmp_path).load()[UUID].whole == kept.whole


@given(st.integers(0, 2000))
def test_a_line_that_was_cut_off_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    directory = tmp_path_factory.mktemp("cut")
    journal = Journal(directory)
    kept = Kept.of(NET)
    journal.write(kept)
    path = directory / f"{UUID}.network"
    first = path.stat().st_size
    changed(journal, kept, GUEST)
    data = path.read_bytes()
    cut = min(max(size, first), len(data))
    path.write_bytes(data[:cut])
    found = journal.load()[UUID]
    assert found.guests in ({}, {GUEST.key: GUEST})
    changed(journal, found, structs.replace(GUEST, serial=7))
    assert Journal(directory).load()[UUID].guests == {GUEST.key: structs.replace(GUEST, serial=7)}


def test_a_removal_is_remembered_until_it_is_done(journal: Journal, tmp_path: Path) -> None:
    journal.write(Kept.of(NET))
    journal.mark_removed(UUID)
    assert Journal(tmp_path).load()[UUID].removed
    journal.drop(UUID)
    assert Journal(tmp_path).load() == {}


def test_a_file_that_is_none_of_ours_is_left_alone(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "odd.network").write_text("garbage\n")
    (tmp_path / "empty.network").touch()
    assert journal.load() == {}
    assert (tmp_path / "odd.network").exists()

"""Networks that libvirtd shall have, kept by an agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterhost.agent.records import Record, Records

ONE = Record("11111111-2222-3333-4444-555555555501", "one", 7, "<network/>")
TWO = Record("11111111-2222-3333-4444-555555555502", "two", 8, "<network/>")


def test_what_is_kept_is_there_for_the_next_agent(tmp_path: Path) -> None:
    records = Records(tmp_path / "shadows")
    assert records.all() == []
    records.put(ONE)
    records.put(TWO)
    newer = Record(ONE.uuid, "one", 9, "<network><name/></network>")
    records.put(newer)
    records.drop(TWO.uuid)
    again = Records(tmp_path / "shadows")
    assert again.all() == [newer]
    assert again.get(TWO.uuid) is None
    assert again.get(ONE.uuid) == newer


def test_a_file_that_cannot_be_read_is_left_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Records(tmp_path).put(ONE)
    damaged = tmp_path / f"{TWO.uuid}.json"
    damaged.write_text('{"uuid": 3')
    (tmp_path / "cut.new").write_text("{")
    assert Records(tmp_path).all() == [ONE]
    assert damaged.exists()
    assert "is no record of a network" in caplog.text

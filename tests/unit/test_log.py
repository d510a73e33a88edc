"""The [log] settings: levels, filters and outputs as libvirtd has them, seen in what a process writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, structlog
from clusterhost import log
from clusterhost.config import LogSection
log.configure(LogSection({settings}))
hub, store = structlog.get_logger("clusterhost.hub"), structlog.get_logger("clusterhost.store")
hub.debug("a detail"); hub.info("a step", node="n1"); hub.warning("a worry")
store.debug("a statement"); logging.getLogger("asyncio").error("an error")
"""


def _written(settings: str) -> str:
    script = SCRIPT.format(settings=settings)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr


def test_by_default_warnings_and_errors_are_written() -> None:
    text = _written("")
    assert [line.split("event=")[1] for line in text.splitlines()] == ['"a worry"', '"an error"']
    assert "level=warning logger=clusterhost.hub" in text


def test_a_lower_level_writes_more_with_its_values() -> None:
    text = _written("log_level=2")
    assert 'event="a step" node=n1' in text
    assert "a detail" not in text


def test_a_filter_gives_one_logger_another_level() -> None:
    text = _written('log_level=4, log_filters="1:clusterhost.store"')
    assert "a statement" in text
    assert "a worry" not in text


def test_the_journal_gets_priorities() -> None:
    lines = _written('log_outputs="3:journald"').splitlines()
    assert [line[:3] for line in lines] == ["<4>", "<3>"]


def test_several_outputs_have_levels_of_their_own(tmp_path: Path) -> None:
    errors = tmp_path / "errors.log"
    text = _written(f'log_level=1, log_outputs="1:stderr 4:file:{errors}"')
    assert "a detail" in text
    assert "an error" in errors.read_text()
    assert "a worry" not in errors.read_text()

"""The runner of stock clients: what it does with a virsh that lost its own job (tests/support/stock.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import stock

ALONE = "import sys, time; print('error: said', file=sys.stderr, flush=True); time.sleep(60)"
WORKING = "import threading, time\nfor _ in 'ab': threading.Thread(target=time.sleep, args=(60,)).start()\n"
ECHO = "import sys, time; time.sleep(0.5); print(sys.stdin.read()); sys.exit(3)"


@pytest.fixture(autouse=True)
def short_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "LOOK", 0.3)


def command(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_client_without_a_worker_is_ended_to_be_run_again() -> None:
    assert stock.ended(command(ALONE), 20, None, again=True) is None


def test_a_client_that_is_ending_is_not_run_again() -> None:
    """It has no worker either, for a moment."""
    ending = "import time; time.sleep(0.45); print('done')"
    assert stock.ended(command(ending), 20, None, again=True) == stock.Outcome(0, "done", "")


def test_a_second_time_it_counts_as_one_that_takes_too_long() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        stock.ended(command(ALONE), 0.5, None, again=False)


def test_a_client_whose_worker_waits_is_not_taken_for_lost() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        stock.ended(command(WORKING), 1.0, None, again=True)


def test_a_slow_command_has_its_input_and_gives_its_output() -> None:
    assert stock.ended(command(ECHO), 20, "given", again=False) == stock.Outcome(3, "given", "")

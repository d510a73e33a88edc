"""What the comparison of a node and the endpoint passes over, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sameness import Side, Step
from tests.support.stock import Outcome, Virsh

SIDE = Side(Virsh("test:///default"), "web", Path("/disks"), "")
DONE = "Managedsave: [100 %]"


def shown(text: str) -> str:
    """As it is compared."""
    return SIDE._normal(Outcome(0, "", text), Step("managedsave web --verbose", "")).err


@pytest.mark.parametrize("text", [DONE, f"{DONE}\r{DONE}", f"Managedsave: [ 12 %]\r{DONE}\r{DONE}\n{DONE}"])
def test_how_often_a_look_found_a_job_done_is_passed_over(text: str) -> None:
    assert shown(text) == DONE


@pytest.mark.parametrize("text", ["", "Managedsave: [ 99 %]", "Dump: [100 %]", f"{DONE}\rDump: [100 %]"])
def test_whether_and_what_was_done_is_not(text: str) -> None:
    assert shown(text) != DONE

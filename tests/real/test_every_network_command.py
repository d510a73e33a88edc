"""Shown by 7: every virsh command about networks says at the endpoint what a node says of a network of its own."""

from __future__ import annotations

import re
import uuid as uuids
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.differences import DIFFERENCES
from tests.real.network_table import FILES, SCENES
from tests.support.sameness import Side, commands_of, form, heard, steps, without_a_step, write_files, wrong
from tests.support.stock import Outcome, Virsh

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "same"
RULES = (
    (re.compile(r"virbr\d+"), "virbrN"),
    (re.compile(r"<mac address='52:54:00:(?!5a)[0-9a-f:]+'/>"), "<mac address='MAC'/>"),
    (re.compile(r"^ ?(\S+ +)?default\b.*\n?", re.MULTILINE), ""),
)
"""What the host makes up; and the network that every host has."""


def normal(outcome: Outcome) -> Outcome:
    """Comparable."""

    def text(found: str) -> str:
        for pattern, instead in RULES:
            found = pattern.sub(instead, found)
        return "\n".join(re.sub(r" +", " ", line.strip()) for line in found.splitlines())

    return Outcome(outcome.code, text(outcome.out), text(outcome.err))


def remove(virsh: Virsh) -> None:
    """Whatever a scene left."""
    for name in (NAME, f"{NAME}-2", "x"):
        virsh.run("net-destroy", name)
        virsh.run("net-undefine", name)


def told(virsh: Virsh, scene: str, directory: Path) -> list[Outcome]:
    """What each step gave."""
    uuid = str(uuids.uuid4())
    write_files(FILES, directory, NAME, uuid)
    side = Side(virsh, NAME, directory, uuid)
    try:
        return [normal(side.run(step)) for step in steps(scene)]
    finally:
        remove(virsh)


LISTENING = [
    ("--event", "lifecycle", "--loop"),
    ("--event", "lifecycle", "--loop", "--network", NAME),
    ("--event", "lifecycle", "--timestamp"),
]
OWN_WORDS = {"refused", "update"}
"""Scenes whose refusals are in our words: libvirt's code, so its form, then what was found and what is allowed."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scene", SCENES)
def test_networks_answer_as_on_a_node(cluster: RealCluster, tmp_path: Path, scene: str) -> None:
    theirs = told(cluster.node("n1"), SCENES[scene], tmp_path / "node")
    ours = told(cluster.virsh, SCENES[scene], tmp_path / "endpoint")
    if scene in OWN_WORDS:
        theirs, ours = [form(each) for each in theirs], [form(each) for each in ours]
    if text := wrong(steps(SCENES[scene]), theirs, ours, DIFFERENCES):
        pytest.fail(text, pytrace=False)


def test_every_option_of_every_command_about_networks_has_a_step() -> None:
    listening = [f"net-event {' '.join(words)}" for words in LISTENING]
    assert len(commands_of("network")) > 15
    assert without_a_step("network", SCENES.values(), listening) == []


@pytest.mark.parametrize("words", LISTENING, ids=" ".join)
def test_network_events_are_those_of_a_node(
    cluster: RealCluster, tmp_path: Path, words: tuple[str, ...]
) -> None:
    told_by = []
    for number, virsh in enumerate((cluster.node("n1"), cluster.virsh)):
        where = tmp_path / str(number)
        where.mkdir()
        for name in (NAME, f"{NAME}-2"):
            uuid = f"<uuid>{uuids.uuid4()}</uuid>"
            (where / f"{name}.xml").write_text(f"<network><name>{name}</name>{uuid}</network>")
        try:
            virsh("net-define", str(where / f"{NAME}.xml"))
            told_by.append(events(virsh, words, where))
        finally:
            remove(virsh)
    assert told_by[1] == told_by[0]
    assert len(told_by[1]) > (4 if "--loop" in words else 1)


def events(virsh: Virsh, words: tuple[str, ...], where: Path) -> list[str]:
    """Lines of net-event while something happens."""
    lines = (
        f"net-start {NAME}",
        f"net-define {where / NAME}.xml",
        f"net-undefine {NAME}",
        f"net-destroy {NAME}",
        f"net-create {where / NAME}-2.xml",
        f"net-destroy {NAME}-2",
    )
    return heard(virsh, ["net-event", *words], lines, 4)

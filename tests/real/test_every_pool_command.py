"""Every virsh command about storage pools says at the endpoint what a node says of a pool of its own."""

from __future__ import annotations

import shutil
import uuid as uuids
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.differences import DIFFERENCES
from tests.real.pool_table import FILES, HOME, SCENES
from tests.support.sameness import Side, commands_of, form, heard, steps, without_a_step, write_files, wrong
from tests.support.stock import Outcome, Virsh

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "same"
OWN_WORDS = {"refused"}
"""Scenes whose refusals are in our words: libvirt's code, so its form, then what was found and what is allowed."""
LISTENING = [
    ("--event", "lifecycle", "--loop"),
    ("--event", "refresh", "--loop"),
    ("--event", "lifecycle", "--loop", "--pool", NAME),
    ("--event", "lifecycle", "--timestamp"),
]


def remove(cluster: RealCluster, virsh: Virsh) -> None:
    """Whatever a scene left."""
    for name in (NAME, f"{NAME}-2", "x"):
        virsh.run("pool-destroy", name)
        virsh.run("pool-undefine", name)
    for node in cluster.nodes:
        for path in (HOME, f"{HOME}-2"):
            shutil.rmtree(cluster.state / "nodes" / node / "lib" / Path(path).name, ignore_errors=True)


def told(cluster: RealCluster, virsh: Virsh, scene: str, directory: Path) -> list[Outcome]:
    """What each step gave."""
    uuid = str(uuids.uuid4())
    write_files(FILES, directory, NAME, uuid)
    side = Side(virsh, NAME, directory, uuid)
    try:
        return [side.run(step) for step in steps(scene)]
    finally:
        remove(cluster, virsh)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scene", SCENES)
def test_pools_answer_as_on_a_node(cluster: RealCluster, tmp_path: Path, scene: str) -> None:
    theirs = told(cluster, cluster.node("n1"), SCENES[scene], tmp_path / "node")
    ours = told(cluster, cluster.virsh, SCENES[scene], tmp_path / "endpoint")
    if scene in OWN_WORDS:
        theirs, ours = [form(each) for each in theirs], [form(each) for each in ours]
    if text := wrong(steps(SCENES[scene]), theirs, ours, DIFFERENCES):
        pytest.fail(text, pytrace=False)


def test_every_option_of_every_command_about_pools_has_a_step() -> None:
    listening = [f"pool-event {' '.join(words)}" for words in LISTENING]
    assert len(commands_of("pool")) > 18
    assert without_a_step("pool", SCENES.values(), listening) == []


@pytest.mark.parametrize("words", LISTENING, ids=" ".join)
def test_pool_events_are_those_of_a_node(
    cluster: RealCluster, tmp_path: Path, words: tuple[str, ...]
) -> None:
    told_by = []
    for number, virsh in enumerate((cluster.node("n1"), cluster.virsh)):
        where = tmp_path / str(number)
        where.mkdir()
        uuid = str(uuids.uuid4())
        for name in ("dir", "other"):
            (where / f"{name}.xml").write_text(FILES[name].replace("{d}", NAME).replace("{uuid}", uuid))
        try:
            virsh("pool-define", str(where / "dir.xml"))
            told_by.append(events(virsh, words, where))
        finally:
            remove(cluster, virsh)
    assert told_by[1] == told_by[0]
    assert len(told_by[1]) > (2 if "--loop" in words else 1)


def events(virsh: Virsh, words: tuple[str, ...], where: Path) -> list[str]:
    """Lines of pool-event while something happens."""
    lines = (
        f"pool-build {NAME}",
        f"pool-start {NAME}",
        f"pool-refresh {NAME}",
        f"pool-define {where / 'dir.xml'}",
        f"pool-destroy {NAME}",
        f"pool-create {where / 'other.xml'} --build",
        f"pool-destroy {NAME}-2",
        f"pool-delete {NAME}",
        f"pool-undefine {NAME}",
    )
    return heard(virsh, ["pool-event", *words], lines, 6)

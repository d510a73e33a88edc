"""Every virsh command about storage volumes says at the endpoint what a node says of a pool of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.differences import DIFFERENCES
from tests.real.volume_table import FILES, HOME, SCENES
from tests.support.sameness import Side, commands_of, steps, without_a_step, write_files, wrong
from tests.support.stock import Outcome, Virsh

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "samevol"
POOLS = (NAME, f"{NAME}-2")
DOWNLOADED = ("back", "part", "holes", "wiped", "clone", "copy")


def told(
    cluster: RealCluster, virsh: Virsh, scene: str, directory: Path
) -> tuple[list[Outcome], dict[str, bytes]]:
    """What each step gave, and what was downloaded."""
    write_files(FILES, directory, NAME, "")
    try:
        for name, file in zip(POOLS, ("pool", "pool2"), strict=True):
            virsh("pool-define", str(directory / f"{file}.xml"))
            virsh("pool-start", name, "--build")
        side = Side(virsh, NAME, directory, "")
        outcomes = [side.run(step) for step in steps(scene)]
        files = {name: directory / name for name in DOWNLOADED}
        return outcomes, {name: path.read_bytes() for name, path in files.items() if path.exists()}
    finally:
        for name in POOLS:
            virsh.run("pool-destroy", name)
            virsh.run("pool-undefine", name)
        for node in cluster.nodes:
            for path in (HOME, f"{HOME}-2"):
                shutil.rmtree(cluster.state / "nodes" / node / "lib" / Path(path).name, ignore_errors=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scene", SCENES)
def test_volumes_answer_as_on_a_node(cluster: RealCluster, tmp_path: Path, scene: str) -> None:
    theirs, files = told(cluster, cluster.node("n1"), SCENES[scene], tmp_path / "node")
    ours, same_files = told(cluster, cluster.virsh, SCENES[scene], tmp_path / "endpoint")
    if text := wrong(steps(SCENES[scene]), theirs, ours, DIFFERENCES):
        pytest.fail(text, pytrace=False)
    assert same_files == files, "what was downloaded"


def test_every_option_of_every_command_about_volumes_has_a_step() -> None:
    assert len(commands_of("volume")) > 15
    assert without_a_step("volume", SCENES.values()) == []

"""A domain's CPU model: the cluster starts what a node starts, refuses in its words, and explains it by node."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster
    from tests.support.stock import Virsh

TAKEN = "<feature policy='disable' name='{}'/>"
HASWELL = "".join(
    TAKEN.format(name) for name in ("pcid", "x2apic", "tsc-deadline", "hle", "invpcid", "rtm", "spec-ctrl")
)
CPUS = {
    "usable and checked": "<cpu mode='custom' match='exact' check='partial'><model>Nehalem</model></cpu>",
    "not usable, checked": "<cpu mode='custom' match='exact' check='partial'><model>Haswell</model></cpu>",
    "no substitute": (
        "<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>EPYC</model></cpu>"
    ),
    "not usable, not checked": "<cpu mode='custom' match='exact'><model fallback='forbid'>Haswell</model></cpu>",
    "without what is missing": (
        f"<cpu mode='custom' match='exact' check='partial'><model>Haswell</model>{HASWELL}</cpu>"
    ),
    "unheard of": "<cpu mode='custom' match='exact'><model fallback='forbid'>NoSuch</model></cpu>",
    "the host's own": "<cpu mode='host-passthrough'/>",
    "the host's model": "<cpu mode='host-model'/>",
}


def outcome(virsh: Virsh, xml: str, tmp_path: Path) -> str:
    """What define and start say: "" when both went well."""
    path = tmp_path / "cpu.xml"
    path.write_text(xml)
    defined = virsh.run("define", str(path))
    try:
        return defined.err if defined.code else virsh.run("start", "cpu").err
    finally:
        virsh.run("destroy", "cpu")
        virsh.run("undefine", "cpu")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("cpu", CPUS.values(), ids=CPUS)
def test_a_cpu_is_started_or_refused_as_on_a_node(cluster: RealCluster, cpu: str, tmp_path: Path) -> None:
    xml = cluster.xml("cpu").replace("<on_poweroff>", f"{cpu}<on_poweroff>")
    at_node = outcome(cluster.node("n1"), xml, tmp_path)
    assert outcome(cluster.virsh, xml, tmp_path) == at_node


@pytest.mark.timeout(90)
def test_placement_explains_which_cpu_a_node_cannot_run(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    usable = cluster.node("n1")("domcapabilities")
    names = ("Haswell", "EPYC-Milan", "Cooperlake")
    model = next((name for name in names if re.search(f"usable='no'[^>]*>{name}<", usable)), None)
    if model is None:
        pytest.skip("this machine runs every CPU model that is tried")
    cpu = f"<cpu mode='custom' match='exact' check='partial'><model>{model}</model></cpu>"
    name = gone("picky")
    cluster.virsh.define(cluster.xml(name).replace("<on_poweroff>", f"{cpu}<on_poweroff>"), tmp_path)
    told = command.json("placement", "explain", name)
    assert {row["text"] for row in told["reasons"]} == {f"cannot run CPU {model}, picky needs it"}
    assert told["chosen"] == ""
    assert "incompatible with host CPU" in cluster.virsh.fails("start", name)

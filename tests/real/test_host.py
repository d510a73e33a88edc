"""Shown by 2: the host commands of stock virsh see one machine with a NUMA cell for each node."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster


def fields(text: str) -> dict[str, str]:
    """The "key: value" lines of a virsh answer."""
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def test_nodeinfo_sums_the_nodes(cluster: RealCluster) -> None:
    whole = fields(cluster.virsh("nodeinfo"))
    parts = [fields(cluster.node(node)("nodeinfo")) for node in cluster.nodes]
    assert int(whole["CPU(s)"]) == sum(int(part["CPU(s)"]) for part in parts)
    assert whole["NUMA cell(s)"] == "3"
    assert whole["CPU model"] == parts[0]["CPU model"]


def test_memory_is_the_sum_and_follows_what_the_nodes_have(cluster: RealCluster) -> None:
    def size(virsh: Virsh) -> int:
        return int(fields(virsh("nodeinfo"))["Memory size"].split()[0])

    eventually(
        lambda: size(cluster.virsh) == sum(size(cluster.node(node)) for node in cluster.nodes),
        40,
        "equal sums",
    )


def test_capabilities_have_one_cell_a_node_and_a_uuid_of_their_own(cluster: RealCluster) -> None:
    whole = cluster.virsh("capabilities")
    assert re.search(r"<cells num='3'>", whole)
    own = {
        re.search(r"<uuid>(.*)</uuid>", cluster.node(node)("capabilities")).group(1) for node in cluster.nodes
    }  # type: ignore[union-attr]
    found = re.search(r"<uuid>(.*)</uuid>", whole)
    assert found
    assert found.group(1) not in own
    assert len(own) == 3


def test_free_memory_is_that_of_the_nodes(cluster: RealCluster) -> None:
    rows = re.findall(r"^\s*(\d+):\s+(\d+) KiB", cluster.virsh("freecell", "--all"), re.MULTILINE)
    assert [cell for cell, _ in rows] == ["0", "1", "2"]
    parts = [int(cluster.node(node)("freecell").split()[1]) for node in cluster.nodes]
    for (_, size), part in zip(rows, parts, strict=True):
        assert abs(int(size) - part) < 0.25 * part  # a machine's free memory moves while we look


def test_versions_are_those_of_the_nodes(cluster: RealCluster) -> None:
    own = cluster.node("n1")("version")
    assert [line for line in cluster.virsh("version").splitlines() if "QEMU" in line] == [
        line for line in own.splitlines() if "QEMU" in line
    ]


@pytest.mark.parametrize(
    "command",
    [
        ("hostname",),
        ("uri",),
        ("maxvcpus",),
        ("nodecpustats",),
        ("nodecpustats", "--cpu", "3"),
        ("nodememstats",),
        ("nodememstats", "--cell", "1"),
        ("domcapabilities",),
        ("cpu-models", "x86_64"),
        ("nodecpumap",),
        ("freecell", "1"),
        ("freepages", "--all"),
    ],
    ids=" ".join,
)
def test_host_command_answers(cluster: RealCluster, command: tuple[str, ...]) -> None:
    assert cluster.virsh(*command)


def test_a_view_shows_one_node_alone(cluster: RealCluster) -> None:
    view, node = fields(cluster.view("n2")("nodeinfo")), fields(cluster.node("n2")("nodeinfo"))
    assert {**view, "CPU frequency": ""} == {**node, "CPU frequency": ""}
    assert cluster.view("n2")("hostname") == cluster.node("n2")("hostname") == "n2"


def test_an_unknown_node_is_refused_by_name(cluster: RealCluster) -> None:
    assert "nowhere" in cluster.view("nowhere").fails("list")

"""Network filters: stock virsh at the endpoint as at a node, the same filters on all nodes, and they filter."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.support.realnets import Guests, Net
from tests.support.stock import Outcome, Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

UUID = "6f0c1e7a-5b1c-4f0e-9b53-7a1f0e5c0001"
FILES = {
    "plain": f"<filter name='own'><uuid>{UUID}</uuid><rule action='drop' direction='in'/></filter>",
    "other": f"<filter name='own'><uuid>{UUID}</uuid><rule action='accept' direction='out'/></filter>",
    "renamed": f"<filter name='new'><uuid>{UUID}</uuid></filter>",
    "anew": "<filter name='own'/>",
    "nameless": "<filter/>",
    "foo": "<foo/>",
    "broken": "<filter name='own'>",
    "unknown": "<filter name='own'><rule action='eat' direction='in'/></filter>",
    "strange": f"<filter name='own'><uuid>{UUID}</uuid><hop/></filter>",
    "binding": "<filterbinding><owner><name>x</name><uuid>6f0c1e7a-5b1c-4f0e-9b53-7a1f0e5c0009</uuid></owner>"
    "<portdev name='nodev'/><mac address='52:54:00:79:00:01'/><filterref filter='own'/></filterbinding>",
}
STEPS = """
nwfilter-list
nwfilter-define {dir}/nameless.xml
nwfilter-define {dir}/foo.xml
nwfilter-define {dir}/unknown.xml
nwfilter-define {dir}/broken.xml
nwfilter-define {dir}/plain.xml
nwfilter-define {dir}/anew.xml
nwfilter-define {dir}/renamed.xml
nwfilter-define {dir}/strange.xml --validate
nwfilter-list
nwfilter-dumpxml own
nwfilter-dumpxml 6f0c1e7a-5b1c-4f0e-9b53-7a1f0e5c0001
nwfilter-define {dir}/other.xml --validate
nwfilter-dumpxml own
nwfilter-edit own
nwfilter-edit nothing
nwfilter-dumpxml nothing
nwfilter-undefine nothing
nwfilter-binding-list
nwfilter-binding-create {dir}/foo.xml
nwfilter-binding-create {dir}/broken.xml
nwfilter-binding-dumpxml nothing
nwfilter-binding-delete nothing
--readonly nwfilter-list
--readonly nwfilter-dumpxml own
--readonly nwfilter-undefine own
--readonly nwfilter-define {dir}/plain.xml
--readonly nwfilter-binding-list
nwfilter-undefine own
nwfilter-undefine own
nwfilter-list
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Documents by name."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.xml").write_text(text)
    return tmp_path


@pytest.fixture(autouse=True)
def tidy(cluster: RealCluster) -> Iterator[None]:
    """No filter is left, wherever it is."""
    yield
    for domain in cluster.virsh.names("--all"):
        cluster.remove(domain)
    for virsh in (cluster.virsh, *map(cluster.node, cluster.nodes)):
        # One that another one names goes after it.
        for _, name in itertools.product(range(3), names(virsh)):
            virsh.run("nwfilter-undefine", name)
    assert not names(cluster.virsh)


def names(virsh: Virsh) -> list[str]:
    """Of all filters there."""
    return [line.split()[1] for line in virsh("nwfilter-list").splitlines()]


def normal(outcome: Outcome) -> Outcome:
    """Without what the host makes up."""
    text = re.sub(rf"(?!{UUID})[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}", "UUID", outcome.out)
    return Outcome(outcome.code, text, outcome.err)


def test_each_command_says_at_the_endpoint_what_it_says_at_a_node(cluster: RealCluster, files: Path) -> None:
    steps = [step.format(dir=files).split() for step in STEPS.strip().splitlines()]

    def told(virsh: Virsh) -> list[Outcome]:
        return [normal(virsh.run(*step)) for step in steps]

    here, there = told(cluster.virsh), told(cluster.node("n3"))
    for step, ours, theirs in zip(steps, here, there, strict=True):
        assert ours == theirs, " ".join(step)


def stock(virsh: Virsh) -> None:
    """What libvirt's own package has."""
    for path in sorted(Path("/etc/libvirt/nwfilter").glob("*.xml")):
        virsh("nwfilter-define", str(path))


def test_a_filter_is_on_all_nodes_also_on_one_that_was_away(cluster: RealCluster, files: Path) -> None:
    cluster.virsh("nwfilter-define", str(files / "plain.xml"))
    for node in cluster.nodes:
        assert "action='drop'" in cluster.node(node)("nwfilter-dumpxml", "own")
    demo.stop_service(cluster.state, "n3", "agent")
    try:
        eventually(lambda: "n3" not in cluster.virsh("hostname") and away(cluster), 20, "n3 is away")
        cluster.virsh("nwfilter-define", str(files / "other.xml"))
        assert "action='drop'" in cluster.node("n3")("nwfilter-dumpxml", "own")
    finally:
        demo.start_service(cluster.state, "n3", "agent")
    eventually(lambda: "action='accept'" in cluster.node("n3")("nwfilter-dumpxml", "own"), 20, "n3 has it")
    demo.stop_service(cluster.state, "n3", "agent")
    try:
        eventually(lambda: away(cluster), 20, "n3 is away")
        cluster.virsh("nwfilter-undefine", "own")
        assert names(cluster.node("n3")) == ["own"]
        assert names(cluster.virsh) == []
    finally:
        demo.start_service(cluster.state, "n3", "agent")
    eventually(lambda: names(cluster.node("n3")) == [], 20, "n3 has forgotten it")


def away(cluster: RealCluster) -> bool:
    rows = demo.ask(cluster.state, "node.list")
    return [row["link"] for row in rows if row["name"] == "n3"] != ["up"]


def test_filters_of_one_name_on_nodes_that_were_strangers_are_one(cluster: RealCluster, files: Path) -> None:
    cluster.node("n1")("nwfilter-define", str(files / "anew.xml"))
    cluster.node("n2")("nwfilter-define", str(files / "anew.xml"))
    assert names(cluster.virsh) == ["own"]
    uuid = re.findall(r"<uuid>(.*)</uuid>", cluster.virsh("nwfilter-dumpxml", "own"))[0]
    path = files / "mine.xml"
    path.write_text(FILES["other"].replace(UUID, uuid))
    cluster.virsh("nwfilter-define", str(path))
    for node in cluster.nodes:
        assert "action='accept'" in cluster.node(node)("nwfilter-dumpxml", "own"), node
    cluster.virsh("nwfilter-undefine", "own")
    assert [names(cluster.node(node)) for node in cluster.nodes] == [[], [], []]


def test_what_one_node_refuses_no_node_has(cluster: RealCluster, files: Path) -> None:
    # The last of them knows this uuid under another name.
    cluster.node("n3")("nwfilter-define", str(files / "renamed.xml"))
    text = cluster.virsh.fails("nwfilter-define", str(files / "plain.xml"))
    assert "filter with same UUID but different name ('new') already exists" in text
    assert names(cluster.virsh) == ["new"]


def test_a_guest_cannot_speak_for_another_wherever_it_runs(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    stock(cluster.virsh)
    blue = network("blue", 1)
    mac, address, false = "02:00:0a:4d:01:78", "10.77.1.120", "10.77.1.201"
    nic = (
        f"<interface type='network'><mac address='{mac}'/><source network='blue'/><model type='virtio'/>"
        "<target dev='kept0'/><filterref filter='clean-traffic'>"
        f"<parameter name='IP' value='{address}'/></filterref></interface>"
    )
    other = guests.start("n2", "b2", blue)
    guests.start("n1", "b1", blue, nic)
    guests.settled("b1", address)
    guests.settled("b2", other)
    for virsh in (cluster.virsh, cluster.view("n1")):
        assert virsh("nwfilter-binding-list").split() == ["kept0", "clean-traffic"]
    in_use = cluster.virsh.fails("nwfilter-undefine", "clean-traffic")
    assert "nwfilter is in use" in in_use
    assert all("clean-traffic" in names(cluster.node(node)) for node in cluster.nodes)
    guests.run("b2", "ip addr add 10.77.1.202/24 dev eth0")
    guests.run("b1", f"ip addr add {false}/24 dev eth0")

    def passes(name: str, source: str, to: str) -> bool:
        return " 0 packets received" not in guests.run(name, f"ping -c 2 -W 2 -I {source} {to}")

    assert passes("b1", address, other)
    assert not passes("b1", false, other)
    assert passes("b2", "10.77.1.202", address), "one without a filter may"
    cluster.virsh("migrate", "--live", "--p2p", "b1", cluster.view_uri("n3"), seconds=90)
    assert cluster.view("n1")("nwfilter-binding-list") == ""
    assert "<name>b1</name>" in cluster.virsh("nwfilter-binding-dumpxml", "kept0")
    assert passes("b1", address, other)
    assert not passes("b1", false, other)


def test_bindings_of_one_name_on_two_nodes_are_told_apart(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, files: Path
) -> None:
    cluster.virsh("nwfilter-define", str(files / "other.xml"))
    blue = network("blue", 1)
    nic = (
        "<interface type='network'><source network='blue'/><model type='virtio'/>"
        "<target dev='same0'/><filterref filter='own'/></interface>"
    )
    for node, name in (("n1", "b1"), ("n2", "b2")):
        guests.start(node, name, blue, nic)
    assert cluster.virsh("nwfilter-binding-list").split() == ["n1:same0", "own", "n2:same0", "own"]
    assert "<name>b2</name>" in cluster.virsh("nwfilter-binding-dumpxml", "n2:same0")
    cluster.virsh("nwfilter-binding-delete", "n2:same0")
    assert cluster.virsh("nwfilter-binding-list").split() == ["same0", "own"]
    path = files / "again.xml"
    owner = cluster.virsh("domuuid", "b2")
    text = re.sub(r"<uuid>.*?</uuid>", f"<uuid>{owner}</uuid>", FILES["binding"]).replace("nodev", "same0")
    path.write_text(text)
    cluster.virsh("nwfilter-binding-create", str(path))
    assert cluster.view("n2")("nwfilter-binding-list").split() == ["same0", "own"]

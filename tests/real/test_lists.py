"""Shown by 9: listAllDomains takes flags of all groups together, and the old calls agree, as at a node's own socket."""

from __future__ import annotations

import functools
import operator
import subprocess
from collections.abc import Iterator
from itertools import chain, combinations, islice, product
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(120)

GROUPS = (
    ("ACTIVE", "INACTIVE"),
    ("PERSISTENT", "TRANSIENT"),
    ("RUNNING", "PAUSED", "SHUTOFF", "OTHER"),
    ("MANAGEDSAVE", "NO_MANAGEDSAVE"),
    ("AUTOSTART", "NO_AUTOSTART"),
    ("HAS_SNAPSHOT", "NO_SNAPSHOT"),
    ("HAS_CHECKPOINT", "NO_CHECKPOINT"),
)
"""Within a group one flag must fit, between groups all must (virConnectListAllDomains)."""
OFF = {"INACTIVE", "PERSISTENT", "SHUTOFF", "NO_MANAGEDSAVE", "NO_AUTOSTART", "NO_SNAPSHOT", "NO_CHECKPOINT"}
ON = OFF - {"INACTIVE", "SHUTOFF"} | {"ACTIVE", "RUNNING"}
DOMAINS = {
    "l-off": OFF,
    "l-auto": OFF - {"NO_AUTOSTART"} | {"AUTOSTART"},
    "l-saved": OFF - {"NO_MANAGEDSAVE"} | {"MANAGEDSAVE"},
    "l-snapshot": OFF - {"NO_SNAPSHOT"} | {"HAS_SNAPSHOT"},
    "l-on": ON,
    "l-paused": ON - {"RUNNING"} | {"PAUSED"},
    "l-transient": ON - {"PERSISTENT"} | {"TRANSIENT"},
    "l-checkpoint": ON - {"NO_CHECKPOINT"} | {"HAS_CHECKPOINT"},
}


def flag(name: str) -> int:
    return int(getattr(libvirt, f"VIR_CONNECT_LIST_DOMAINS_{name}"))


def combined() -> Iterator[tuple[frozenset[str], int]]:
    """All pairs, and a third of all ways to take at most one flag of each group."""
    one_of_each = (filter(None, picked) for picked in product(*((None, *group) for group in GROUPS)))
    pairs = chain.from_iterable(combinations(chain(*GROUPS), size) for size in range(3))
    for chosen in {frozenset(picked) for picked in chain(islice(one_of_each, 0, None, 3), pairs)}:
        yield chosen, functools.reduce(operator.or_, map(flag, chosen), 0)


def fitting(chosen: frozenset[str], domains: dict[str, set[str]]) -> set[str]:
    """The names that the flags let through."""
    wanted = [chosen & set(group) for group in GROUPS if chosen & set(group)]
    return {name for name, facts in domains.items() if all(facts & group for group in wanted)}


@pytest.fixture
def variety(cluster: RealCluster) -> Iterator[Virsh]:
    """One domain of each kind, all on n1."""
    virsh, shared = cluster.view("n1"), cluster.state / "shared"
    images = {name: shared / f"{name}.qcow2" for name in ("l-snapshot", "l-checkpoint")}
    file = shared / "l.xml"
    for image in images.values():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "4M"], check=True)
    try:
        for name in DOMAINS:
            file.write_text(cluster.xml(name, memory_mib=32, disk=images.get(name)))
            virsh("create" if name == "l-transient" else "define", str(file))
        for name, facts in DOMAINS.items():
            if name == "l-saved" or ("ACTIVE" in facts and name != "l-transient"):
                virsh("start", name)
        virsh("autostart", "l-auto")
        virsh("managedsave", "l-saved")
        virsh("snapshot-create-as", "l-snapshot", "one")
        virsh("suspend", "l-paused")
        virsh("checkpoint-create-as", "l-checkpoint", "one")
        yield virsh
    finally:
        for name in DOMAINS:
            cluster.remove(name)
        for image in images.values():
            image.unlink()
        file.unlink(missing_ok=True)


def test_flags_list_what_fits_in_every_group(cluster: RealCluster, variety: Virsh) -> None:
    at_node = {name: facts - {"AUTOSTART"} | {"NO_AUTOSTART"} for name, facts in DOMAINS.items()}
    parts = (
        # Autostart is the cluster's: no node may start a domain by itself.
        (cluster.node_uri("n1"), at_node),
        (cluster.endpoint, DOMAINS),
        (cluster.view_uri("n1"), DOMAINS),
    )
    for uri, domains in parts:
        connection = libvirt.open(uri)
        wrong = []
        for number, (chosen, flags) in enumerate(combined()):
            if "&node=" in uri and number % 8:
                continue
            found = {domain.name() for domain in connection.listAllDomains(flags)}
            if found != fitting(chosen, domains):
                wrong.append((sorted(chosen), sorted(found), sorted(fitting(chosen, domains))))
        connection.close()
        assert not wrong[:3], f"{len(wrong)} at {uri}"


def test_the_old_calls_count_and_name_what_a_node_does(cluster: RealCluster, variety: Virsh) -> None:
    told = []
    for uri in (cluster.node_uri("n1"), cluster.endpoint):
        connection = libvirt.openReadOnly(uri)
        ids = connection.listDomainsID()
        assert {connection.lookupByID(number).ID() for number in ids} == set(ids)
        running = {connection.lookupByID(number).name() for number in ids}
        defined = connection.listDefinedDomains()
        told.append((running, sorted(defined), connection.numOfDomains(), connection.numOfDefinedDomains()))
        connection.close()
    assert told[0] == told[1]
    assert told[1][0] == fitting(frozenset({"ACTIVE"}), DOMAINS)


def test_other_connections_see_a_change_at_once(cluster: RealCluster, variety: Virsh) -> None:
    writer, reader = libvirt.open(cluster.endpoint), libvirt.openReadOnly(cluster.endpoint)
    domain = writer.lookupByName("l-off")
    for _ in range(4):
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        assert "l-off" in {found.name() for found in reader.listAllDomains(flag("PAUSED"))}
        domain.resume()
        assert reader.lookupByName("l-off").state()[0] == libvirt.VIR_DOMAIN_RUNNING
        domain.destroy()
        assert "l-off" in {found.name() for found in reader.listAllDomains(flag("SHUTOFF"))}
    reader.close()
    writer.close()
    eventually(lambda: "l-off" not in cluster.node("n1").names(), 5, "the node agrees")

"""The whole error of libvirt-python (code, domain, level, str1 ...) is at the endpoint what it is at a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.sameness import UUID
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Act = Callable[[libvirt.virConnect, libvirt.virDomain], object]
NAME = "wrong"
NOBODY = "00000000-0000-0000-0000-000000000000"
NIC = "<interface type='nothing'/>"

OF_HOST: dict[str, Act] = {
    "lookupByName": lambda c, d: c.lookupByName("nobody"),
    "lookupByUUIDString": lambda c, d: c.lookupByUUIDString(NOBODY),
    "lookupByID": lambda c, d: c.lookupByID(424242),
    "define nothing": lambda c, d: c.defineXML(""),
    "define half": lambda c, d: c.defineXML("<domain type='qemu'><name>x</name"),
    "define another root": lambda c, d: c.defineXML("<nothing/>"),
    "define without a name": lambda c, d: c.defineXML("<domain type='qemu'/>"),
    "define without a type": lambda c, d: c.defineXML("<domain><name>x</name></domain>"),
    "define with no uuid": lambda c, d: c.defineXML("<domain><name>x</name><uuid>z</uuid></domain>"),
    "define an unknown type": lambda c, d: c.defineXML("<domain type='z'><name>x</name></domain>"),
    "create half": lambda c, d: c.createXML("<domain type='qemu'><name>x</name"),
    "list with unknown flags": lambda c, d: c.listAllDomains(1 << 30),
    "CPU statistics": lambda c, d: c.getCPUStats(999),
    "CPU map flags": lambda c, d: c.getCPUMap(8),
    "restore": lambda c, d: c.restore("/nowhere/file"),
    "save image": lambda c, d: c.saveImageGetXMLDesc("/nowhere/file"),
    "domain capabilities": lambda c, d: c.getDomainCapabilities(None, "nothing"),
    "compare CPU": lambda c, d: c.compareCPU("<cpu"),
    "baseline CPU": lambda c, d: c.baselineCPU(["<x/>"]),
    "native": lambda c, d: c.domainXMLToNative("nothing", "<domain/>"),
}
OF_DOMAIN: dict[str, Act] = {
    "create": lambda c, d: d.create(),
    "create flags": lambda c, d: d.createWithFlags(1 << 20),
    "destroy flags": lambda c, d: d.destroyFlags(1 << 20),
    "undefine flags": lambda c, d: d.undefineFlags(1 << 20),
    "resume": lambda c, d: d.resume(),
    "rename": lambda c, d: d.rename(NAME),
    "rename to a path": lambda c, d: d.rename("a/b"),
    "vCPUs": lambda c, d: d.setVcpusFlags(99, 2),
    "memory": lambda c, d: d.setMemoryFlags(1 << 40, 2),
    "attach": lambda c, d: d.attachDeviceFlags(NIC, 2),
    "attach half": lambda c, d: d.attachDeviceFlags("<disk", 2),
    "detach": lambda c, d: d.detachDeviceFlags("<disk type='file'><target dev='vdz'/></disk>", 2),
    "snapshot": lambda c, d: d.snapshotLookupByName("none"),
    "current snapshot": lambda c, d: d.snapshotCurrent(),
    "bad snapshot": lambda c, d: d.snapshotCreateXML("<x/>"),
    "checkpoint": lambda c, d: d.checkpointLookupByName("none"),
    "bad checkpoint": lambda c, d: d.checkpointCreateXML("<x/>"),
    "backup": lambda c, d: d.backupGetXMLDesc(),
    "block information": lambda c, d: d.blockInfo("none"),
    "block job": lambda c, d: d.blockJobAbort("none"),
    "resize": lambda c, d: d.blockResize("none", 1024),
    "metadata": lambda c, d: d.metadata(2, "urn:none"),
    "managed save": lambda c, d: d.managedSaveGetXMLDesc(),
    "agent": lambda c, d: d.hostname(2),
    "agent time": lambda c, d: d.getTime(),
    "filesystems": lambda c, d: d.fsInfo(),
    "job": lambda c, d: d.abortJob(),
    "console": lambda c, d: d.openConsole("none", c.newStream(0)),
    "channel": lambda c, d: d.openChannel("none", c.newStream(0)),
    "screenshot": lambda c, d: d.screenshot(c.newStream(0), 7),
    "lifecycle": lambda c, d: d.setLifecycleAction(99, 0, 2),
    "XML flags": lambda c, d: d.XMLDesc(1 << 20),
    "state flags": lambda c, d: d.state(8),
    "interface": lambda c, d: d.interfaceStats("none"),
    "interface parameters": lambda c, d: d.interfaceParameters("none"),
    "scheduler": lambda c, d: d.setSchedulerParametersFlags({"cpu_shares": 1 << 40}, 2),
    "migrate": lambda c, d: d.migrateToURI3("", {}, 0),
}


def outcome(act: Act, connection: libvirt.virConnect, domain: Any) -> object:
    """The error without uuids, or that there was none."""
    try:
        act(connection, domain)
    except libvirt.libvirtError as error:
        return tuple(UUID.sub("UUID", part) if isinstance(part, str) else part for part in error.err or ())
    return "no error"


@pytest.fixture
def both(cluster: RealCluster, tmp_path: Path) -> Callable[[bool], list[dict[str, object]]]:
    """both(running) gives what each act told at node n1 and at the endpoint."""
    libvirt.registerErrorHandler(lambda *_: None, None)

    def told(uri: str, home: str, running: bool) -> dict[str, object]:
        connection, origin = libvirt.open(uri), libvirt.open(home)
        origin.defineXML(cluster.xml(NAME))
        domain = connection.lookupByName(NAME)
        try:
            if running:
                domain.create()
            acts = OF_DOMAIN | ({} if running else OF_HOST)
            skipped = {"create"} if not running else set()
            return {
                name: outcome(act, connection, domain) for name, act in acts.items() if name not in skipped
            }
        finally:
            if domain.isActive():
                domain.destroy()
            domain.undefine()
            connection.close()
            origin.close()

    def run(running: bool) -> list[dict[str, object]]:
        node = told(cluster.node_uri("n1"), cluster.node_uri("n1"), running)
        eventually(lambda: NAME not in cluster.virsh.names("--all"), 5, "the node's own domain is gone")
        return [node, told(cluster.endpoint, cluster.view_uri("n1"), running)]

    return run


@pytest.mark.parametrize("running", [False, True], ids=["defined", "running"])
def test_errors_are_the_nodes_in_every_part(
    both: Callable[[bool], list[dict[str, object]]], running: bool
) -> None:
    node, endpoint = both(running)
    wrong = [
        f"{name}: {node[name]} at the node, {endpoint[name]}" for name in node if node[name] != endpoint[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_what_a_read_only_connection_is_denied_is_what_a_node_denies(cluster: RealCluster) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    node = libvirt.open(cluster.node_uri("n1"))
    node.defineXML(cluster.xml(NAME))
    told = []
    try:
        for uri in (cluster.node_uri("n1"), cluster.endpoint):
            connection = libvirt.openReadOnly(uri)
            domain = connection.lookupByName(NAME)
            acts = OF_DOMAIN | {
                "define": lambda c, d: c.defineXML("<x/>"),
                "suspend": lambda c, d: d.suspend(),
            }
            acts |= {"autostart": lambda c, d: d.setAutostart(1), "secure": lambda c, d: d.XMLDesc(1)}
            told.append({name: outcome(act, connection, domain) for name, act in acts.items()})
            connection.close()
    finally:
        node.lookupByName(NAME).undefine()
        node.close()
    wrong = [(name, told[0][name], told[1][name]) for name in told[0] if told[0][name] != told[1][name]]
    assert not wrong, "\n".join(map(str, wrong))

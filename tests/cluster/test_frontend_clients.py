"""Stock clients (virsh, libvirt-python) against the front end before two real libvirtds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from clusterhost.service.ports import ClusterEvent
from compat.libvirt import events as wire
from compat.libvirt import messages
from compat.libvirt.schema import EVENTS
from tests.support.direct import Served, served
from tests.support.directnodes import FIRST_ID
from tests.support.libvirtd import PrivateLibvirtd, domain_xml, nodes
from tests.support.rawclient import RawClient
from tests.support.stock import EventLog, Virsh, eventually

pytestmark = pytest.mark.real

GRAPHICS = "<graphics type='vnc' autoport='yes'/><video><model type='vga'/></video>"


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PrivateLibvirtd]]:
    with nodes(tmp_path_factory.mktemp("c"), "n1", "n2") as started:
        yield started


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, daemons: dict[str, PrivateLibvirtd]) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("f") / "f", daemons) as front:
        yield front


@pytest.fixture
def virsh(front: Served) -> Virsh:
    return Virsh(front.uri())


@pytest.fixture
def made(front: Served, virsh: Virsh, tmp_path: Path) -> Iterator[Any]:
    """Defines domains that are gone after the test."""
    names: list[str] = []

    def define(name: str, devices: str = "") -> str:
        virsh.define(domain_xml(name, devices), tmp_path)
        names.append(name)
        return name

    yield define
    for name in names:
        virsh.run("destroy", name)
        virsh.run("undefine", name)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A disk that snapshots can be kept in."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "4M"], check=True, timeout=30)
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
        "<target dev='vda' bus='virtio'/></disk>"
    )


def direct(daemons: dict[str, PrivateLibvirtd], node: str) -> Virsh:
    return Virsh(f"qemu+unix:///system?socket={daemons[node].socket}")


def test_a_domain_is_defined_started_shown_and_removed(virsh: Virsh, front: Served, made: Any) -> None:
    made("web")
    assert virsh("domstate", "web") == "shut off"
    virsh("start", "web")
    assert virsh("domstate", "web") == "running"
    number = int(virsh("domid", "web"))
    assert number >= FIRST_ID
    assert virsh("domname", str(number)) == "web"
    assert f"<domain type='qemu' id='{number}'>" in virsh("dumpxml", "web")
    assert re.search(rf"{number}\s+web\s+running", virsh("list"))
    virsh("suspend", "web")
    assert virsh("domstate", "web", "--reason") == "paused (user)"
    virsh("resume", "web")
    virsh("destroy", "web")
    virsh("undefine", "web")
    assert virsh.fails("dominfo", "web").startswith("error: failed to get domain 'web'")


def test_everything_but_the_id_is_what_the_node_itself_says(
    virsh: Virsh, front: Served, daemons: dict[str, PrivateLibvirtd], made: Any
) -> None:
    made("same", GRAPHICS)
    virsh("start", "same")
    node = direct(daemons, front.cluster.by_name("same").node)
    ours, theirs = virsh("dumpxml", "same"), node("dumpxml", "same")
    assert ours != theirs
    assert re.sub(" id='[0-9]+'", "", ours, count=1) == re.sub(" id='[0-9]+'", "", theirs, count=1)
    assert virsh("dumpxml", "--inactive", "same") == node("dumpxml", "--inactive", "same")
    for command in (
        ("vcpucount", "same"),
        ("domblklist", "same"),
        ("domstate", "same"),
    ):
        assert virsh(*command) == node(*command)


def test_domains_of_all_nodes_are_listed_with_every_filter(
    virsh: Virsh, front: Served, made: Any, disk: str
) -> None:
    for name in ("l1", "l2"):
        made(name)
    made("l3", disk)
    virsh("start", "l1")
    assert len({front.cluster.by_name(name).node for name in ("l1", "l2", "l3")}) == 2
    virsh("autostart", "l2")
    assert virsh.names() == {"l1"}
    assert virsh.names("--all") == {"l1", "l2", "l3"}
    assert virsh.names("--inactive") == {"l2", "l3"}
    assert virsh.names("--all", "--autostart") == {"l2"}
    assert virsh.names("--all", "--no-autostart") == {"l1", "l3"}
    assert virsh.names("--all", "--state-running") == {"l1"}
    assert virsh.names("--all", "--state-shutoff") == {"l2", "l3"}
    assert virsh.names("--all", "--transient") == set()
    assert virsh.names("--all", "--with-managed-save") == set()
    virsh("snapshot-create-as", "l3", "s")
    assert virsh.names("--all", "--with-snapshot") == {"l3"}
    assert virsh.names("--all", "--without-snapshot") == {"l1", "l2"}
    assert virsh.names("--all", "--without-checkpoint", "--persistent") == {"l1", "l2", "l3"}
    virsh("snapshot-delete", "l3", "s")
    views = [Virsh(front.uri(node)).names("--all") for node in ("n1", "n2")]
    assert set.union(*views) == {"l1", "l2", "l3"}
    assert not set.intersection(*views)


def test_the_old_list_calls_agree(front: Served, made: Any, virsh: Virsh) -> None:
    made("o1")
    made("o2")
    virsh("start", "o2")
    connection = libvirt.open(front.uri())
    try:
        assert connection.numOfDomains() == 1
        assert connection.numOfDefinedDomains() == 1
        assert connection.listDefinedDomains() == ["o1"]
        (number,) = connection.listDomainsID()
        assert connection.lookupByID(number).name() == "o2"
    finally:
        connection.close()


def test_what_is_not_built_is_said_in_the_way_that_clients_fall_back_on(front: Served) -> None:
    connection = libvirt.open(front.uri())
    try:
        for call in (connection.listAllInterfaces, connection.listAllDevices, connection.listAllSecrets):
            with pytest.raises(libvirt.libvirtError) as refused:
                call()
            assert refused.value.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT
    finally:
        connection.close()


def test_events_of_objects_that_are_not_built_are_not_supported(front: Served) -> None:
    client = RawClient(front.path)
    for name, domain in (("NODE_DEVICE", 22), ("SECRET", 30)):
        error = client.error(f"remote:CONNECT_{name}_EVENT_REGISTER_ANY", payload=b"\0" * 8)
        assert (error.code, error.domain) == (3, domain)
    client.close()


def test_tcp_on_loopback_works_with_stock_clients(front: Served, made: Any) -> None:
    made("over-tcp")
    host, port = front.front.addresses["tcp"]
    assert Virsh(f"qemu+tcp://{host}:{port}/system").names("--all") == {"over-tcp"}


def test_a_read_only_connection_of_libvirt_python_sees_and_changes_nothing(front: Served, made: Any) -> None:
    made("ro")
    connection = libvirt.openReadOnly(front.uri())
    try:
        domain = connection.lookupByName("ro")
        assert domain.isActive() == 0
        with pytest.raises(libvirt.libvirtError, match="read only access prevents virDomainCreate"):
            domain.create()
        assert [one.name() for one in connection.listAllDomains()] == ["ro"]
    finally:
        connection.close()


def test_statistics_of_all_nodes_are_joined_and_given_domains_alone(virsh: Virsh, made: Any) -> None:
    for name in ("st1", "st2", "st3"):
        made(name)
    virsh("start", "st2")
    everything = virsh("domstats", "--state", "--vcpu")
    assert re.findall(r"Domain: '(\w+)'", everything) == ["st1", "st2", "st3"]
    assert "state.state=1" in everything
    assert re.findall(r"Domain: '(\w+)'", virsh("domstats", "--list-active")) == ["st2"]
    assert re.findall(r"Domain: '(\w+)'", virsh("domstats", "st3", "st1")) == ["st1", "st3"]


def test_statistics_carry_the_clusters_ids(front: Served, made: Any, virsh: Virsh) -> None:
    made("sid")
    virsh("start", "sid")
    client = RawClient(front.path)
    args = messages.RemoteConnectGetAllDomainStatsArgs(doms=[], stats=0, flags=0)
    (record,) = client.ok("remote:CONNECT_GET_ALL_DOMAIN_STATS", args).retStats
    assert record.dom.id == int(virsh("domid", "sid"))
    client.close()


def test_snapshot_handles_carry_the_clusters_id(front: Served, made: Any, virsh: Virsh, disk: str) -> None:
    made("snap", disk)
    virsh("start", "snap")
    client = RawClient(front.path)
    domain = front.cluster.by_name("snap")
    handle = messages.RemoteNonnullDomain("snap", domain.uuid, domain.id)
    client.call("remote:DOMAIN_DESTROY", messages.RemoteDomainDestroyArgs(handle))
    xml = messages.RemoteDomainSnapshotCreateXmlArgs(handle, "<domainsnapshot/>", 0)
    snapshot = client.ok("remote:DOMAIN_SNAPSHOT_CREATE_XML", xml).snap
    assert snapshot.dom.id == -1
    created = client.ok(
        "remote:DOMAIN_CREATE_WITH_FLAGS", messages.RemoteDomainCreateWithFlagsArgs(handle, 0)
    )
    assert created.dom.id == front.cluster.by_name("snap").id >= FIRST_ID
    listed = client.ok(
        "remote:DOMAIN_LIST_ALL_SNAPSHOTS", messages.RemoteDomainListAllSnapshotsArgs(handle, 1, 0)
    )
    assert {one.dom.id for one in listed.snapshots} == {created.dom.id}
    client.ok("remote:DOMAIN_SNAPSHOT_DELETE", messages.RemoteDomainSnapshotDeleteArgs(snapshot, 0))
    client.close()


# -- events


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r"^\S+ \S+: ", "", line) for line in lines]


def test_virsh_event_prints_what_the_nodes_own_socket_prints(
    virsh: Virsh, front: Served, daemons: dict[str, PrivateLibvirtd], made: Any
) -> None:
    made("ev")
    node = front.cluster.by_name("ev").node
    ours = EventLog(front.uri())
    theirs = EventLog(f"qemu+unix:///system?socket={daemons[node].socket}")
    try:
        virsh("start", "ev")
        virsh("suspend", "ev")
        virsh("resume", "ev")
        virsh("desc", "ev", "--live", "--config", "a text")
        virsh("destroy", "ev")
        virsh("undefine", "ev")
        for log in (ours, theirs):
            log.until("Undefined")
        assert "Started Booted" in " ".join(ours.lines)
        assert ours.lines == theirs.lines
        assert len(ours.lines) >= 8
    finally:
        ours.close()
        theirs.close()


def test_a_domain_changed_behind_our_back_is_seen_with_its_events(
    virsh: Virsh, front: Served, daemons: dict[str, PrivateLibvirtd], tmp_path: Path
) -> None:
    log = EventLog(front.uri())
    node = direct(daemons, "n2")
    try:
        node.define(domain_xml("found"), tmp_path)
        eventually(lambda: "found" in virsh.names("--all"), 5, "the domain in the list")
        node("start", "found")
        log.until("'found'.*Started")
        eventually(lambda: virsh("domstate", "found") == "running", 2, "running")
    finally:
        node.run("destroy", "found")
        node.run("undefine", "found")
        log.close()


def register(client: RawClient, number: int, dom: Any = None) -> int:
    args = messages.RemoteConnectDomainEventCallbackRegisterAnyArgs(eventID=number, dom=dom)
    callback: int = client.ok("remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", args).callbackID
    return callback


def test_each_registration_gets_its_own_message_with_its_own_id(
    front: Served, made: Any, virsh: Virsh
) -> None:
    made("r1")
    made("r2")
    uuid = front.cluster.by_name("r1").uuid
    client = RawClient(front.path)
    everyone = register(client, 0)
    only = register(client, 0, messages.RemoteNonnullDomain("r1", uuid, -1))
    assert everyone != only
    twice = messages.RemoteConnectDomainEventCallbackRegisterAnyArgs(eventID=0, dom=None)
    error = client.error("remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", twice)
    assert (error.code, error.message) == (8, "invalid argument: event callback already tracked")
    unknown = messages.RemoteConnectDomainEventCallbackRegisterAnyArgs(eventID=28, dom=None)
    error = client.error("remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", unknown)
    assert (error.code, error.message) == (1, "internal error: unsupported event ID 28")
    virsh("start", "r1")
    virsh("start", "r2")
    virsh("destroy", "r1")
    client.ok("remote:CONNECT_GET_TYPE")
    found = [
        messages.RemoteDomainEventCallbackLifecycleMsg.from_bytes(event.payload)
        for event in client.seen
        if isinstance(event, wire.Message)
    ]
    assert {(one.callbackID, one.msg.dom.name) for one in found} == {
        (everyone, "r1"),
        (everyone, "r2"),
        (only, "r1"),
    }
    deregister = messages.RemoteConnectDomainEventCallbackDeregisterAnyArgs(everyone)
    client.ok("remote:CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", deregister)
    error = client.error("remote:CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", deregister)
    assert error.message == f"internal error: domain event callback {everyone} not registered"
    client.close()


def test_events_come_before_the_reply_of_what_caused_them(front: Served, made: Any) -> None:
    made("order")
    domain = front.cluster.by_name("order")
    handle = messages.RemoteNonnullDomain("order", domain.uuid, -1)
    client = RawClient(front.path)
    register(client, 0)
    for name, count in (
        ("remote:DOMAIN_CREATE", 2),
        ("remote:DOMAIN_SUSPEND", 1),
        ("remote:DOMAIN_DESTROY", 1),
    ):
        client.seen.clear()
        reply = client.until_reply(client.send(name, messages.RemoteDomainCreateArgs(handle)))
        assert reply.ok
        before = [event for event in client.seen if isinstance(event, wire.Message)]
        assert len(before) >= count, name
    client.close()


def test_the_old_form_has_no_callback_id_and_numbers_of_its_own(
    front: Served, made: Any, virsh: Virsh
) -> None:
    made("old")
    client = RawClient(front.path)
    assert client.ok("remote:CONNECT_DOMAIN_EVENT_REGISTER").cb_registered == 0
    for number in range(1, 16):
        client.ok(
            "remote:CONNECT_DOMAIN_EVENT_REGISTER_ANY",
            messages.RemoteConnectDomainEventRegisterAnyArgs(number),
        )
    too_new = messages.RemoteConnectDomainEventRegisterAnyArgs(16)
    assert client.error("remote:CONNECT_DOMAIN_EVENT_REGISTER_ANY", too_new).code == 1
    virsh("start", "old")
    client.ok("remote:CONNECT_GET_TYPE")
    first = next(event for event in client.seen if isinstance(event, wire.Message))
    assert first.procedure == EVENTS["domain"].events[0].legacy_number
    assert messages.RemoteDomainEventLifecycleMsg.from_bytes(first.payload).dom.name == "old"
    client.ok("remote:CONNECT_DOMAIN_EVENT_DEREGISTER")
    client.close()


def test_a_view_gets_only_the_events_of_its_node(front: Served, made: Any, virsh: Virsh) -> None:
    made("v1")
    made("v2")
    where = {front.cluster.by_name(name).node: name for name in ("v1", "v2")}
    assert set(where) == {"n1", "n2"}
    client = RawClient(front.path, name="qemu:///system?node=n1")
    register(client, 0)
    virsh("start", "v1")
    virsh("start", "v2")
    client.ok("remote:CONNECT_GET_URI")
    names = {
        messages.RemoteDomainEventCallbackLifecycleMsg.from_bytes(event.payload).msg.dom.name
        for event in client.seen
        if isinstance(event, wire.Message)
    }
    assert names == {where["n1"]}
    client.close()


def test_all_event_ids_can_be_registered_at_once(front: Served) -> None:
    client = RawClient(front.path)
    assert len({register(client, number) for number in range(28)}) == 28
    client.close()


def test_monitor_events_are_asked_of_the_nodes_only_while_somebody_listens(front: Served) -> None:
    client = RawClient(front.path)
    asked = front.nodes.monitor_wanted
    asked.clear()
    args = messages.QemuConnectDomainMonitorEventRegisterArgs(dom=None, event="STOP", flags=0)
    first = client.ok("qemu:CONNECT_DOMAIN_MONITOR_EVENT_REGISTER", args).callbackID
    bad = messages.QemuConnectDomainMonitorEventRegisterArgs(dom=None, event="(", flags=1)
    assert client.error("qemu:CONNECT_DOMAIN_MONITOR_EVENT_REGISTER", bad).code == 8
    assert asked == [True]
    body = messages.QemuDomainMonitorEventMsg(
        callbackID=0,
        dom=messages.RemoteNonnullDomain("x", b"u" * 16, 5),
        event="STOP",
        seconds=1,
        micros=2,
        details=None,
    )

    async def publish(name: str) -> None:
        message = messages.QemuDomainMonitorEventMsg(0, body.dom, name, 1, 2, None).to_bytes()
        front.bus.publish(ClusterEvent(0x20008087, 6, message, b"u" * 16, "n1"))

    front.run(publish("RESUME"))
    front.run(publish("STOP"))
    got = client.until(lambda event: isinstance(event, wire.Message))
    assert messages.QemuDomainMonitorEventMsg.from_bytes(got.payload) == messages.QemuDomainMonitorEventMsg(
        first, body.dom, "STOP", 1, 2, None
    )
    client.close()
    eventually(lambda: asked == [True, False], 5, "monitor events switched off")

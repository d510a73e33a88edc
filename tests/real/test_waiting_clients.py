"""Clients that are not to wait, and those that are: after a restart of the front end, and while a node is away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from clusterhost.demo import cluster as demo
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from tests.support.rawclient import RawClient
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]
RESTARTS = 5
POLL = 1.0
"""Seconds that a call of a client that polls may take while it is known that a node is away."""
FRONT = ("front", "front-end")


def one_on_each(cluster: RealCluster, make: Make, prefix: str) -> dict[str, str]:
    """node -> a running domain there."""
    found = {cluster.owner(name): name for name in [make(f"{prefix}{n}", start=True) for n in range(3)]}
    assert set(found) == set(cluster.nodes)
    return found


@contextlib.contextmanager
def powered_off(cluster: RealCluster, node: str) -> Iterator[None]:
    """The node is off inside the block, and it is known."""
    demo.power_cut(cluster.state, node)
    try:
        eventually(lambda: link(cluster, node) == "out-of-reach", 8, f"{node} is missed")
        yield
    finally:
        demo.power_on(cluster.state, node)
        eventually(lambda: link(cluster, node) == "up", 30, f"{node} is back")


def link(cluster: RealCluster, node: str) -> str:
    """What the front end knows of the node."""
    with contextlib.suppress(OSError):
        return next(str(row["link"]) for row in demo.ask(cluster.state, "node.list") if row["name"] == node)
    return ""


def connected(cluster: RealCluster) -> libvirt.virConnect:
    """The first connection that the new front end takes."""
    end = time.monotonic() + 20
    path = cluster.state / "front" / "libvirt-sock"
    while True:
        try:
            if path.exists():
                return libvirt.open(cluster.endpoint)
        except libvirt.libvirtError:
            pass  # it does not listen yet
        assert time.monotonic() < end
        time.sleep(0.005)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Result or error, and seconds."""
    began = time.monotonic()
    try:
        found = call()
    except libvirt.libvirtError as error:
        found = error
    return found, time.monotonic() - began


def at_once(cluster: RealCluster, connection: libvirt.virConnect, names: list[str], turn: int) -> list[Any]:
    """What cannot be answered before the nodes are there; another call is the first each time."""
    calls: list[Callable[[], Any]] = [
        *(lambda name=name: connection.lookupByName(name).info() for name in names),
        connection.getInfo,
        lambda: connection.getAllDomainStats(0, 0),
        lambda: connection.defineXML(cluster.xml(f"quick{turn}")),
    ]
    return [call() for call in calls[turn:] + calls[:turn]]


@pytest.mark.timeout(180)
def test_calls_right_after_a_restart_wait_for_the_nodes(cluster: RealCluster, make: Make) -> None:
    names = list(one_on_each(cluster, make, "soon").values())
    for turn in range(RESTARTS):
        demo.stop_service(cluster.state, *FRONT)
        demo.start_service(cluster.state, *FRONT)
        connection = connected(cluster)
        found, listed = timed(lambda: {domain.name() for domain in connection.listAllDomains()})  # noqa: B023
        answers, seconds = timed(lambda: at_once(cluster, connection, names, turn))  # noqa: B023
        assert isinstance(answers, list), f"{answers} after {seconds:.3f} s, list {listed:.3f} s"
        print(f"list {listed:.3f} s, {len(answers)} calls {seconds:.3f} s")
        connection.lookupByName(f"quick{turn}").undefine()
        assert found == set(names)
        assert all(answers)
        assert listed < POLL
        assert len(connection.getAllDomainStats(0, 0)) == 3
        connection.close()


@pytest.mark.timeout(180)
def test_calls_to_a_node_that_was_away_fail_at_once_after_a_restart(cluster: RealCluster, make: Make) -> None:
    domains = one_on_each(cluster, make, "gone")
    with powered_off(cluster, "n3"):
        demo.stop_service(cluster.state, *FRONT)
        demo.start_service(cluster.state, *FRONT)
        connection = connected(cluster)
        found, seconds = timed(connection.lookupByName(domains["n3"]).info)
        assert isinstance(found, libvirt.libvirtError)
        assert "n3" in str(found)
        assert seconds < POLL
        assert connection.lookupByName(domains["n1"]).info()[0] == libvirt.VIR_DOMAIN_RUNNING
        connection.close()


def looked_at(domain: libvirt.virDomain) -> dict[str, Any]:
    """What virt-manager asks of a domain that it found in a list; each answer comes at once."""
    secure, inactive = libvirt.VIR_DOMAIN_XML_SECURE, libvirt.VIR_DOMAIN_XML_INACTIVE
    calls: dict[str, Callable[[], Any]] = {
        "state": domain.state,
        "info": domain.info,
        "live": lambda: domain.XMLDesc(secure),
        "definition": lambda: domain.XMLDesc(secure | inactive),
        "public": lambda: domain.XMLDesc(inactive),
        "active": domain.isActive,
        "persistent": domain.isPersistent,
        "saved": domain.hasManagedSaveImage,
        "snapshots": domain.listAllSnapshots,
    }
    found = {}
    for what, call in calls.items():
        found[what], seconds = timed(call)
        assert seconds < POLL, f"{what} took {seconds} s"
    return found


def polls(connection: libvirt.virConnect) -> None:
    """What it asks every three seconds."""
    for call in (connection.getInfo, connection.getAllDomainStats, connection.listAllDomains):
        answer, seconds = timed(call)
        assert not isinstance(answer, libvirt.libvirtError), answer
        assert seconds < POLL


@pytest.mark.timeout(180)
def test_a_client_that_polls_shows_all_domains_while_a_node_is_away(cluster: RealCluster, make: Make) -> None:
    domains = one_on_each(cluster, make, "poll")
    early = libvirt.open(cluster.endpoint)
    listed = early.listAllDomains()
    whole = {domain.name(): looked_at(domain) for domain in listed}
    with powered_off(cluster, "n2"):
        late = libvirt.open(cluster.endpoint)
        for connection, shown in ((early, listed), (late, late.listAllDomains())):
            for domain in shown:
                name, now = domain.name(), looked_at(domain)
                lost = name == domains["n2"]
                wanted = libvirt.VIR_DOMAIN_NOSTATE if lost else libvirt.VIR_DOMAIN_RUNNING
                assert now["state"][0] == now["info"][0] == wanted
                assert now["info"][1:4] == whole[name]["info"][1:4]
                assert now["definition"] == whole[name]["definition"]
                assert now["public"] == whole[name]["public"]
                assert f"<name>{name}</name>" in now["live"]
                assert [now[what] for what in ("active", "persistent", "saved")] == [1, 1, 0]
                assert isinstance(now["snapshots"], libvirt.libvirtError) == lost
            polls(connection)
            asked_for = connection.lookupByName(domains["n2"])
            for what, answer in looked_at(asked_for).items():
                assert "n2" in str(answer), what
        assert "no state" in cluster.virsh("list", "--all")
        late.close()
    early.close()


def test_clients_that_say_nothing_are_not_counted_where_nobody_authenticates(cluster: RealCluster) -> None:
    """libvirtd's max_anonymous_clients (20) counts those that have to authenticate and have not."""
    for path in (cluster.state / "nodes/n1/run/libvirt/libvirt-sock", cluster.state / "front/libvirt-sock"):
        with contextlib.ExitStack() as idle:
            for _ in range(30):
                idle.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
            connection = libvirt.open(f"qemu+unix:///system?socket={path}")
            assert connection.getHostname()
            connection.close()


def pipelined(cluster: RealCluster, name: str, count: int, uuid: bytes) -> RawClient:
    """A client that has sent so many calls about a domain, and reads nothing."""
    client = RawClient(cluster.state / "front" / "libvirt-sock")
    procedure = BY_NAME[f"remote:{name}"]
    assert procedure.args is not None
    for _ in range(count):
        client.send(procedure.full_name, procedure.args(dom=messages.RemoteNonnullDomain("", uuid, -1)))
    return client


@pytest.mark.timeout(60)
def test_a_call_that_waits_for_libvirtd_goes_with_its_client(cluster: RealCluster, make: Make) -> None:
    name = make("leaver", start=True)
    node = cluster.owner(name)
    uuid = libvirt.open(cluster.endpoint).lookupByName(name).UUID()
    pid = demo.service_pid(cluster.state, node, "libvirtd")
    assert pid is not None
    with contextlib.ExitStack() as clients:
        os.kill(pid, signal.SIGSTOP)
        try:
            # More than may be at libvirtd at once, five of each client; the connections for them are there.
            for _ in range(6):
                clients.callback(pipelined(cluster, "DOMAIN_GET_OS_TYPE", 5, uuid).close)
            time.sleep(0.3)
            leaving = pipelined(cluster, "DOMAIN_SUSPEND", 1, uuid)
            staying = pipelined(cluster, "DOMAIN_GET_MAX_MEMORY", 1, uuid)
            clients.callback(staying.close)
            time.sleep(0.3)
            leaving.close()
            time.sleep(0.3)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert staying.until_reply(2).ok
    assert cluster.node(node)("domstate", name) == "running"
    assert cluster.virsh("domstate", name) == "running"

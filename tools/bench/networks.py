"""Networks that span hosts: throughput, DHCP, how long they take to make, what a guest's change costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import layout, node_address
from tools.bench import guests, simulated
from tools.bench.measure import Limit, Result
from tools.bench.scene import Scene, SceneFailed, until
from tools.bench.spaces import Space, hand_made, on, plugged

THROUGHPUT, DHCP, DEFINE, DEFINE_MANY, CHANGE, ENTRIES = 0.9, 1.2, 0.5, 3.0, 1.5, 1.0
NODES, MANY_NODES = 3, 100
FEW, MANY = 10, 1000
ROUNDS = 5
SENDS, SEND_SECONDS = 16, 0.5
DHCP_ROUNDS = 60
SETTLE_SECONDS = 0.5
"""What is gone has every dnsmasq read its files again, beside whatever comes next."""
NAME, BRIDGE = "bench", "bench0"
MACS = ("02:00:0a:58:00:0b", "02:00:0a:58:00:0c")
"""Of the addresses ADDRESSES, so that they are given to them."""
ADDRESSES = ("10.88.0.11", "10.88.0.12")
OWN_MACS, OWN_ADDRESSES = ("02:00:0a:59:00:0b", "02:00:0a:59:00:0c"), ("10.89.0.11", "10.89.0.12")

_XML = (
    "<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/>"
    "<ip address='{net}.0.1' prefix='16'><dhcp>{hosts}"
    "<range start='{net}.0.10' end='{net}.0.99'/></dhcp></ip></network>"
)
_INTERFACE = (
    "<interface type='{kind}'><source {kind}='{source}'/><mac address='{mac}'/><model type='virtio'/>"
    "</interface>"
)


@dataclass(frozen=True)
class Node:
    """pid: of its first process."""

    name: str
    pid: int
    uri: str

    @property
    def address(self) -> str:
        return node_address(self.name)


def all_cases() -> Iterator[tuple[str, str, Callable[[Scene], Result | Limit]]]:
    """Name, group, and what measures."""
    yield OVER_NODES, "network", between_namespaces
    yield OVER_GUESTS, "network", between_guests
    yield LEASE, "network", lease
    yield MADE, "network", made
    yield MADE_MANY, "network", made_on_many
    yield CHANGED, "network", change
    yield TOUCHED, "network", touched


OVER_NODES = "network: TCP between nodes' namespaces, against a hand-made VXLAN"
OVER_GUESTS = "network: TCP between guests on two nodes, against a hand-made VXLAN"
LEASE = "network: DHCP, DISCOVER to ACK, against libvirt's own"
MADE = f"network: define and start on {NODES} nodes"
MADE_MANY = f"network: define and start on {MANY_NODES} simulated nodes"
CHANGED = f"network: a guest defined and undefined, {FEW} guests against {MANY:,}"
TOUCHED = f"network: entries and files at a node for that guest, {FEW} guests against {MANY:,}"


# ---- throughput -------------------------------------------------------------------------------------------


def between_namespaces(scene: Scene) -> Result:
    """Guests that never run hold the MACs, so that nodes know where these are; namespaces use them."""
    one, two = _nodes(scene)[:2]
    with ExitStack() as undo:
        undo.enter_context(_network(scene, NAME, "10.88"))
        mtu = _mtu(one)
        for node, mac in zip((one, two), MACS, strict=True):
            undo.enter_context(_guest(node, scene, f"bench-mac-{node.name}", (_nic(NAME, mac),), paused=True))
        until(lambda: all(_knows(node, mac) for node, mac in ((one, MACS[1]), (two, MACS[0]))), "MACs known")
        bridge = undo.enter_context(hand_made(((one.pid, one.address), (two.pid, two.address)), mtu))
        ours = _pair(undo, (one, two), BRIDGE, MACS, ADDRESSES, mtu)
        own = _pair(undo, (one, two), bridge, OWN_MACS, OWN_ADDRESSES, mtu)
        ours[1]("sink"), own[1]("sink")
        rates: tuple[list[float], list[float]] = ([], [])
        for number in range(SENDS):
            for side in ((0, 1), (1, 0))[number % 2]:
                spaces, address = ((own, OWN_ADDRESSES[1]), (ours, ADDRESSES[1]))[side]
                spaces[0]("send", address, SEND_SECONDS)
                rates[side].append(spaces[1]("rate") / 1e6)
    direct, cluster = map(statistics.median, rates)
    return Result(OVER_NODES, "network", "MB/s", direct, cluster, THROUGHPUT, True)


def _pair(
    undo: ExitStack,
    nodes: tuple[Node, Node],
    bridge: str,
    macs: tuple[str, str],
    addresses: tuple[str, str],
    mtu: int,
) -> list[Space]:
    return [
        undo.enter_context(plugged(node.pid, bridge, mac, f"{address}/24", mtu))
        for node, mac, address in zip(nodes, macs, addresses, strict=True)
    ]


def between_guests(scene: Scene) -> Result:
    """Two running guests with a link in either network."""
    one, two = _nodes(scene)[:2]
    with ExitStack() as undo:
        undo.enter_context(_network(scene, NAME, "10.88"))
        mtu = _mtu(one)
        bridge = undo.enter_context(hand_made(((one.pid, one.address), (two.pid, two.address)), mtu))
        client, server = (
            undo.enter_context(
                _guest(node, scene, f"bench-tcp-{node.name}", (_nic(NAME, mac), _nic(bridge, own, "bridge")))
            )
            for node, mac, own in zip((one, two), MACS, OWN_MACS, strict=True)
        )
        for guest, addresses in zip(
            (client, server), zip(ADDRESSES, OWN_ADDRESSES, strict=True), strict=True
        ):
            guests.linked(guest, addresses, mtu)
        guests.serves(server)
        cluster, direct = guests.rates(client, (ADDRESSES[1], OWN_ADDRESSES[1]))
    return Result(
        OVER_GUESTS,
        "network",
        "MB/s",
        statistics.median(direct) / 1e6,
        statistics.median(cluster) / 1e6,
        THROUGHPUT,
        True,
    )


# ---- DHCP -------------------------------------------------------------------------------------------------


def lease(scene: Scene) -> Result:
    """The same client on the same node, in a network of the cluster and in one that its libvirtd makes itself."""
    node = _nodes(scene)[0]
    mac, own_mac = MACS[0], OWN_MACS[0]
    with ExitStack() as undo:
        undo.enter_context(_network(scene, NAME, "10.88", _host(mac, ADDRESSES[0])))
        xml = _XML.format(name="own", bridge="benchown", net="10.90", hosts=_host(own_mac, "10.90.0.11"))
        connection = libvirt.open(node.uri)
        undo.callback(connection.close)
        network = connection.networkCreateXML(xml)
        undo.callback(network.destroy)
        own = undo.enter_context(plugged(node.pid, "benchown", own_mac))
        ours = undo.enter_context(plugged(node.pid, BRIDGE, mac))
        own("dhcp", own.link, own_mac), ours("dhcp", ours.link, mac)
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(DHCP_ROUNDS):
            for side in ((0, 1), (1, 0))[number % 2]:
                space, which = ((own, own_mac), (ours, mac))[side]
                times[side].append(space("dhcp", space.link, which) * 1e6)
    direct, cluster = map(statistics.median, times)
    return Result(LEASE, "network", "µs", direct, cluster, DHCP)


# ---- making -----------------------------------------------------------------------------------------------


def made(scene: Scene) -> Limit:
    """Until libvirt's call is back, which is when all nodes have said that they have it."""
    connections = [libvirt.open(uri) for uri in scene.node_uris]
    taken = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        with _network(scene, f"bench-made-{number}", f"10.{100 + number}"):
            taken.append(time.perf_counter() - began)
            if not all(each.networkLookupByName(f"bench-made-{number}").isActive() for each in connections):
                raise SceneFailed("a node has not the network that it said it had")
    for connection in connections:
        connection.close()
    return Limit(MADE, "network", "s", statistics.median(taken), DEFINE)


def made_on_many(scene: Scene) -> Limit:
    """Each simulated node answers after the time that the three real ones took together."""
    seconds = simulated.seconds_on(MANY_NODES, made(scene).value)
    return Limit(MADE_MANY, "network", "s", seconds, DEFINE_MANY)


# ---- one guest's change -----------------------------------------------------------------------------------


def change(scene: Scene) -> Result:
    """Time until every node knows a guest that was defined, and has forgotten one that was undefined."""
    few, many = (_changes(scene, count).seconds * 1e3 for count in (FEW, MANY))
    return Result(CHANGED, "network", "ms", few, many, CHANGE)


def touched(scene: Scene) -> Result:
    """Entries of the kernel and files of the server that change at a node, and no server is started anew."""
    few, many = (_changes(scene, count).touched for count in (FEW, MANY))
    return Result(TOUCHED, "network", "", few, many, ENTRIES)


@dataclass(frozen=True)
class _Cost:
    seconds: float
    touched: float


def _changes(scene: Scene, count: int) -> _Cost:
    nodes = _nodes(scene)
    hosts = "".join(_host(_mac(number), _address(number)) for number in range(count))
    with ExitStack() as undo:
        uuid = undo.enter_context(_network(scene, NAME, "10.88", hosts))
        servers = [layout(scene.state).machine(node.name) / "agent" / "dnsmasq" / uuid for node in nodes]
        until(lambda: all(len(_files(server)) >= count for server in servers), "nodes know all guests")
        pids = [(server / "pid").read_text() for server in servers]
        watching = [undo.enter_context(_news(node)) for node in nodes]
        files, taken = 0, []
        for number in range(ROUNDS):
            xml = scene.guest.domain_xml(f"bench-change-{number}", devices=_nic(NAME, MACS[0]))
            began = time.perf_counter()
            domain = scene.cluster.defineXML(xml)
            _poll(lambda: all(map(_has_guest, servers)))
            domain.undefine()
            _poll(lambda: not any(map(_has_guest, servers)))
            taken.append(time.perf_counter() - began)
            time.sleep(SETTLE_SECONDS)
        before = [_files(server) for server in servers]
        domain = scene.cluster.defineXML(xml)
        _poll(lambda: all(map(_has_guest, servers)))
        for server, old in zip(servers, before, strict=True):
            files += len({*_files(server).items()} ^ {*old.items()})
        domain.undefine()
        # Its place is told when it runs.
        domain = scene.cluster.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        until(lambda: sum(_knows(node, MACS[0]) for node in nodes) == len(nodes) - 1, "nodes know its place")
        domain.destroy()
        until(lambda: not any(_knows(node, MACS[0]) for node in nodes), "nodes forget its place")
        if pids != [(server / "pid").read_text() for server in servers]:
            raise SceneFailed("a DHCP server was started anew for one guest")
        entries = sum(len(found) for found in watching)
    return _Cost(statistics.median(taken), entries / len(nodes) + files / len(nodes))


def _has_guest(server: Path) -> bool:
    return (server / f"dhcp.d/{MACS[0].replace(':', '-')}").exists()


def _poll(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        if time.monotonic() > deadline:
            raise SceneFailed("nodes did not follow a guest's change within 20 s")
        time.sleep(0.002)


def _files(server: Path) -> dict[str, int]:
    """Host files, with what changes when they are replaced."""
    found: dict[str, int] = {}
    for part in ("dhcp.d", "names.d"):
        with suppress(FileNotFoundError), os.scandir(server / part) as entries:
            found |= {f"{part}/{entry.name}": entry.inode() for entry in entries if entry.name[0] != "."}
    return found


@contextmanager
def _news(node: Node) -> Iterator[list[str]]:
    """Forwarding and neighbour entries of the network that change at a node, as the kernel tells them."""
    words = ["nsenter", "-t", str(node.pid), "-n", "bridge", "monitor", "fdb"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    found: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        found.extend(line for line in process.stdout if MACS[0] in line and " ch" in line)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join()


# ---- what they are made of --------------------------------------------------------------------------------


def _nodes(scene: Scene) -> list[Node]:
    facts = demo.status(scene.state)
    return [Node(fact.name, fact.pid, fact.uri) for fact in facts if fact.pid is not None]


@contextmanager
def _network(scene: Scene, name: str, net: str, hosts: str = "") -> Iterator[str]:
    """A network of the cluster, defined and started; its uuid."""
    bridge = BRIDGE if name == NAME else name[-8:]
    xml = _XML.format(name=name, bridge=bridge, net=net, hosts=hosts)
    network = scene.cluster.networkDefineXML(xml)
    try:
        network.create()
        yield network.UUIDString()
    finally:
        if network.isActive():
            network.destroy()
        network.undefine()


@contextmanager
def _guest(
    node: Node, scene: Scene, name: str, nics: tuple[str, ...], *, paused: bool = False
) -> Iterator[libvirt.virDomain]:
    """A guest on that node, as its own libvirtd has it."""
    view = libvirt.open(f"{scene.endpoint}&node={node.name}")
    direct = libvirt.open(node.uri)
    flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
    domain = view.createXML(scene.xml(name, devices="".join(nics)), flags)
    try:
        yield direct.lookupByName(name)
    finally:
        domain.destroy()
        del domain
        view.close()


def _nic(source: str, mac: str, kind: str = "network") -> str:
    return _INTERFACE.format(kind=kind, source=source, mac=mac)


def _host(mac: str, address: str) -> str:
    return f"<host mac='{mac}' ip='{address}'/>"


def _mac(number: int) -> str:
    return f"02:00:0a:58:{1 + (number >> 8):02x}:{number & 255:02x}"


def _address(number: int) -> str:
    return f"10.88.{1 + (number >> 8)}.{number & 255}"


def _mtu(node: Node) -> int:
    return int(on(node.pid, "sh", "-c", f"ip -o link show {BRIDGE} | sed 's/.* mtu \\([0-9]*\\).*/\\1/'"))


def _knows(node: Node, mac: str) -> bool:
    """The overlay's table has the MAC."""
    return f"{mac} dev ch" in on(node.pid, "bridge", "fdb")

"""`network trace` names what was broken on a node, and `network diagram` shows the cluster that runs."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from clusterhost.demo.layout import FRONT_ADDRESS, layout, node_address
from netmgr.svg import NAMESPACE
from tests.real.conftest import RealCluster
from tests.support.command import Command
from tests.support.realnets import ISOLATED, NAT, Guests, Net
from tests.support.stock import eventually

pytestmark = pytest.mark.timeout(240)

ROUTED = NAT.replace("'nat'", "'route'")


def processes(words: str, of: Path) -> list[int]:
    """Pids of processes with these words and that path on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and str(of) in line:
            found.append(int(path.parent.name))
    return found


@contextmanager
def halted(words: str, of: Path) -> Iterator[None]:
    """They stand still, so nothing is mended and nothing answers."""
    pids = processes(words, of)
    assert pids, f"no process {words} of {of}"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Tracer:
    """`network trace` as a program reads it."""

    def __init__(self, command: Command) -> None:
        self.command = command

    def __call__(self, *words: str) -> dict[str, Any]:
        outcome = self.command.run("network", "trace", *words, "--format", "json")
        assert outcome.code in (0, 1), outcome.err
        answer: dict[str, Any] = json.loads(outcome.out)
        assert outcome.code == (0 if answer["whole"] else 1)
        return answer

    def end(self, *words: str) -> str:
        return str(self(*words)["end"])

    def becomes_whole(self, *words: str, seconds: float) -> None:
        eventually(lambda: self(*words)["whole"], seconds, "the way is whole")


def tap(net: Net, guest: str) -> str:
    found = re.search(r"vnet\d+", net.cluster.virsh("domiflist", guest))
    assert found is not None
    return found[0]


def spoils(net: Net, mac: str) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], str]]:
    """Words of a command on n2 that breaks a part, of one that mends it, and how the trace ends then."""
    link, overlay, place = tap(net, "g2"), f"ch{net.vni:x}", node_address("n1")
    everyone = ("00:00:00:00:00:00", "dev", overlay, "dst", place)
    table = ("inet", "cut")
    ip, bridge = ("ip", "link", "set"), ("bridge", "fdb")
    yield "tap", (*ip, link, "down"), (*ip, link, "up"), f"it stops at the tap at n2: {link} is down"
    yield (
        "port",
        (*ip, link, "nomaster"),
        (*ip, link, "master", net.bridge),
        f"it stops at the port at n2: {link} is a port of no bridge, not of {net.bridge}",
    )
    yield (
        "bridge",
        (*ip, net.bridge, "down"),
        (*ip, net.bridge, "up"),
        f"it stops at the bridge at n2: {net.bridge} is down",
    )
    yield (
        "entry for all",
        (*bridge, "del", *everyone),
        (*bridge, "append", *everyone, "self", "permanent"),
        "it stops at the crossing: no frame came from n2 to n1",
    )
    yield (
        "entry",
        (*bridge, "replace", mac, "dev", overlay, "dst", "10.111.0.99", "self", "permanent"),
        (*bridge, "replace", mac, "dev", overlay, "dst", place, "self", "permanent"),
        f"it stops at the entry at n2: frames for {mac} go to 10.111.0.99, the guest is at {place}",
    )
    chain = "{ type filter hook input priority 0; udp dport 4789 drop\n }\n"
    yield (
        "underlay",
        ("nft", f"table {' '.join(table)} {{ chain in {chain} }}"),
        ("nft", "delete", "table", *table),
        "it stops at the crossing: no frame came from n1 to n2",
    )
    chain = "{ type filter hook forward priority 0; policy drop\n }\n"
    yield (
        "other rules",
        ("nft", f"table bridge own {{ chain out {chain} }}"),
        ("nft", "delete", "table", "bridge", "own"),
        "it is not known at the other rules at n2: bridge own out: drops what its rules do not accept",
    )


def test_a_trace_between_two_nodes_is_whole_and_names_each_part_that_was_broken(
    network: Callable[..., Net], guests: Guests, command: Command
) -> None:
    blue, trace = network("blue", 1), Tracer(command)
    address = guests.start("n1", "g1", blue)
    guests.start("n2", "g2", blue)
    trace.becomes_whole("g1", "g2", "--probe", seconds=60)
    answer = trace("g1", "g2", "--probe")
    assert answer["source"]["addresses"] == [address]
    assert {hop["state"] for hop in answer["hops"]} == {"ok"}
    assert trace(f"g1:{answer['source']['mac']}", guests.address("g2"))["target"]["domain"] == "g2"
    agent = layout(blue.cluster.state).machine("n2") / "agent"
    with halted("netmgr.apply.worker", agent):
        for name, break_it, mend_it, end in spoils(blue, answer["source"]["mac"]):
            blue.inside("n2", *break_it)
            assert trace.end("g1", "g2").startswith(end), name
            blue.inside("n2", *mend_it)
        assert trace("g1", "g2")["whole"], trace.end("g1", "g2")
        blue.inside("n2", "nft", "delete", "table", "bridge", f"clusterhost-{blue.bridge}")
        end = trace.end("g1", "g2")
        assert re.fullmatch(r"the way is whole, but not all as it shall be: .*\brules at n2", end), end
        blue.inside("n2", "nft", "insert", "rule", "inet", f"clusterhost-{blue.bridge}", "forward", "drop")
        blue.inside("n2", "ip", "link", "del", blue.bridge)
        assert trace.end("g1", "g2") == f"it stops at the bridge at n2: there is no link {blue.bridge}"
    trace.becomes_whole("g1", "g2", seconds=20)


def test_a_trace_says_which_network_keeps_guests_apart_and_how_one_gets_out(
    network: Callable[..., Net], guests: Guests, command: Command
) -> None:
    blue, red, own = network("blue", 1), network("red", 2, ROUTED), network("own", 3, ISOLATED)
    trace = Tracer(command)
    guests.start("n1", "g1", blue)
    guests.start("n1", "g2", red)
    guests.start("n2", "g3", own)
    assert trace("g1", "g2")["whole"], trace.end("g1", "g2")
    assert trace.end("g2", "g1") == (
        "it stops at the isolation at n1: network blue is behind NAT: only answers come in"
    )
    assert "network own is isolated" in trace.end("g1", "g3")
    for end in ("gateway", FRONT_ADDRESS):
        assert trace("g1", end)["whole"], trace.end("g1", end)
    assert "network own is isolated" in trace.end("g3", FRONT_ADDRESS)
    with halted("netmgr.apply.worker", layout(blue.cluster.state).machine("n1") / "agent"):
        blue.inside("n1", "nft", "delete", "table", "inet", f"clusterhost-{blue.bridge}")
        end = f"it stops at the rules at n1: no table clusterhost-{blue.bridge} in inet"
        assert trace.end("g1", FRONT_ADDRESS) == end
    guests.cluster.virsh("destroy", "g2")
    assert "domain g2 is not running" in trace.end("g1", "g2")


def test_a_trace_to_a_node_that_is_away_says_so_and_what_else_is_known(
    network: Callable[..., Net], guests: Guests, command: Command
) -> None:
    blue, trace = network("blue", 1), Tracer(command)
    guests.start("n1", "g1", blue)
    guests.start("n2", "g2", blue)
    with halted("clusterhost", layout(blue.cluster.state).machine("n2") / "agent"):
        eventually(lambda: command.node("n2")["link"] == "out-of-reach", 20, "n2 is out of reach")
        answer = trace("g1", "g2")
        assert "node n2 is out of reach since" in answer["end"]
        states = {(hop["node"], hop["part"]): hop["state"] for hop in answer["hops"]}
        assert (states["n1", "entry"], states["n2", "bridge"]) == ("ok", "not known")
    eventually(lambda: command.node("n2")["link"] == "up", 20, "n2 is back")
    trace.becomes_whole("g1", "g2", seconds=20)


def test_what_cannot_be_traced_is_refused_with_a_sentence(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, command: Command, tmp_path: Path
) -> None:
    blue = network("blue", 1)
    guests.start("n1", "g1", blue)
    cluster.place("n1", "alone", tmp_path)
    assert command.fails("network", "trace", "g1", "nobody")[0] == 3
    for source, target, said in (
        ("g1", "alone", "domain alone has no interface on a network of the cluster"),
        ("g1", f"{blue.net}.140", f"no guest has address {blue.net}.140 of network blue"),
        ("g1", "g1", "a trace goes from one interface to another one"),
        ("g1:02:00:00:00:00:09", "gateway", "has no interface with MAC 02:00:00:00:00:09"),
    ):
        code, sentence = command.fails("network", "trace", source, target)
        assert (code, said in sentence) == (2, True), sentence


def test_the_diagram_of_the_running_cluster_holds_each_network_node_and_guest_once(
    cluster: RealCluster,
    network: Callable[..., Net],
    guests: Guests,
    command: Command,
    tmp_path: Path,
) -> None:
    blue = network("blue", 1)
    address = guests.start("n1", "g1", blue)
    guests.start("n2", "g2", blue)
    cluster.virsh("destroy", "g2")
    picture = tmp_path / "networks.svg"
    assert command("network", "diagram", "--svg", str(picture)) == f"{picture} is written"
    root = etree.fromstring(picture.read_bytes(), etree.XMLParser(resolve_entities=False))
    titles = {
        kind: [
            str(title)
            for title in root.xpath(f"//s:g[@class='{kind}']/s:title/text()", namespaces={"s": NAMESPACE})
        ]
        for kind in ("network", "node", "guest")
    }
    assert titles["node"] == [f"node {node}: up" for node in cluster.nodes]
    assert [title.split("  ·  ")[0] for title in titles["network"]] == ["default", "blue"]
    assert [title.partition(";")[0] for title in titles["guest"]] == ["g1, running", "g2, shut off"]
    assert address in titles["guest"][0]
    shown = command.json("network", "diagram", "--network", "blue")
    assert [net["name"] for net in shown["networks"]] == ["blue"]
    assert [(guest["name"], guest["node"]) for guest in shown["guests"]] == [("g1", "n1"), ("g2", "n2")]
    text = command("network", "diagram", "--network", "blue")
    assert re.search(rf"^blue +g1 +\S+ +{address} +n1 +running$", text, re.M), text
